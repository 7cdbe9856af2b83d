"""Whether a program passes unit tests it cannot cheat, because the right values are never near it.

The *judge*, a sandbox program, holds the tests and none of the answer. Where a test calls the
answer's code it notes the operation and goes on with a stand-in. The *probe*, another program,
holds the answer and no expected value, runs all noted operations in order and sends back what each
gave, as plain literals. Then the judge runs again with these, until it notes what the probe has
run. So a result with an `__eq__` of its own, a look into the frames above, a patched library or an
early exit gains nothing: the right values are the only way to pass. Objects with a state, mutated
arguments and exceptions come out right, as the operations are those of the test. Programs that read
stdin are judged by what they print.
"""

from __future__ import annotations

import ast
import builtins
import json
import re
import symtable
import sys
from collections.abc import Generator
from typing import Any

from mxa_lite.sandbox.box import Ended
from mxa_lite.tasks.grade_sides import JUDGE, PROBE, SHARED
from mxa_lite.tree import Outcome, Question

Programs = list[tuple[str, str]]  # (source, stdin)
# Of one test: whether it passed, None where it cannot be judged; and what was the matter.
Check = tuple[bool | None, str]
Grading = Generator[Programs, Any, list[Check]]  # is sent list[Ended]; one check per test

_ROUNDS = 8  # operations that depend on what earlier ones gave need a round each
_MARK = "\x1evalues "
_USES = (  # builtins that the judge's stand-ins ask for
    "setattr", "len", "next", "isinstance", "int", "bool", "float", "str", "repr", "abs", "round",
    "hash", "iter", "issubclass",
)  # fmt: skip

# What LeetCode has imported before a solution runs; the runners of the field put it there too.
USUAL = """
import bisect, collections, copy, functools, heapq, itertools, math, operator, random, re
import string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
from builtins import *
"""


def _run(text: str, **names: Any) -> Generator[Programs, list[Ended], Any]:
    """What a program with data in it prints last under the mark, or None.

    The data is JSON, so nothing in it is code.
    """
    data = json.dumps(json.dumps({"mark": _MARK, **names}))
    (result,) = yield [(f"{SHARED}\nglobals().update(json.loads({data}))\n{text}", "")]
    _, mark, line = result.stdout.rpartition(_MARK)
    try:
        return json.loads(line) if mark and _ended_well(result) else None
    except (ValueError, RecursionError):
        return None


def _ended_well(result: Ended) -> bool:
    return result.outcome is Outcome.OK and result.exit_code == 0


def _names(source: str) -> tuple[set[str], set[str]]:
    """Names that a piece of code takes from outside, and names that it binds."""
    tables = [symtable.symtable(source, "tests.py", "exec")]
    for table in tables:
        tables += table.get_children()
    bound = {s.get_name() for s in tables[0].get_symbols() if s.is_assigned() or s.is_imported()}
    referenced = {s.get_name() for t in tables for s in t.get_symbols() if s.is_global()}
    return referenced - bound, bound


def _root(node: ast.AST) -> str | None:
    """`f` of `f(x)`, `f.g(x)[0]` and the like."""
    while isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


class _Checks(ast.NodeTransformer):
    """Turns asserts into `_check(...)`, and the answer's calls in a lone assert into `_ask(...)`.

    names: the answer's. outside: these and others that the probe knows too.
    """

    def __init__(self, names: set[str], outside: set[str]) -> None:
        self.names, self.outside = names, outside

    def visit_Assert(self, node: ast.Assert) -> ast.Expr:
        self.generic_visit(node)
        return ast.Expr(ast.Call(ast.Name("_check", ast.Load()), [node.test], []))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        source, root = ast.unparse(node), str(_root(node))
        # `f(1).startswith("a")` is not one operation: it would show the answer what is right
        whole = root[0].isupper() or not any(isinstance(n, ast.Call) for n in ast.walk(node.func))
        if whole and root in self.names and _names(source)[0] <= self.outside:
            return ast.Call(ast.Name("_ask", ast.Load()), [ast.Constant(source)], [])
        return self.generic_visit(node)

    def source(self, test: str) -> str:
        """The test as the judge runs it."""
        tree = ast.parse(test)
        lone = len(tree.body) == 1 and isinstance(tree.body[0], ast.Assert)
        checks = self if lone else _Checks(set(), set())
        return ast.unparse(ast.fix_missing_locations(checks.visit(tree)))


