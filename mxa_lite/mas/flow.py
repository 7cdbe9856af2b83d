"""The containers of the script language: workflow, conditional, loop, graph. All are nodes too."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace
from itertools import pairwise, zip_longest
from typing import Any, Self

from mxa_lite.mas.core import Context, Message, NodeError, WorkflowNode, node_class, step

Condition = Callable[[Context], Any]


def _inner(context: Context) -> Context:
    """A container's own messages over the shared state: only its result leaves it."""
    return replace(context, messages=list(context.messages))


def _holds(condition: Condition | None, context: Context) -> bool:
    """Whether a node's turn has come; a condition that raises does not hold, as in the paper."""
    try:
        return condition is None or bool(condition(context))
    except Exception as error:  # the condition is the script's own; said in its stderr
        print(f"a condition raised {error!r}", file=sys.stderr)
        return False


def _checked(node: WorkflowNode, context: Context) -> Message:
    message = step(node, context)
    if message.failed:
        raise NodeError(message)
    return message


@node_class
class Workflow(WorkflowNode):
    """Nodes one after another, each shown what all earlier ones delivered; an error ends it.

    Instruct models write `Workflow("x", [a, b])`, which the paper's does not take.
    """

    kind = "workflow"
    name: str = "workflow"
    agents: Iterable[WorkflowNode] = ()
    nodes: list[WorkflowNode] = field(init=False, default_factory=list)
    conditions: list[Condition | None] = field(init=False, default_factory=list)
    dataproto_list: list[Any] = field(init=False, default_factory=list)  # the paper's; unused

    def __post_init__(self) -> None:
        self.add_nodes(self.agents or ())

    def add_node(self, node: WorkflowNode, condition: Condition | None = None) -> Self:
        """Adds a node at the end, run only if `condition(context)` holds when its turn comes."""
        self.nodes.append(node)
        self.conditions.append(condition)
        return self

    def add_nodes(self, nodes: Iterable[WorkflowNode]) -> Self:
        for node in nodes:
            self.add_node(node)
        return self

    def process(self, context: Context) -> Message:
        return self._round(_inner(context))

    def _round(self, context: Context) -> Message:
        message = None
        for node, condition in zip_longest(self.nodes, self.conditions):
            if _holds(condition, context):
                message = _checked(node, context)
        if message is None:
            raise ValueError(f"no node of {self.name} ran")
        return message


class ConditionalWorkflow(Workflow):
    """The paper's name for a workflow whose nodes have conditions."""

    kind = "conditional"


@node_class
class LoopWorkflow(Workflow):
    """Runs its nodes at least once, and again while its condition holds.

    `context.state["iteration"]` counts from 0.
    """

    kind = "loop"
    name: str = "loop"
    max_iterations: int = 10
    loop_condition: Condition | None = field(init=False, default=None)

    @staticmethod
    def positions(fields: list[str], args: Sequence[Any]) -> list[str]:
        """A number in the second place is `max_iterations`, as in the paper's order."""
        counted = len(args) > 1 and isinstance(args[1], int)
        return ["name", "max_iterations"] if counted else fields

    def set_loop_condition(self, condition: Condition) -> Self:
        """`condition(context)` after a round says whether there is another."""
        self.loop_condition = condition
        return self

    def process(self, context: Context) -> Message:
        inner = _inner(context)
        for iteration in range(max(self.max_iterations, 1)):
            inner.state["iteration"] = iteration
            message = self._round(inner)
            if not _holds(self.loop_condition, inner):
                break
        return message


@node_class
class AgentGraph(WorkflowNode):
    """Nodes joined by edges, one successor at a time, until a finish point or `max_steps`.

    The first of a node's edges that leads somewhere is taken; without one, or where a function
    raises, the graph ends. Nodes are given as objects or by name, before or after their edges.
    """

    kind = "graph"
    name: str = "graph"
    max_steps: int = 50
    nodes: dict[str, WorkflowNode] = field(init=False, default_factory=dict)
    edges: dict[str, list[Condition]] = field(init=False, default_factory=dict)
    entry_point: str | None = field(init=False, default=None)
    finish_points: set[str] = field(init=False, default_factory=set)

    def add_node(self, node: Any, named: WorkflowNode | None = None) -> Self:
        """Adds a node under its own name, or as `add_node(name, node)`."""
        self.nodes[_name(node)] = named or node
        return self

    def add_edge(self, source: Any, target: Any, condition: Condition | None = None) -> Self:
        def follow(context: Context) -> Any:
            return target if _holds(condition, context) else None

        return self.add_conditional_edges(source, follow)

    def add_conditional_edges(
        self, source: Any, function: Condition, mapping: Mapping[Any, Any] | None = None
    ) -> Self:
        """`function(context)` names the next node, through `mapping` if given; "END" ends."""

        def follow(context: Context) -> Any:
            try:
                chosen = function(context)
            except Exception as error:  # the function is the script's own; said in its stderr
                print(f"graph {self.name}: {error!r}; it ends here", file=sys.stderr)
                return "END"
            return (mapping or {}).get(chosen, chosen)

        self.edges.setdefault(_name(source), []).append(follow)
        return self

    def set_entry_point(self, node: Any) -> Self:
        """Where the graph starts; the first node added if never set."""
        self.entry_point = _name(node)
        return self

    def set_finish_point(self, node: Any) -> Self:
        """A node after which the graph ends; there may be several."""
        self.finish_points.add(_name(node))
        return self

    def process(self, context: Context) -> Message:
        inner = _inner(context)
        name = self.entry_point or next(iter(self.nodes), "")
        for _ in range(max(self.max_steps, 1)):
            if name not in self.nodes:
                raise ValueError(f"graph {self.name} has no node {name}")
            message = _checked(self.nodes[name], inner)
            edges = [] if name in self.finish_points else self.edges.get(name, [])
            chosen = next((to for to in (edge(inner) for edge in edges) if to is not None), "END")
            if chosen in ("END", "__end__"):
                break
            name = _name(chosen)
        return message


def create_simple_chain(*nodes: tuple[str, WorkflowNode]) -> AgentGraph:
    """The paper's graph of (name, node) pairs, each followed by the next."""
    graph = AgentGraph("simple_chain")
    for name, node in nodes:
        graph.add_node(name, node)
    for (source, _), (target, _) in pairwise(nodes):
        graph.add_edge(source, target)
    return graph


def _name(node: Any) -> str:
    return node.name if isinstance(node, WorkflowNode) else str(node)
