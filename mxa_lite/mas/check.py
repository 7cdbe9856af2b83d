"""A look at a script before it runs: for speed and a clear outcome, not for safety."""

from __future__ import annotations

import ast
import itertools
import sys
import warnings
from collections.abc import Collection, Iterator
from typing import NamedTuple

from mxa_lite.mas import script as mas
from mxa_lite.texts.answers import MAX_SCRIPT
from mxa_lite.tree import Outcome

_FLOWS = ("Workflow", "ConditionalWorkflow", "LoopWorkflow", "AgentGraph")
_NODES = ("Agent", "Ensemble", "Debate", "Reflection", "Router", "Pipeline", "Map")
_KINDS = {kind: kind for kind in _NODES}
_KINDS |= {f"{kind}Node": kind for kind in _KINDS} | {kind: kind for kind in _FLOWS}
_KINDS["Vote"] = "Ensemble"
_PATTERNS = {"Debate": "debate", "Reflection": "reflect", "Router": "router", "Ensemble": "vote"}
_PATTERNS |= {"Pipeline": "pipeline", "Map": "map"}


class Checked(NamedTuple):
    """outcome: None if the script may run."""

    outcome: Outcome | None
    error: str | None
    pattern: str


def check(source: str, names: Collection[str] = ()) -> Checked:
    """Parses a script; refuses imports that must fail, and sheer size.

    names: what `rollout.nodes` adds to the language, importable as the built-in nodes are.
    """
    if len(source) > MAX_SCRIPT:
        error = f"the script has {len(source)} characters, allowed are {MAX_SCRIPT}"
        return Checked(Outcome.REJECTED, error, "other")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in a script
            tree = ast.parse(source, "script.py")
            compile(tree, "script.py", "exec")
        kind = pattern(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Checked(Outcome.SYNTAX_ERROR, f"{type(error).__name__}: {error}", "other")
    refused = next(itertools.chain(_unknown_imports(tree, names), _redefined(tree)), None)
    return Checked(Outcome.REJECTED if refused else None, refused, kind)


def _unknown_imports(tree: ast.AST, names: Collection[str]) -> Iterator[str]:
    guarded = {id(node) for attempt in ast.walk(tree) for node in _guarded(attempt)}
    for node in ast.walk(tree):
        if id(node) in guarded or not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        modules = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            modules = ["." * node.level + (node.module or "")]
            for alias in node.names if node.module in mas.MODULES else ():
                if alias.name not in ("*", *names) and not hasattr(mas, alias.name):
                    yield f"unknown import {alias.name} from {node.module}, line {node.lineno}"
        for module in modules:
            if module not in mas.MODULES and module.split(".")[0] not in sys.stdlib_module_names:
                yield f"unknown import {module}, line {node.lineno}"


def _redefined(tree: ast.AST) -> Iterator[str]:
    """Nodes of the language that a script defines itself: its agents would call no model."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name in _KINDS:
            again = f"the script redefines {node.name}, which the language has already"
            yield f"{again}, line {node.lineno}"


def _guarded(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes in the body of a `try` with a handler: what fails to import there is handled."""
    if isinstance(node, ast.Try) and node.handlers:
        for statement in node.body:
            yield from ast.walk(statement)


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
    names = {"ask", *(getattr(target, "id", "?") for node in assigned for target in node.targets)}
    direct = [c for c in calls if _called(c) in names or _called(c.func) in _KINDS]
    stages = len(direct) + sum(_called(call) == "add_node" for call in calls)
    stages += 2 * sum(_called(call) == "add_nodes" for call in calls)
    listed = [argument for call in calls if _called(call) in _FLOWS for argument in call.args]
    stages += sum(len(items.elts) for items in listed if isinstance(items, (ast.List, ast.Tuple)))
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
