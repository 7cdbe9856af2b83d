"""A look at a script before it runs: for speed and a clear outcome, not for safety."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mxa_lite.mas import script as mas
from mxa_lite.tree import Outcome

MAX_CHARS = 64_000
_MANY = 1_000_000
_FLOWS = ("Workflow", "ConditionalWorkflow", "LoopWorkflow", "AgentGraph")
_KINDS = {kind: kind for kind in ("Agent", "Ensemble", "Debate", "Reflection", "Router")}
_KINDS |= {f"{kind}Node": kind for kind in _KINDS} | {kind: kind for kind in _FLOWS}
_ARGUMENTS = {
    "Ensemble": ("name", "agents", "strategy", "consensus_agent"),
    "Debate": ("name", "debaters", "judge", "num_rounds"),
    "Reflection": ("name", "agent"),
}
_GROWING = ("add_node", "add_nodes")
_UNCERTAIN = (ast.Lambda, ast.IfExp, ast.BoolOp, ast.ListComp, ast.DictComp, ast.GeneratorExp)
_PATTERNS = {"Debate": "debate", "Reflection": "reflect", "Router": "router", "Ensemble": "vote"}


@dataclass(frozen=True)
class Checked:
    """outcome: None if the script may run. min_calls: calls it makes at least."""

    outcome: Outcome | None
    error: str | None
    pattern: str
    min_calls: int


def check(source: str, max_calls: int) -> Checked:
    """Parses a script; refuses unknown imports, sheer size, and a budget it must exceed."""
    if len(source) > MAX_CHARS:
        error = f"the script has {len(source)} characters, allowed are {MAX_CHARS}"
        return Checked(Outcome.REJECTED, error, "other", 0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in a script
            tree = ast.parse(source)
            compile(tree, "script.py", "exec")
        found, calls = pattern(tree), min_calls(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Checked(Outcome.SYNTAX_ERROR, f"{type(error).__name__}: {error}", "other", 0)
    refused = next(_unknown_imports(tree), None)
    if refused is None and calls > max_calls:
        refused = f"the script makes at least {calls} calls, allowed are {max_calls}"
    return Checked(Outcome.REJECTED if refused else None, refused, found, calls)


def _unknown_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = ["." * node.level + (node.module or "")]
            for alias in node.names if node.module in mas.MODULES else ():
                if alias.name != "*" and not hasattr(mas, alias.name):
                    yield f"unknown import {alias.name} from {node.module}"
        for module in modules:
            if module not in mas.MODULES and module.split(".")[0] not in sys.stdlib_module_names:
                yield f"unknown import {module}"


def _called(node: ast.AST) -> str:
    """The last name of what a call calls: `Agent` in `mas.Agent(...)`."""
    func = getattr(node, "func", None)
    return str(getattr(func, "attr", getattr(func, "id", "")))


def pattern(tree: ast.AST) -> str:
    """The design's pattern, by the nodes it builds and how many stages it runs them in."""
    nodes = list(ast.walk(tree))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    built = [_KINDS[_called(call)] for call in calls if _called(call) in _KINDS]
    features = {_PATTERNS[kind] for kind in built if kind in _PATTERNS}
    assigned = [n for n in nodes if isinstance(n, ast.Assign) and _called(n.value) in _KINDS]
    names = {getattr(target, "id", "?") for node in assigned for target in node.targets}
    direct = [c for c in calls if _called(c) in names or _called(c.func) in _KINDS]
    stages = len(direct) + sum(_called(call) == "add_node" for call in calls)
    stages += 2 * sum(_called(call) == "add_nodes" for call in calls)
    if len(features) > 1 or set(built) & set(_FLOWS[1:]) or (features and stages > 1):
        return "mixed"
    if features == {"vote"}:
        judged = any(isinstance(n, ast.Constant) and n.value == "consensus" for n in nodes)
        return "judge" if judged else "vote"
    if features:
        return features.pop()
    loops = [node for node in nodes if isinstance(node, (ast.For, ast.While, ast.comprehension))]
    if not built or (direct and loops):
        return "other"
    return "chain" if stages > 1 else "single"


def min_calls(tree: ast.Module) -> int:
    """A lower bound of a script's calls, if nothing in it raises.

    Only what surely runs is counted: statements at the top level, with nodes built there.
    """
    if any(_called(part) == "AgentGraph" for part in ast.walk(tree)):
        return 0  # it runs only some of its nodes
    costs: dict[str, int] = {}  # name -> the calls that one visit of its node makes
    calls, body = 0, list(tree.body)
    while body:
        node = body.pop(0)
        parts = list(ast.walk(node))
        names = [n.id for n in parts if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        cost = 0
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.append(node.name)
        elif isinstance(node, ast.If) and "__main__" in ast.dump(node.test):
            body = node.body + body
        elif isinstance(node, (ast.Assign, ast.Expr)):
            calls += sum(_cost(_visited(part), costs) for part in _certain(node.value))
            if isinstance(node, ast.Expr):  # w.add_node(a)
                names += [_root(node.value)] if _called(node.value) in _GROWING else []
                cost = _cost(node.value, costs)
            elif all(isinstance(target, ast.Name) for target in node.targets):
                cost = _cost(node.value, costs)
        costs |= dict.fromkeys(names, cost)
    return calls


def _certain(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of an expression that are evaluated whenever it is."""
    yield node
    if not isinstance(node, _UNCERTAIN):
        for child in ast.iter_child_nodes(node):
            yield from _certain(child)


def _visited(node: ast.AST) -> ast.AST | None:
    """What a call runs if it runs a node: `a` in `a(question)`, `w` in `w.run(question)`."""
    func = getattr(node, "func", None)
    if isinstance(func, ast.Attribute):
        return func.value if func.attr == "run" else None
    return func


def _root(node: ast.AST) -> str:
    """The name that a chain of calls starts with: `w` in `w.add_node(a).add_node(b)`."""
    while isinstance(node, (ast.Call, ast.Attribute)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return getattr(node, "id", "")


def _times(cost: int, times: Any) -> int:
    return min(cost * max(times, 0), _MANY) if isinstance(times, int) else 0


def _cost(node: ast.AST | None, costs: dict[str, int]) -> int:
    """The calls that one visit of the node, or of all in the list, that `node` builds makes."""
    if isinstance(node, ast.Name):
        return costs.get(node.id, 0)
    if isinstance(node, (ast.List, ast.Tuple)):
        return sum(_cost(item, costs) for item in node.elts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _times(_cost(node.left, costs), getattr(node.right, "value", 0))
    if not isinstance(node, ast.Call):
        return 0
    name = _called(node)
    if name in _GROWING and isinstance(node.func, ast.Attribute):
        added = _cost(node.args[0], costs) if len(node.args) == 1 and not node.keywords else 0
        return _cost(node.func.value, costs) + added
    kind = "" if name in costs else _KINDS.get(name, "")
    given = dict(zip(_ARGUMENTS.get(kind, ()), node.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    if kind == "Ensemble":
        judged = getattr(given.get("strategy"), "value", "") == "consensus"
        return _cost(given.get("agents"), costs) + judged * _cost(
            given.get("consensus_agent"), costs
        )
    if kind == "Debate":
        rounds = given.get("num_rounds", ast.Constant(2))
        return _times(_cost(given.get("debaters"), costs), getattr(rounds, "value", 0))
    return _cost(given.get("agent"), costs) if kind == "Reflection" else int(kind == "Agent")
