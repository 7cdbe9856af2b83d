"""Whether a program passes unit tests it cannot cheat, because the right values are never near it.

The answer runs in the sandbox in a *probe*, which holds the calls of the tests and no expected
value, and sends back plain literals. Asserts are judged elsewhere: `call == literal` here, anything
else in a second sandbox that holds the test's own code and none of the answer. So a result with an
`__eq__` of its own, a look into the frames above, a patched library or an early exit gains nothing:
the right values are the only way to pass. Programs that read stdin are judged by what they print.
"""

from __future__ import annotations

import ast
import builtins
import json
import sys
from collections.abc import Generator
from typing import Any

from mxa_lite.sandbox import CodeResult
from mxa_lite.tree import Outcome, Question

Programs = list[tuple[str, str]]  # (source, stdin)
Grading = Generator[Programs, Any, list[bool]]  # is sent list[CodeResult]; one bool per test

_ROUNDS = 4  # calls whose arguments come from earlier calls need a round each
_MARK = "\x1evalues "
_BUILTINS = frozenset(dir(builtins))

# What both sides share: values as the text of a literal, independent of overridden methods.
_ENCODE = """
import io, json, sys
def encode(v):
    for kind in (bool, int, float, complex, str, bytes):
        if isinstance(v, kind):
            return kind.__repr__(v)
    if v is None:
        return "None"
    if isinstance(v, tuple):
        return "(" + "".join(encode(x) + "," for x in tuple.__iter__(v)) + ")"
    if isinstance(v, list):
        return "[" + ",".join(encode(x) for x in list.__iter__(v)) + "]"
    if isinstance(v, dict):
        return "{" + ",".join(f"{encode(k)}:{encode(x)}" for k, x in dict.items(v)) + "}"
    if isinstance(v, set | frozenset):
        return "{" + ",".join(sorted(encode(x) for x in list(v))) + "}" if len(v) else "set()"
    raise TypeError(f"not plain data: {type(v)}")
"""

_PROBE = """
out, sys.stdout, space = sys.stdout, io.StringIO(), {"__name__": "answer"}
for part in before, answer, setup:
    exec(compile(part, "answer.py", "exec"), space)
values = []
for call in calls:
    try:
        values.append(encode(eval(call, space)))
    except Exception:
        values.append(None)
print("\\n" + mark + json.dumps(values), file=out)
"""

# A call not yet asked is noted, and a hole stands in that most test code can go on with; asserts
# have become `_check(...)`, which goes on too, so that one round finds all calls.
_JUDGE = """
import random
class Hole:
    def __getattr__(self, name):
        return lambda *a: self
    def __float__(self):
        return 0.0
    def __iter__(self):
        return iter(())
for name in "add radd sub rsub mul rmul truediv mod neg abs round getitem call".split():
    setattr(Hole, f"__{name}__", lambda self, *a: self)
for name in "lt le gt ge contains".split():
    setattr(Hole, f"__{name}__", lambda self, *a: True)
inf, nan = float("inf"), float("nan")
def _ask(call):
    if call not in known:
        missing.append(call)
        return Hole()
    return eval(known[call])[0]  # "0" stands for no value, and has no [0]
def _check(value):
    passed[-1] = bool(value) and passed[-1]
def stand_in(name):
    return lambda *args: _ask(f"{name}(*{encode(args)})")
out, sys.stdout, missing, passed = sys.stdout, io.StringIO(), [], []
for test in tests:
    random.seed(0)
    passed.append(True)
    before, space = len(missing), {"__name__": "tests"}
    try:
        exec(setup, space)
        space |= {"_ask": _ask, "_check": _check} | {name: stand_in(name) for name in names}
        exec(test, space)
        _check(len(missing) == before)
    except Exception:
        passed[-1] = False
print("\\n" + mark + json.dumps([passed, missing]), file=out)
"""


def _program(text: str, **names: Any) -> str:
    """A program with data in it; the data is JSON, so nothing in it is code."""
    data = json.dumps(json.dumps(names))
    return f"{_ENCODE}\nglobals().update(json.loads({data}))\n{text}"


