"""The containers of the script language: workflow, conditional, loop, graph. All are nodes too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mxa_lite.mas_core import Context, Message, MessageType, NodeError, WorkflowNode, step

Condition = Callable[[Context], Any]


class Workflow(WorkflowNode):
    """Nodes one after another, each shown what all earlier ones delivered; an error ends it."""

    kind = "workflow"

    def __init__(
        self,
        name: str = "workflow",
        ai_client: Any = None,
        tokenizer: Any = None,
        server_address: Any = None,
        ppo_trainer_config: Any = None,
        enable_thinking: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self.nodes: list[WorkflowNode] = []
        self.dataproto_list: list[Any] = []  # the paper's; trajectories are kept by the parent

    def add_node(self, node: WorkflowNode) -> Workflow:
        """Adds a node at the end."""
        self.nodes.append(node)
        return self

    def add_nodes(self, nodes: Iterable[WorkflowNode]) -> Workflow:
        """Adds nodes at the end."""
        self.nodes.extend(nodes)
        return self

    def process(self, context: Context) -> Message:
        return self._sequence(context.copy(share_state=True))

    def _sequence(self, context: Context) -> Message:
        """Runs the nodes that are due in `context`; the last message."""
        message = None
        for position, node in enumerate(self.nodes):
            if self._due(position, context):
                message = checked_step(node, context)
        if message is None:
            raise ValueError(f"no node of {self.name} ran")
        return message

    def _due(self, position: int, context: Context) -> bool:
        return True


def checked_step(node: WorkflowNode, context: Context) -> Message:
    """Runs a node in a container; NodeError when it failed."""
    message = step(node, context)
    if message.message_type is MessageType.ERROR:
        raise NodeError(str(message))
    return message


class ConditionalWorkflow(Workflow):
    """A workflow whose nodes run only if their condition holds when their turn comes."""

    kind = "conditional"

    def __init__(self, name: str = "conditional", *args: Any, **kwargs: Any) -> None:
        super().__init__(name, *args, **kwargs)
        self.conditions: dict[int, Condition] = {}

    def add_node(
        self, node: WorkflowNode, condition: Condition | None = None
    ) -> ConditionalWorkflow:
        """Adds a node, run if `condition(context)` is true, always without one."""
        if condition is not None:
            self.conditions[len(self.nodes)] = condition
        super().add_node(node)
        return self

    def _due(self, position: int, context: Context) -> bool:
        condition = self.conditions.get(position)
        return condition is None or bool(condition(context))


class LoopWorkflow(Workflow):
    """A workflow that runs at least once and again while its condition holds.

    `context.state["iteration"]` counts from 0.
    """

    kind = "loop"

    def __init__(
        self, name: str = "loop", max_iterations: int = 10, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(name, *args, **kwargs)
        self.max_iterations = max_iterations
        self.condition: Condition | None = None

    def set_loop_condition(self, condition: Condition) -> LoopWorkflow:
        """`condition(context)` after a round says whether there is another."""
        self.condition = condition
        return self

    def process(self, context: Context) -> Message:
        inner = context.copy(share_state=True)
        for iteration in range(max(self.max_iterations, 1)):
            inner.state["iteration"] = iteration
            message = self._sequence(inner)
            if self.condition is not None and not self.condition(inner):
                break
        return message


class AgentGraph(WorkflowNode):
    """Nodes joined by edges, one successor at a time, until a finish point or `max_steps`.

    After a node its conditional edges decide, then its plain edges in order: the first whose
    condition holds. Without a successor the graph ends.
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

    def add_node(self, node: WorkflowNode | str, named: WorkflowNode | None = None) -> AgentGraph:
        """Adds a node under its own name, or as `add_node(name, node)`."""
        added = named if named is not None else node
        if not isinstance(added, WorkflowNode):
            raise TypeError("add_node needs a node")
        self.nodes[_name(node)] = added
        return self

    def add_edge(self, source: Any, target: Any, condition: Condition | None = None) -> AgentGraph:
        """An edge between two nodes (or their names), taken if `condition(context)` is true."""
        self.edges.setdefault(_name(source), []).append((_name(target), condition))
        return self

    def add_conditional_edges(
        self, source: Any, function: Condition, mapping: Mapping[Any, Any] | None = None
    ) -> AgentGraph:
        """`function(context)` names the next node, through `mapping` if given; None ends."""
        self.choices[_name(source)] = (function, mapping or {})
        return self

    def set_entry_point(self, node: Any) -> AgentGraph:
        """Where the graph starts; the first node added if never set."""
        self.entry = _name(node)
        return self

    def set_finish_point(self, node: Any) -> AgentGraph:
        """A node after which the graph ends; there may be several."""
        self.finish.add(_name(node))
        return self

    def process(self, context: Context) -> Message:
        if not self.nodes:
            raise ValueError(f"graph {self.name} has no nodes")
        inner = context.copy(share_state=True)
        name: str | None = self.entry or next(iter(self.nodes))
        for _ in range(max(self.max_steps, 1)):
            if name not in self.nodes:
                raise ValueError(f"graph {self.name} has no node {name!r}")
            message = checked_step(self.nodes[name], inner)
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
        for target, condition in self.edges.get(name, []):
            if condition is None or condition(context):
                return target
        return None


def _name(node: Any) -> str:
    return node.name if isinstance(node, WorkflowNode) else str(node)
