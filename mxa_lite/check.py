"""A look at a script before it runs: for speed and a clear outcome, not for safety."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mxa_lite import mas
from mxa_lite.tree import Outcome

MAX_CHARS = 64_000
_MANY = 1_000_000
_FLOWS = ("Workflow", "ConditionalWorkflow", "LoopWorkflow", "AgentGraph")
_KINDS = {kind: kind for kind in ("Agent", "Ensemble", "Debate", "Reflection", "Router")}
_KINDS |= {f"{kind}Node": kind for kind in _KINDS} | {kind: kind for kind in _FLOWS}
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

    What it cannot be sure of (branches, functions, unknown values) counts as 0.
    """
    reader = _Reader()
    reader.block(tree.body)
    return reader.calls


@dataclass
class _Cost:
    """A node or a list of nodes: the calls of one visit of all; of a list also its length."""

    calls: int = 0
    count: int = 0


class _Reader:
    """Reads statements in order: what names stand for, and the calls made so far."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.calls = 0

    def block(self, body: list[ast.stmt]) -> None:
        for node in body:
            parts = list(ast.walk(node))
            stored = [n.id for n in parts if isinstance(n, ast.Name) and _stored(n)]
            value = self.value(node.value) if isinstance(node, (ast.Assign, ast.Expr)) else None
            self.names |= dict.fromkeys(stored)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.names[node.targets[0].id] = value
            elif isinstance(node, ast.If) and "__main__" in ast.dump(node.test):
                self.block(node.body)
            elif isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                self.names[node.name] = None
            elif isinstance(node, ast.For):
                cut = any(isinstance(part, (ast.Break, ast.Continue)) for part in parts)
                times = 0 if cut else self._times(node.iter)
                before = self.calls
                self.block(node.body)
                self.calls = before + (self.calls - before) * times
                self.names |= dict.fromkeys(stored)

    def _times(self, node: ast.expr) -> int:
        """How often a loop over `node` runs at least."""
        if isinstance(node, ast.Call) and _called(node) == "range" and len(node.args) == 1:
            bound = self.value(node.args[0])
            return min(max(bound, 0), _MANY) if isinstance(bound, int) else 0
        found = self.value(node)
        return found.count if isinstance(found, _Cost) else 0

    def value(self, node: ast.expr) -> Any:
        """What an expression is: a _Cost, a constant or None; adds the calls it makes."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, (ast.List, ast.Tuple)):
            costs = [_calls(self.value(item)) for item in node.elts]
            return _Cost(sum(costs), len(costs))
        if isinstance(node, ast.BinOp):
            left, right = self.value(node.left), self.value(node.right)
            if isinstance(left, _Cost) and isinstance(right, int) and isinstance(node.op, ast.Mult):
                times = min(max(right, 0), _MANY)
                return _Cost(left.calls * times, left.count * times)
        elif isinstance(node, ast.ListComp):
            loop, *more = node.generators
            times = 0 if loop.ifs or more else self._times(loop.iter)
            before, cost = self.calls, _calls(self.value(node.elt))
            self.calls = before + (self.calls - before) * times
            return _Cost(cost * times, times)
        return None

    def _call(self, node: ast.Call) -> Any:
        name, func = _called(node), node.func
        given: dict[Any, Any] = {i: self.value(argument) for i, argument in enumerate(node.args)}
        given |= {keyword.arg: self.value(keyword.value) for keyword in node.keywords}
        if name in _KINDS and name not in self.names:
            return None if name == "AgentGraph" else _Cost(_visit(_KINDS[name], given))
        target = self.value(func.value if isinstance(func, ast.Attribute) else func)
        if not isinstance(target, _Cost):
            return None
        if not isinstance(func, ast.Attribute) or name == "run":
            self.calls += target.calls
            return None
        if name in ("add_node", "add_nodes") and len(given) == 1:
            target.calls += _calls(given.get(0))
        return target


def _stored(name: ast.Name) -> bool:
    return not isinstance(name.ctx, ast.Load)


def _calls(value: Any) -> int:
    return value.calls if isinstance(value, _Cost) else 0


def _visit(kind: str, given: dict[Any, Any]) -> int:
    """The calls of one visit of a node, from the arguments it is built with."""

    def argument(position: int, name: str, default: Any = None) -> Any:
        return given.get(position, given.get(name, default))

    if kind == "Ensemble":
        judged = argument(2, "strategy") == "consensus"
        return _calls(argument(1, "agents")) + judged * _calls(argument(3, "consensus_agent"))
    if kind == "Debate":
        rounds, debaters = argument(3, "num_rounds", 2), argument(1, "debaters")
        return _calls(debaters) * (rounds if isinstance(rounds, int) else 1)
    if kind == "Reflection":
        return _calls(argument(1, "agent"))
    return int(kind == "Agent")
