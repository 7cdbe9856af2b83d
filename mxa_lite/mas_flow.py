"""The containers of the script language: workflow, conditional, loop, graph. All are nodes too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

from mxa_lite.mas_core import Context, Message, NodeError, WorkflowNode, step

Condition = Callable[[Context], Any]


def _inner(context: Context) -> Context:
    """A container's own messages over the shared state: only its result leaves it."""
    return Context(list(context.messages), context.state, dict(context.metadata))


def _checked(node: WorkflowNode, context: Context) -> Message:
    message = step(node, context)
    if message.failed:
        raise NodeError(message)
    return message


class Workflow(WorkflowNode):
    """Nodes one after another, each shown what all earlier ones delivered; an error ends it."""

    kind = "workflow"

    def __init__(self, name: str = "workflow", *ignored: Any, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.nodes: list[tuple[WorkflowNode, Condition | None]] = []
        self.dataproto_list: list[Any] = []  # the paper's; here the parent keeps trajectories

    def add_node(self, node: WorkflowNode, condition: Condition | None = None) -> Self:
        """Adds a node at the end, run only if `condition(context)` holds when its turn comes."""
        if not isinstance(node, WorkflowNode):
            raise TypeError(f"{node!r} is not a node")
        self.nodes.append((node, condition))
        return self

    def add_nodes(self, nodes: Iterable[WorkflowNode]) -> Self:
        for node in nodes:
            self.add_node(node)
        return self

    def process(self, context: Context) -> Message:
        return self._round(_inner(context))

    def _round(self, context: Context) -> Message:
        message = None
        for node, condition in self.nodes:
            if condition is None or condition(context):
                message = _checked(node, context)
        if message is None:
            raise ValueError(f"no node of {self.name} ran")
        return message


class ConditionalWorkflow(Workflow):
    """The paper's name for a workflow whose nodes have conditions."""

    kind = "conditional"


class LoopWorkflow(Workflow):
    """Runs its nodes at least once, and again while its condition holds.

    `context.state["iteration"]` counts from 0.
    """

    kind = "loop"

    def __init__(
        self, name: str = "loop", max_iterations: int = 10, *ignored: Any, **kwargs: Any
    ) -> None:
        super().__init__(name, **kwargs)
        self.max_iterations = max_iterations
        self.condition: Condition | None = None

    def set_loop_condition(self, condition: Condition) -> Self:
        """`condition(context)` after a round says whether there is another."""
        self.condition = condition
        return self

    def process(self, context: Context) -> Message:
        inner = _inner(context)
        for iteration in range(max(self.max_iterations, 1)):
            inner.state["iteration"] = iteration
            message = self._round(inner)
            if self.condition is not None and not self.condition(inner):
                break
        return message


class AgentGraph(WorkflowNode):
    """Nodes joined by edges, one successor at a time, until a finish point or `max_steps`.

    After a node its conditional edges decide, else its first edge whose condition holds; without a
    successor the graph ends. Nodes are given as objects or by name, before or after their edges.
    """

    kind = "graph"

    def __init__(self, name: str = "graph", max_steps: int = 50, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.max_steps = max_steps
        self.nodes: dict[str, WorkflowNode] = {}
        self.edges: dict[str, list[tuple[str, Condition | None]]] = {}
        self.choices: dict[str, tuple[Condition, Mapping[Any, Any]]] = {}
        self.entry: str | None = None
        self.finish: set[str] = set()

    def add_node(self, node: WorkflowNode | str, named: WorkflowNode | None = None) -> Self:
        """Adds a node under its own name, or as `add_node(name, node)`."""
        added = node if named is None else named
        if not isinstance(added, WorkflowNode):
            raise TypeError(f"{added!r} is not a node")
        self.nodes[_name(node)] = added
        return self

    def add_edge(self, source: Any, target: Any, condition: Condition | None = None) -> Self:
        self.edges.setdefault(_name(source), []).append((_name(target), condition))
        return self

    def add_conditional_edges(
        self, source: Any, function: Condition, mapping: Mapping[Any, Any] | None = None
    ) -> Self:
        """`function(context)` names the next node, through `mapping` if given; None ends."""
        self.choices[_name(source)] = (function, mapping or {})
        return self

    def set_entry_point(self, node: Any) -> Self:
        """Where the graph starts; the first node added if never set."""
        self.entry = _name(node)
        return self

    def set_finish_point(self, node: Any) -> Self:
        """A node after which the graph ends; there may be several."""
        self.finish.add(_name(node))
        return self

    def process(self, context: Context) -> Message:
        inner = _inner(context)
        name: str | None = self.entry or next(iter(self.nodes), None)
        for _ in range(max(self.max_steps, 1)):
            if name not in self.nodes:
                raise ValueError(f"graph {self.name} has no node {name}")
            message = _checked(self.nodes[name], inner)
            name = None if name in self.finish else self._next(name, inner)
            if name is None:
                break
        return message

    def _next(self, name: str, context: Context) -> str | None:
        if name in self.choices:
            function, mapping = self.choices[name]
            chosen = function(context)
            chosen = mapping.get(chosen, chosen)
            return None if chosen in (None, "END", "__end__") else _name(chosen)
        edges = self.edges.get(name, [])
        return next((to for to, holds in edges if holds is None or holds(context)), None)


def _name(node: Any) -> str:
    return node.name if isinstance(node, WorkflowNode) else str(node)
