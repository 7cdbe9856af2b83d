"""Whether a program passes unit tests it cannot cheat, because the right values are never near it.

The answer runs in the sandbox in a *probe*, which holds the calls of the tests and no expected
value, and sends back plain literals. The *judge*, a second sandbox, holds the test's own code and
none of the answer. So a result with an `__eq__` of its own, a look into the frames above, a patched
library or an early exit gains nothing: the right values are the only way to pass. Programs that
read stdin are judged by what they print.
"""

from __future__ import annotations

import ast
import builtins
import json
import symtable
import sys
from collections.abc import Generator
from typing import Any

from mxa_lite.sandbox.box import CodeResult
from mxa_lite.tree import Outcome, Question

Programs = list[tuple[str, str]]  # (source, stdin)
Grading = Generator[Programs, Any, list[bool]]  # is sent list[CodeResult]; one bool per test

_ROUNDS = 4  # calls that depend on values of earlier calls need a round each
_MARK = "\x1evalues "

# In these programs `except Exception` stands around code that is not ours: the answer's, which
# becomes a value named after its exception, and a test's, which then is not passed.

# What both sides share: values as the text of a literal, independent of overridden methods.
_ENCODE = """
import ast, builtins, io, json, random, sys, types
def encode(v):
    for kind in (bool, int, float, complex, str, bytes):
        if isinstance(v, kind):
            text = kind.__repr__(v)
            return text.replace("inf", "1e999") if kind in (float, complex) else text
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
    return "iter" + encode(list(v)) if hasattr(type(v), "__next__") else v._encoded()  # a Part
"""

_PROBE = """
out, sys.stdout = sys.stdout, io.StringIO()
sys.modules["answer"] = types.ModuleType("answer")
space = vars(sys.modules["answer"])
for part in before, answer, setup:
    exec(compile(part, "answer.py", "exec", dont_inherit=True), space)
values = {}
for call in calls:
    values[call] = None
    try:
        value = eval(call, space)
    except Exception as error:
        values[call] = f"!{type(error).__name__}"
        continue
    try:
        values[call] = encode(value)
    except Exception:
        pass
print("\\n" + mark + json.dumps(values), file=out)
"""

# A `Part` stands for what the answer's code gives and nobody knows yet, or for what is no plain
# data. Most test code can go on with it, so that one round finds all calls; asserts have become
# `_check(...)`, which goes on too. A call that raised ("!" and the exception's name) raises here.
_JUDGE = """
class Part:
    def __init__(self, source):
        self._source = source
    def _encoded(self):
        return self._source
    def __getattr__(self, name):
        return ask(f"{self._source}.{name}")
    def __getitem__(self, key):
        return ask(f"{self._source}[{encode(key)}]")
    def __iter__(self):
        if self._source not in known:
            missing.append(self._source)
            return iter(())
        items = ask(f"[*{self._source}]")
        if isinstance(items, Part) and items._source in known:
            raise TypeError("not plain data")
        return iter(() if isinstance(items, Part) else items)
    def __call__(self, *args, **named):
        given = [encode(v) for v in args] + [f"{k}={encode(v)}" for k, v in named.items()]
        return ask(f"{self._source}({', '.join(given)})")
def operator(name, result):
    def use(self, *_):
        if self._source in known:
            raise TypeError("not plain data")
        missing.append(self._source)
        return self if result is None else result
    setattr(Part, f"__{name}__", use)
for name in "add radd sub rsub mul rmul truediv mod neg abs round".split():
    operator(name, None)
for name in "eq ne lt le gt ge contains bool".split():
    operator(name, True)
operator("float", 0.0)
operator("len", 0)
def ask(source):
    source = ast.unparse(ast.parse(source))
    if source not in known:
        missing.append(source)
    return part(source)
def part(source):
    text = known.get(source)
    if isinstance(text, str) and text.startswith("!"):
        kind = getattr(builtins, text[1:], None)
        plain = isinstance(kind, type) and issubclass(kind, Exception)
        raise (kind if plain else RuntimeError)(source)
    try:
        text = known[source].removeprefix("iter")
        value = ast.literal_eval(text)
        return value if text == known[source] else iter(value)
    except (KeyError, AttributeError, TypeError, ValueError, SyntaxError, MemoryError,
            RecursionError):  # not asked yet, or no plain data
        return Part(source)
def _check(value):
    passed[-1] = bool(value) and passed[-1]
out, sys.stdout, missing, passed = sys.stdout, io.StringIO(), [], []
for test in tests:
    random.seed(0)
    passed.append(True)
    before, space = len(missing), {"__name__": "tests"}
    try:
        exec(setup, space)
        space |= {"_ask": ask, "_check": _check} | {name: part(name) for name in names}
        exec(test, space)
        _check(len(missing) == before)
    except Exception:
        passed[-1] = False
print("\\n" + mark + json.dumps([passed, missing]), file=out)
"""