def _asserts(question: Question, tests: list[str], answer: str) -> Grading:
    before, setup = question.meta.get("before", ""), question.meta.get("setup", "")
    trees = [ast.parse(text) for text in (before, setup, *tests)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    bases = {_root(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    modules = {str(base) for base in bases} & sys.stdlib_module_names
    classes = {node.name for node in trees[1].body if isinstance(node, ast.ClassDef)}
    available = {*dir(builtins)} | modules | _names(before)[1] - {question.meta.get("entry")}
    ours = available | _names(setup)[1] - classes
    names = {name for test in (setup, *tests) for name in _names(test)[0]} - ours | classes
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    names = names or {str(_root(call)) for call in calls}  # a function called like a builtin one
    caught = {
        name for node in nodes if isinstance(node, ast.ExceptHandler) for name in _caught(node)
    }
    caught = names & (caught | {name for name in names if re.search("(Error|Exception)$", name)})
    if "Solution" in names:
        before = f"{USUAL}\n{before}"
    imports = "".join(f"import {name}\n" for name in sorted(modules)) + before
    sources = [_Checks(names, names | available).source(test) for test in tests]
    data = {"tests": sources, "names": sorted(names - caught), "caught": sorted(caught)}
    transcript: list[Any] = []
    results: list[Any] = []
    checks: list[Check] = []
    failed_setup = ""
    for turn in range(_ROUNDS):
        judged = yield from _run(JUDGE, **data, setup=f"{imports}\n{setup}", known=results)
        if not judged:
            return [(False, "the tests end their own program")] * len(tests)
        checks, operations = judged
        if turn == 0:  # nothing of the answer was known, so it has no say in this
            left_out = {index: failure for index, (ok, failure) in enumerate(checks) if ok is None}
        if operations == transcript or len(left_out) == len(tests):
            break
        sides = {"before": imports, "answer": answer, "setup": setup, "uses": _USES}
        report = yield from _run(PROBE, **sides, transcript=operations)
        try:
            results = [
                [[*operation, *value] for operation, value in zip(*pair, strict=True)]
                for pair in zip(operations, report["results"], strict=True)
            ]
            failed_setup = f"; its setup failed: {report['setup']}" if report["setup"] else ""
        except (LookupError, TypeError, ValueError):  # the answer ended it, or wrote its report
            checks = [(False, "the program ends before its tests do")] * len(tests)
            break
        transcript = operations
    else:
        checks = [(False, f"after {_ROUNDS} rounds it still asks for more")] * len(tests)
    for index, (test, (passed, failure)) in enumerate(zip(tests, checks, strict=True)):
        if passed and not can_fail(test):
            checks[index] = False, "it could not fail"
        elif not passed:
            checks[index] = False, failure + failed_setup
    return [(None, left_out[i]) if i in left_out else check for i, check in enumerate(checks)]


def _caught(handler: ast.ExceptHandler) -> set[str]:
    nodes = ast.walk(handler.type) if handler.type else ()
    return {node.id for node in nodes if isinstance(node, ast.Name)}


def can_fail(test: str) -> bool:
    """Whether a test's code checks anything: `f(1) == 2` and `assert (f(1) == 2, "text")` do not.

    Raises SyntaxError.
    """
    for node in ast.walk(ast.parse(test)):
        if isinstance(node, ast.Assert):
            full = isinstance(node.test, ast.Tuple) and node.test.elts
            true = isinstance(node.test, ast.Constant) and node.test.value
            if not full and not true:
                return True
        method = getattr(node, "attr", "")
        if isinstance(node, ast.Raise) or method.startswith(("assert", "raises")):
            return True
    return False


def is_test(test: Any) -> bool:
    """Whether it has the form of a test."""
    return isinstance(test, str) or (
        isinstance(test, dict) and all(isinstance(test.get(k), str) for k in ("input", "output"))
    )


def _printed(result: Ended, expected: str) -> Check:
    """Same lines, whatever the spaces between words and at the ends."""
    if not _ended_well(result):
        last = result.stderr.strip().splitlines()[-1:] or [f"exit code {result.exit_code}"]
        return False, f"{result.outcome}: {last[0]}"
    printed, right = (
        [line.split() for line in text.strip().splitlines()] for text in (result.stdout, expected)
    )
    return printed == right, "" if printed == right else "it prints something else"


def passes(question: Question, answer: str, all_tests: bool = False) -> Grading:
    """One check per test of the question; a driver runs the programs it yields.

    answer: the program. all_tests: go on after the first stdin test that fails (for a pass ratio).
    Raises SyntaxError or ValueError when an assert does not parse.
    """
    asserts = [test for test in question.tests if isinstance(test, str)]
    pairs = [test for test in question.tests if not isinstance(test, str)]
    checks = (yield from _asserts(question, asserts, answer)) if asserts else []
    for batch in (pairs[:1], pairs[1:]):
        if batch and (all_tests or all(passed is not False for passed, _ in checks)):
            results = yield [(answer, test["input"]) for test in batch]
            checks += [_printed(r, test["output"]) for r, test in zip(results, batch, strict=True)]
        else:
            checks += [(False, "not run, as one before it failed")] * len(batch)
    return checks