def _reported(result: CodeResult) -> Any:
    """What a program printed last under the mark, or None."""
    _, mark, line = result.stdout.rpartition(_MARK)
    if not mark or result.outcome is not Outcome.OK or result.exit_code != 0:
        return None
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _literal(text: Any) -> tuple[Any] | None:
    """The value of a literal's text, in a tuple; None if it is none. An infinity is a literal."""
    try:
        text = {"inf": "1e999", "-inf": "-1e999"}.get(text, text)
        return (ast.literal_eval(text),)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Names that a piece of code reads, and names that it binds."""
    read, bound = set[str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
    return read, bound


def _root(node: ast.AST) -> str | None:
    """`f` of `f(x)`, `f.g(x)[0]` and the like."""
    while isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


class _Checks(ast.NodeTransformer):
    """Turns asserts into `_check(...)`."""

    def visit_Assert(self, node: ast.Assert) -> ast.Expr:
        return ast.Expr(ast.Call(ast.Name("_check", ast.Load()), [node.test], []))


class _Test(ast.NodeTransformer):
    """One test; what the answer computes is cut out of it and becomes `_ask("its source")`.

    source: for the judge. calls: sources known before anything runs. expected: the literal, in a
    tuple, where the test is `call == literal`. A test of several statements stays whole; there the
    answer's names are stand-ins that ask.
    """

    def __init__(self, source: str, given: frozenset[str]) -> None:
        tree = ast.parse(source)
        read, bound = _names(tree)
        self.calls, self.names = list[str](), read - bound - given
        self.expected: tuple[Any] | None = None
        if len(tree.body) == 1 and isinstance(tree.body[0], ast.Assert):
            self._cut(tree.body[0])
            self.names = set()
        self.source = ast.unparse(ast.fix_missing_locations(_Checks().visit(tree)))

    def _cut(self, test: ast.Assert) -> None:
        if not self.names:  # a function that is called like a builtin one
            calls = (node for node in ast.walk(test.test) if isinstance(node, ast.Call))
            self.names = {name for name in [_root(next(calls, test))] if name}
        check, sides, own = test.test, list[ast.expr](), list[bool]()
        if isinstance(check, ast.Compare) and [type(op) for op in check.ops] == [ast.Eq]:
            sides = [check.left, *check.comparators]
            own = [bool(_names(side)[0] & self.names) for side in sides]
        if isinstance(check, ast.Compare) and own.count(True) == 1:
            self.expected = _literal(ast.unparse(sides[own.index(False)]))
            sides[own.index(True)] = self._ask(sides[own.index(True)])
            check.left, check.comparators = sides[0], sides[1:]
        else:
            test.test = self.visit(check)

    def _ask(self, node: ast.expr) -> ast.expr:
        self.calls.append(ast.unparse(node))
        return ast.Call(ast.Name("_ask", ast.Load()), [ast.Constant(self.calls[-1])], [])

    def visit(self, node: ast.AST) -> Any:
        """Cuts at the outermost node that belongs to the answer."""
        if isinstance(node, ast.expr) and _root(node) in self.names:
            return self._ask(node)
        return self.generic_visit(node)


def _asserts(question: Question, sources: list[str], answer: str) -> Grading:
    before, setup = question.meta.get("before", ""), question.meta.get("setup", "")
    trees = [ast.parse(text) for text in (before, setup, *sources)]
    bases = [n.value for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    modules = {b.id for b in bases if isinstance(b, ast.Name)} & sys.stdlib_module_names
    given = _BUILTINS | modules | _names(trees[0])[1] - {question.meta.get("entry")}
    read, bound = _names(trees[1])
    shared = not read - bound - given  # else the setup uses the answer and is the probe's alone
    tests = [_Test(source, given | (bound if shared else frozenset())) for source in sources]
    imports = "".join(f"import {name}\n" for name in sorted(modules))
    known: dict[str, tuple[Any] | None] = {}
    wanted = [call for test in tests for call in test.calls]
    passed = [False] * len(tests)
    judged = [i for i, test in enumerate(tests) if not test.expected]
    for _ in range(_ROUNDS):
        if wanted := list(dict.fromkeys(wanted)):
            parts = {"before": imports + before, "answer": answer, "setup": setup}
            (result,) = yield [(_program(_PROBE, mark=_MARK, calls=wanted, **parts), "")]
            values = _reported(result)
            if not isinstance(values, list) or len(values) != len(wanted):
                return [False] * len(tests)
            known.update(zip(wanted, map(_literal, values), strict=True))
        for i, test in enumerate(tests):
            passed[i] = bool(test.expected) and known[test.calls[0]] == test.expected
        if not judged:
            break
        data = {
            "tests": [tests[i].source for i in judged],
            "names": sorted(set().union(*(tests[i].names for i in judged))),
            "known": {call: repr(value or 0) for call, value in known.items()},
            "setup": "\n".join([imports, before, setup if shared else ""]),
        }
        (result,) = yield [(_program(_JUDGE, mark=_MARK, **data), "")]
        verdicts, wanted = _reported(result) or ([False] * len(judged), [])
        for i, verdict in zip(judged, verdicts, strict=True):
            passed[i] = verdict
        if not wanted:
            break
    return passed if known else [False] * len(tests)  # tests that never asked show nothing


def is_test(test: Any) -> bool:
    """Whether it has the form of a test."""
    return isinstance(test, str) or (
        isinstance(test, dict) and all(isinstance(test.get(k), str) for k in ("input", "output"))
    )


def _printed(result: CodeResult, expected: str) -> bool:
    """Same lines, whatever the spaces between words and at the ends."""

    def lines(text: str) -> list[list[str]]:
        return [line.split() for line in text.strip().splitlines()]

    ended_well = result.outcome is Outcome.OK and result.exit_code == 0
    return ended_well and lines(result.stdout) == lines(expected)


def passes(question: Question, answer: str, all_tests: bool = False) -> Grading:
    """One bool per test of the question; a driver runs the programs it yields.

    answer: the program. all_tests: go on after the first stdin test that fails (for a pass ratio).
    Raises SyntaxError when an assert does not parse.
    """
    asserts = [test for test in question.tests if isinstance(test, str)]
    pairs = [test for test in question.tests if not isinstance(test, str)]
    passed = (yield from _asserts(question, asserts, answer)) if asserts else []
    for part in (pairs[:1], pairs[1:]):
        if part and (all_tests or all(passed)):
            results = yield [(answer, test["input"]) for test in part]
            outputs = [test["output"] for test in part]
            passed += [_printed(*both) for both in zip(results, outputs, strict=True)]
        else:
            passed += [False] * len(part)
    return passed