def _run(text: str, **names: Any) -> Generator[Programs, list[CodeResult], Any]:
    """What a program with data in it prints last under the mark, or None.

    The data is JSON, so nothing in it is code.
    """
    data = json.dumps(json.dumps({"mark": _MARK, **names}))
    (result,) = yield [(f"{_ENCODE}\nglobals().update(json.loads({data}))\n{text}", "")]
    _, mark, line = result.stdout.rpartition(_MARK)
    try:
        return json.loads(line) if mark and _ended_well(result) else None
    except (ValueError, RecursionError):
        return None


def _ended_well(result: CodeResult) -> bool:
    return result.outcome is Outcome.OK and result.exit_code == 0


def _names(source: str) -> tuple[set[str], set[str]]:
    """Names that a piece of code takes from outside, and names that it binds."""
    tables = [symtable.symtable(source, "tests.py", "exec")]
    for table in tables:
        tables += table.get_children()
    bound = {s.get_name() for s in tables[0].get_symbols() if s.is_assigned() or s.is_imported()}
    read = {s.get_name() for t in tables for s in t.get_symbols() if s.is_global()}
    return read - bound, bound


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
        self.names, self.outside, self.calls = names, outside, list[str]()

    def visit_Assert(self, node: ast.Assert) -> ast.Expr:
        self.generic_visit(node)
        return ast.Expr(ast.Call(ast.Name("_check", ast.Load()), [node.test], []))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        source = ast.unparse(node)
        if _root(node) in self.names and _names(source)[0] <= self.outside:
            self.calls.append(source)
            return ast.Call(ast.Name("_ask", ast.Load()), [ast.Constant(source)], [])
        return self.generic_visit(node)

    def source(self, test: str) -> str:
        """The test as the judge runs it; calls known before anything runs go to `calls`."""
        tree = ast.parse(test)
        lone = len(tree.body) == 1 and isinstance(tree.body[0], ast.Assert)
        checks = self if lone else _Checks(set(), set())
        return ast.unparse(ast.fix_missing_locations(checks.visit(tree)))


def _asserts(question: Question, tests: list[str], answer: str) -> Grading:
    before, setup = question.meta.get("before", ""), question.meta.get("setup", "")
    nodes = [node for text in (before, setup, *tests) for node in ast.walk(ast.parse(text))]
    bases = {_root(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    modules = {str(base) for base in bases} & sys.stdlib_module_names
    given = {*dir(builtins)} | modules | _names(before)[1] - {question.meta.get("entry")}
    read, bound = _names(setup)
    shared = not read - given  # else the setup uses the answer and is the probe's alone
    given |= bound if shared else set()
    names = {name for test in tests for name in _names(test)[0]} - given
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    names = names or {str(_root(call)) for call in calls}  # a function called like a builtin one
    checks = _Checks(names, names | given)
    sources = [checks.source(test) for test in tests]
    wanted = checks.calls
    imports = "".join(f"import {name}\n" for name in sorted(modules)) + before
    own = f"{imports}\n{setup if shared else ''}"
    known: dict[str, Any] = {}
    passed = [False] * len(tests)
    for _ in range(_ROUNDS):
        if wanted:
            # `f().x` before `f()`, which may change what the other sees
            wanted = sorted(dict.fromkeys(wanted), key=len, reverse=True)
            parts = {"before": imports, "answer": answer, "setup": setup}
            values = yield from _run(_PROBE, **parts, calls=wanted)
            if not isinstance(values, dict):
                return [False] * len(tests)
            known |= {call: values.get(call) for call in wanted}
        data = {"tests": sources, "names": sorted(names), "setup": own}
        verdict = yield from _run(_JUDGE, known=known, **data)
        passed, wanted = verdict or ([False] * len(tests), [])
        if not wanted:
            break
    # tests that never asked, or could not fail, show nothing
    return [ok and bool(known) and can_fail(test) for ok, test in zip(passed, tests, strict=True)]


def can_fail(test: str) -> bool:
    """Whether a test's code checks anything: `f(1) == 2` and `assert (f(1) == 2, "text")` do not.

    Raises SyntaxError.
    """
    for node in ast.walk(ast.parse(test)):
        if isinstance(node, ast.Assert):
            shown = node.test
            always = (isinstance(shown, ast.Tuple) and shown.elts) or (
                isinstance(shown, ast.Constant) and shown.value
            )
            if not always:
                return True
        if isinstance(node, ast.Raise) or getattr(node, "attr", "").startswith("assert"):
            return True
    return False


def is_test(test: Any) -> bool:
    """Whether it has the form of a test."""
    return isinstance(test, str) or (
        isinstance(test, dict) and all(isinstance(test.get(k), str) for k in ("input", "output"))
    )


def _printed(result: CodeResult, expected: str) -> bool:
    """Same lines, whatever the spaces between words and at the ends."""
    texts = result.stdout, expected
    printed, wanted = ([line.split() for line in text.strip().splitlines()] for text in texts)
    return _ended_well(result) and printed == wanted


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
            passed += [_printed(r, test["output"]) for r, test in zip(results, part, strict=True)]
        else:
            passed += [False] * len(part)
    return passed
