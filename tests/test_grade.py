"""Graders: every way to be paid for a program that is wrong, and files to grade."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mxa_lite.errors import InputError
from mxa_lite.sandbox.box import Limits, Sandbox
from mxa_lite.tasks import grade_code
from mxa_lite.tasks.grade import Grader, grade_file
from mxa_lite.tree import Question


def math(gold: str | None, **meta: Any) -> Question:
    return Question("q", "?", "math", "math", gold, meta=meta)


def code(*tests: Any, **meta: Any) -> Question:
    return Question("q", "?", "code", "code", None, list(tests), meta)


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(seconds=2, limits=Limits(seconds=2, memory_mb=256)) as shared:
        yield shared


def test_a_question_without_a_gold_answer_pays_nothing(grader: Grader) -> None:
    assert grader.grade(math(None), "7").correct == 0


ADD = code("assert add(1, 2) == 3", "assert add(2, 2) == 4", "assert add(-1, 5) == 4")
CLOSE = code(
    "import math\nassert math.isclose(root(2), 1.4142135, rel_tol=1e-6)",
    "assert not root(0)",
    "assert abs(root(4) - 2) < 1e-9",
    "assert root(9) in (3, -3)",
)
CHECK = code(
    "def check(candidate):\n    assert candidate([1, 2]) == [2, 1]\n"
    "    for n in range(20):\n        assert candidate([n, 0]) == [0, n]\n"
    "    assert candidate(candidate([1, 5])) == [1, 5]\ncheck(rev)",
    before="from typing import List\n",
)
SUM = code({"input": "1 2\n", "output": "3\n"}, {"input": "4 5", "output": "9"})

FIB = "def fib():\n    a = b = 1\n    while True:\n        yield a\n        a, b = b, a + b"

PASSES = [
    (ADD, "def add(a, b): return a + b"),
    (ADD, "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```"),
    (ADD, "<solution>\ndef add(a, b): return a + b\n</solution> and done"),
    (ADD, "if __name__ == '__main__':\n    input()\ndef add(a, b): return print(a) or a + b"),
    (CLOSE, "def root(x): return x ** 0.5"),
    (CHECK, "def rev(x: List[int]): return x[::-1]"),
    (SUM, "a, b = map(int, input().split())\nprint(a + b)"),
    (SUM, "import sys\na, b = sys.stdin.read().split()\nprint('', int(a) + int(b))\nsys.exit(0)"),
    (code("assert sum(1, 2) == 3"), "def sum(a, b): return a + b"),
    (code("assert f(1) == {'a': [1, (2,)], 3: {1}}"), "def f(x): return {3: {1}, 'a': [1, (2,)]}"),
    (code("assert f() == float('inf')"), "def f(): return 1e999"),
    (code("assert f(root) == 3", setup="root = Node(3)"),
     "class Node:\n    def __init__(self, v): self.v = v\ndef f(n): return n.v"),
    (code("assert len(Stack().push(1).items) == 1"),
     "class Stack:\n    items = []\n    def push(self, x):\n        self.items.append(x)\n"
     "        return self"),
    (code("assert f(2) == 4"),
     "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\n"
     "class P:\n    x: int\ndef f(x): return P(x).x * 2"),
    (code("assert list(f(3)) == [0, 1, 2]", "assert f(3)[1] == 1"), "def f(n): return range(n)"),
    (code("assert sorted(f()) == [1, 2]"), "def f(): return {2: 0, 1: 0}.keys()"),
    (code("try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass"),
     "def f(x):\n    raise ValueError"),
    (code("s = Pile()\ns.put(4)\ns.put(5)\nassert s.take() == 5", "assert len(Pile()) == 0"),
     "class Pile:\n    def __init__(self): self.items = []\n"
     "    def put(self, x): self.items.append(x)\n    def take(self): return self.items.pop()\n"
     "    def __len__(self): return len(self.items)"),
    (code("p = Purse()\ntry:\n    p.pay(3)\n    assert False\nexcept EmptyError:\n    pass"),
     "class EmptyError(Exception):\n    pass\nclass Purse:\n    def pay(self, x):\n"
     "        raise EmptyError(x)"),
    (code("xs = [3, 1, 2]\nassert order(xs) is None\nassert xs == [1, 2, 3]"),
     "def order(xs): xs.sort()"),
    (code("d = {}\nnote(d, 'a')\nnote(d, 'a')\nassert d == {'a': 2}"),
     "def note(d, k): d[k] = d.get(k, 0) + 1"),
    (code("assert Point(1, 2) + Point(3, 4) == Point(4, 6)", "assert Point(1, 2) != Point(2, 1)"),
     "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int\n    y: int\n"
     "    def __add__(self, o): return Point(self.x + o.x, self.y + o.y)"),
    (code("c = counter()\nassert [c(), c(), c()] == [1, 2, 3]"),
     "def counter():\n    n = [0]\n    def up():\n        n[0] += 1\n        return n[0]\n"
     "    return up"),
    (code("g = odds()\nassert next(g) == 1\nassert next(g) == 3"),
     "def odds():\n    n = 1\n    while True:\n        yield n\n        n += 2"),
    (code("assert list(upto(3)) == [0, 1, 2]"), "def upto(n): yield from range(n)"),
    (code("q = Queue()\nq.add(1)\nq.add(2)\nout = []\nwhile not q.empty():\n"
          "    out.append(q.get())\nassert out == [1, 2]"),
     "class Queue:\n    def __init__(self): self.a = []\n    def add(self, x): self.a.append(x)\n"
     "    def get(self): return self.a.pop(0)\n    def empty(self): return not self.a"),
    (code("from fractions import Fraction\nassert half() == Fraction(1, 2)"),
     "from fractions import Fraction\ndef half(): return Fraction(2, 4)"),
    (code("from decimal import Decimal\nassert f() == [Decimal('0.5')]"),
     "from decimal import Decimal\ndef f(): return [Decimal('0.50')]"),
    (code("from datetime import date, timedelta\nassert f(date(2024, 2, 28)) == date(2024, 2, 29)"),
     "import datetime\ndef f(d): return d + datetime.timedelta(1)"),
    (code("assert f().y == 2", "assert f() == (1, 2)"),
     "import collections\ndef f(): return collections.namedtuple('Pair', 'x y')(1, 2)"),
    (code("assert f(90000) == [*range(90000)]", "assert f(2) == [0, 1]"),
     "def f(n): return list(range(n))"),
    (code("assert f(5000) == 10 ** 5000"), "def f(n): return 10 ** n"),
    (code("assert [x.v for x in make(3)] == [0, 1, 2]"),
     "class Item:\n    def __init__(self, v): self.v = v\n"
     "def make(n): return [Item(i) for i in range(n)]"),
    (code("assert total([Box(1), Box(2)]) == 3",
          setup="class Box:\n    def __init__(self, n):\n        self.n = n"),
     "def total(boxes): return sum(box.n for box in boxes)"),
    (code("try:\n    f(0)\n    assert False\nexcept ValueError as error:\n"
          "    assert str(error) == 'none of 0'"),
     "def f(n):\n    raise ValueError(f'none of {n}')"),
    (code("assert f() is Color.RED or f() == Color.RED"),
     "from enum import Enum\nclass Color(Enum):\n    RED = 1\ndef f(): return Color.RED"),
    (code("assert f('ab') == {frozenset('ab')}"), "def f(s): return {frozenset(s)}"),
    (code("import math\nassert math.isnan(f())"), "def f(): return float('nan')"),
    (code("import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as out:\n"
          "    greet('Eva')\nassert out.getvalue() == 'Hello Eva\\n'"),
     "def greet(name): print('Hello', name)"),
    (code("import numpy as np\nassert np.array_equal(twice(np.array([1, 2])), np.array([2, 4]))"),
     "def twice(x): return 2 * x"),
    (code("assert np.allclose(halves([1, 3]), [0.5, 1.5])", setup="import numpy as np"),
     "import numpy\ndef halves(x): return numpy.array(x) / 2"),
    (code("assert Solution().merge([[1, 2], [2, 3]]) == [[1, 3]]"),
     "class Solution:\n    def merge(self, xs: List[List[int]]) -> List[List[int]]:\n"
     "        seen = defaultdict(int)\n        heap = [*xs]\n        heapify(heap)\n"
     "        return [[heap[0][0], max(b for _, b in heap)]]"),
    (code({"input": "6\n", "output": "36\n"}),
     "import sys, threading\nassert sys.argv[1:] == []\ndef main():\n"
     "    print(int(input()) ** 2)\nthreading.Thread(target=main).start()"),
    (code({"input": "6\n", "output": "6\n"}), "import fileinput\nprint(*fileinput.input())"),
    (code({"input": "6\n", "output": "bye\n"}),
     "import atexit\natexit.register(lambda: print('bye'))"),
    (code({"input": "20000\n", "output": "".join(f"{i}\n" for i in range(20000))}),
     "for i in range(int(input())): print(i)"),
    (ADD, "```python\ndef add(a, b):\n    return a + b\n```\nIt prints:\n```\n3\n```"),
    (code("import itertools\nassert [*itertools.islice(fib(), 5)] == [1, 1, 2, 3, 5]"), FIB),
    (code("assert [x for x, _ in zip(fib(), range(5))] == [1, 1, 2, 3, 5]"), FIB),
    (code("assert sum(upto(50000)) == 1249975000"), "def upto(n): yield from range(n)"),
    (code("from datetime import *\nassert f() == datetime(2024, 1, 1, tzinfo=timezone.utc)"),
     "from datetime import *\nzone = timezone(timedelta(hours=1))\n"
     "def f(): return datetime(2024, 1, 1, 1, tzinfo=zone)"),
    (code("assert f([1, 'a']) == [int, str]", "kept = g([1, 'a'], str)\nassert kept == ['a']"),
     "def f(xs): return [type(x) for x in xs]\ndef g(xs, kind):\n"
     "    return [x for x in xs if isinstance(x, kind)]"),
    (code("assert issubclass(Dog, Animal)"), "class Animal: pass\nclass Dog(Animal): pass"),
    (code("xs = [1]\nys = push(xs, 2)\nassert ys is xs and xs == [1, 2]"),
     "def push(xs, x):\n    xs.append(x)\n    return xs"),
    (code("v = V(1, 2)\nassert v * V(3, 4) == 11 and (v * 2).y == 4 and v * 2 == V(2, 4)"),
     "from dataclasses import dataclass\n@dataclass\nclass V:\n    x: int\n    y: int\n"
     "    def __mul__(self, o):\n        if isinstance(o, V): return self.x * o.x + self.y * o.y\n"
     "        return V(self.x * o, self.y * o)"),
    (code("assert greet('Eva').startswith('Hello')"), "def greet(name): return 'Hello ' + name"),
    (code("assert len({P(1), P(1), P(2)}) == 2 and hash(P(1)) == hash(P(1))"),
     "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass P:\n    x: int"),
    # as in HumanEval: what a loop asks of each result is not asked of plain data
    (code("for i in range(30):\n    assert abs(poly([i, 2], zero([i, 2]))) < 1e-6 > zero([0, 1])",
          before="import math\ndef poly(xs, x):\n    return xs[0] + xs[1] * math.pow(x, 1)"),
     "def zero(xs): return -xs[0] / xs[1]"),
    (code("for i in range(30):\n    p = Pile()\n    p.put(i)\n"
          "    assert round(p.take() + 0.2) == i"),
     "class Pile:\n    def put(self, x): self.x = x\n    def take(self): return self.x"),
    (code("assert f()[1:3] == [1, 2] and f()[-1] == 4", "xs = f()\nassert xs[::2] == [0, 2, 4]"),
     "def f(): return [0, 1, 2, 3, 4]"),
]  # fmt: skip

EQUAL = (
    "class Any:\n    def __eq__(self, other): return True\n    def __hash__(self): return 1\n"
    "    def __bool__(self): return True\n    def __float__(self): return 1.4142135\n"
)
FRAMES = """
import gc, sys
def look():
    frame = sys._getframe()
    while frame:
        yield from (*frame.f_locals.values(), *frame.f_globals.values(), *frame.f_code.co_consts)
        frame = frame.f_back
    yield from gc.get_objects()
def add(a, b):
    for text in look():
        if isinstance(text, str) and "==" in text and "add(" in text and text[-1].isdigit():
            return int(text.rpartition("==")[2])
    return 0
"""
REPORT = "\x1evalues " + json.dumps(
    {"setup": None, "results": [[[text, {}, ""]] for text in ("3", "5", "4")]}
)
NEAR = (  # differs from all by nothing
    "class Near:\n    def __sub__(self, other): return {0}\n    __rsub__ = __truediv__ = __sub__\n"
    "    def __abs__(self): return 0.0\n    __round__ = __float__ = __mul__ = __abs__\n"
    "    def __bool__(self): return False\ndef root(x): return Near()"
)
CHEATS = {
    "wrong": (ADD, "def add(a, b): return a - b"),
    "one test right": (ADD, "def add(a, b): return 3"),
    "empty": (ADD, " \n"),
    "does not parse": (ADD, "def add(a, b:"),
    "raises": (ADD, "raise ValueError"),
    "exits": (ADD, "import sys\nsys.exit(0)"),
    "exits at once": (ADD, "import os\nos._exit(0)"),
    "exits when called": (ADD, "def add(a, b):\n    raise SystemExit(0)"),
    "claims": (ADD, "print('3 of 3 tests passed')"),
    "equal to all": (ADD, EQUAL + "def add(a, b): return Any()"),
    "an int with its own text": (
        ADD,
        "class I(int):\n    def __eq__(self, o): return True\n    def __repr__(self): return '3'\n"
        "def add(a, b): return I(0)",
    ),
    "looks into frames": (ADD, FRAMES),
    "patches": (ADD, "import builtins, json\nbuiltins.AssertionError = None\njson.dumps = print\n"),
    "answers for the probe, wrongly": (
        ADD,
        f"print({REPORT!r})\nraise SystemExit(0)",
    ),
    "never ends": (ADD, "while True: pass"),
    "too large": (ADD, "def add(a, b): return 'x' * 10**9"),
    "endless value": (ADD, "def add(a, b):\n    x = []\n    x.append(x)\n    return x"),
    "no number": (ADD, "def add(a, b): return float('nan')"),
    "close by claim": (CLOSE, EQUAL + "def root(x): return Any()"),
    "not close": (CLOSE, "def root(x): return x"),
    "a difference of its own": (CLOSE, NEAR.format(0.0)),
    "a difference that is an object": (CLOSE, NEAR.format("self")),
    "a product of such differences": (
        code("d = root(2) - 1.4142135\nassert d * d < 1e-6"),
        NEAR.format("self"),
    ),
    "no difference": (code("assert not root(2) - 1.4142135"), NEAR.format("self")),
    "a text that starts with all": (
        code("assert greet('Eva').startswith('Hello')"),
        "class S(str):\n    def startswith(self, text): return True\ndef greet(name): return S()",
    ),
    "ends a loop of the test": (
        code("for root, square in zip(map(f, [4, 9]), [2, 3]):\n    assert root == square"),
        "def f(x):\n    raise StopIteration",
    ),
    "another time zone": (
        code("from datetime import *\nassert f() == datetime(2024, 1, 1)"),
        "from datetime import *\ndef f(): return datetime(2024, 1, 1, tzinfo=timezone.utc)",
    ),
    "no copy": (
        code("xs = [1]\nys = copied(xs)\nys.append(2)\nassert xs == [1]"),
        "def copied(xs): return xs",
    ),
    "another type": (code("assert f(1) == int"), "def f(x): return float"),
    "check by claim": (CHECK, EQUAL + "def rev(x): return Any()"),
    "check, wrong": (CHECK, "def rev(x): return x"),
    "check, missing": (CHECK, "def reverse(x): return x[::-1]"),
    "prints a constant": (SUM, "print(3)"),
    "prints more": (SUM, "a, b = map(int, input().split())\nprint(a + b, 'done')"),
    "fails after printing": (SUM, "a, b = map(int, input().split())\nprint(a + b)\n1 / 0"),
    "no tests": (code(), "x = 1"),
    "tests that ask nothing": (code("assert True", "x = 1"), "x = 1"),
    "a test that does not parse": (code("assert f( == 3"), "def f(): return 3"),
    "a test without an assert": (code("add(1, 2) == 3"), "def add(a, b): return 4"),
    "one test without an assert": (code("assert add(1, 2) == 3", "add(2, 2) == 4"), "add = max"),
    "a test that is always true": (code("assert (f() == 3, 'text')"), "def f(): return 4"),
    "raises, and only None is wrong": (code("assert f(1) is not None"), "def f(x): raise OSError"),
    "missing, and only None is wrong": (code("assert f(1) is not None"), "x = 1"),
    "raises, and any type will do": (code("assert not isinstance(f(), int)"), "def f(): 1 / 0"),
    "raises another exception": (
        code("try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass"),
        "def f(x):\n    raise TypeError",
    ),
    "does not raise": (
        code("try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass"),
        "def f(x): return x",
    ),
    "an unknown name in a signature": (ADD, "def add(a: List[int], b): return a + b"),
    "a pile that gives what was put first": (
        code("s = Pile()\ns.put(4)\ns.put(5)\nassert s.take() == 5"),
        "class Pile(list):\n    put = list.append\n    def take(self): return self.pop(0)",
    ),
    "an object equal to all others": (
        code("assert Point(1, 2) + Point(3, 4) == Point(4, 6)"),
        "class Point:\n    def __init__(self, *_): pass\n    def __add__(self, o): return self\n"
        "    def __eq__(self, o): return True",
    ),
    "an object equal to all, with a state": (
        code("assert Point(1, 2) + Point(3, 4) == Point(4, 6)"),
        "class Point:\n    def __init__(self, *xs): self.xs = xs\n    def __add__(self, o):\n"
        "        return self\n    def __eq__(self, o): return True",
    ),
    "an array of others": (
        code("import numpy as np\nassert np.array_equal(twice(np.array([1, 2])), [2, 4])"),
        "def twice(x): return x",
    ),
    "not in place": (
        code("xs = [3, 1, 2]\norder(xs)\nassert xs == [1, 2, 3]"),
        "def order(xs): return sorted(xs)",
    ),
    "another exception of its own": (
        code("try:\n    f()\n    assert False\nexcept EmptyError:\n    pass"),
        "class EmptyError(Exception):\n    pass\nclass FullError(Exception):\n    pass\n"
        "def f():\n    raise FullError",
    ),
    "the function itself": (code("assert f == 3"), "def f(): return 3"),
    "a thread that prints the wrong thing": (
        SUM,
        "import threading\nthreading.Thread(target=lambda: print(4)).start()",
    ),
    "one bad test of two": (code("assert f() == 3", "assert f( == 3"), "def f(): return 3"),
}


def test_right_programs_pass(grader: Grader) -> None:
    verdicts = grader.grade_many(PASSES)
    assert [answer for (_, answer), v in zip(PASSES, verdicts, strict=True) if v.correct != 1] == []


@pytest.mark.parametrize("name", CHEATS)
def test_no_wrong_program_is_paid(grader: Grader, name: str) -> None:
    assert grader.grade(*CHEATS[name]).correct == 0


def test_the_expected_values_never_enter_the_process_of_the_answer() -> None:
    tests = "assert f(1) == 'secret-1'", "x = f(2)\nassert x in ('secret-2',) or f(x) == 'secret-3'"
    grading = grade_code.passes(code(*tests), "def f(x):\n    return x  # the answer")
    seen, programs = [], grading.send(None)
    with Sandbox(Limits()) as sandbox, contextlib.suppress(StopIteration):
        while True:
            seen += [source for source, _ in programs if "# the answer" in source]
            programs = grading.send(sandbox.run_codes(programs))
    assert len(seen) >= 2 and all("f(1)" in source and "f(_m" not in source for source in seen)
    assert not any("secret" in source for source in seen)


def test_the_pass_ratio_is_an_option() -> None:
    with Grader(ratio=True) as partial:
        assert partial.grade(ADD, "def add(a, b): return 4").correct == pytest.approx(2 / 3)
        assert partial.grade(SUM, "print(9)").correct == 0.5
        reason = "1 of 2 tests passed; not passed: it prints something else"
        assert partial.grade(SUM, "print(9)").reason == reason


def test_a_test_that_cannot_be_judged_is_left_out_and_counted(grader: Grader) -> None:
    tests = ["assert f(1) == 2", "g = lambda x: x\nassert f(g) == 1", "import no_such\nassert f(0)"]
    verdict = grader.grade(code(*tests), "def f(x): return x + 1")
    assert verdict.correct == 1
    left_out = (
        "2 left out: NotPlain: function is no plain data,"
        " ModuleNotFoundError: No module named 'no_such'"
    )
    assert verdict.reason == f"1 of 1 tests passed; {left_out}"
    assert grader.grade(code(*tests), "def f(x): return x").correct == 0
    none = grader.grade(code(*tests[1:]), "def f(x): return x")
    assert none.reason == f"no test could be run; {left_out}"


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        (code("assert f(1) == 2"), "def f(x): return x", "an assert does not hold"),
        (code("assert f(1) == 2"), "def f(x): return {}[x]", "not passed: KeyError"),
        (code("assert f(1) == 2"), "raise SystemExit", "the program ends before its tests do"),
        (code("assert f(g) == 2", setup="g = make(1)"), "def f(x): return x",
         "NameError: name 'make' is not defined"),
        (code("assert f(1) == 2", setup="make(1)"), "def f(x): return x\ndef make(x): 1 / 0",
         "; its setup failed: ZeroDivisionError: division by zero"),
        (SUM, "print(undefined)", "crashed: NameError: name 'undefined' is not defined"),
        (code("x = 1"), "x = 1", "it asks nothing of the program"),
    ],
)  # fmt: skip
def test_a_verdict_says_why_a_test_is_not_passed(
    grader: Grader, question: Question, answer: str, reason: str
) -> None:
    assert reason in grader.grade(question, answer).reason


def test_a_program_that_reports_nonsense_of_itself_is_not_paid(grader: Grader) -> None:
    for report in ("[]", '{"results": 3}', '{"results": [[1], [2], [3]]}', "[" * 9000):
        text = "\x1evalues " + report
        answer = f"print({text!r})\nimport os\nos._exit(0)"
        assert grader.grade(ADD, answer).correct == 0


def lines(path: Path, *rows: Any) -> Path:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text(text + "\n")
    return path


def test_grade_file_gives_one_verdict_per_line_in_order(tmp_path: Path) -> None:
    asserts = ["assert f(2) == 4"]
    path = lines(
        tmp_path / "a.jsonl",
        {"task": "gsm8k", "gold": "1 + 1\n#### 1,234", "answer": "\\boxed{5} then \\boxed{1234}"},
        {"task": "gsm8k", "gold": "1234", "answer": "1235"},
        {"task": "mbpp", "tests": asserts, "answer": "def f(x): return x * x"},
        {"task": "mbpp", "tests": asserts, "answer": "def f(x): return x"},
        {"task": "own", "tests": [{"input": "a", "output": "a"}], "answer": "print(input())"},
        {"task": "gsm8k", "gold": 3, "answer": ""},
        {"task": "gsm8k", "gold": 3, "answer": 3},
        {"task": "gsm8k", "gold": 3, "answer": None},
        {"task": "own", "gold": "B", "answer": "b) seven", "choices": True},
        {"task": "own", "gold": "a\u2028b", "answer": "a\u2028b"},
    )
    want = [True, False, True, False, True, False, True, False, True, True]
    assert grade_file(path) == want


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{not json", "not JSON"),
        ("[]", "not a JSON object"),
        ("", "not JSON"),
        ({"task": "t", "gold": "1"}, "no 'answer'"),
        ({"gold": "1", "answer": "1"}, "no 'task'"),
        ({"task": "t", "answer": "1"}, "no 'gold or tests'"),
        ({"task": "t", "answer": "1", "tests": "assert f()"}, "'tests' is not a list"),
        ({"task": "t", "answer": "1", "tests": [{"input": "1"}]}, "'tests' is not a list"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, bad: Any, said: str) -> None:
    good = {"task": "t", "gold": "1", "answer": "1"}
    with pytest.raises(InputError, match=rf"a\.jsonl line 2: .*{said}"):
        grade_file(lines(tmp_path / "a.jsonl", good, bad, good))


def test_an_unreadable_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        grade_file(tmp_path / "none.jsonl")
