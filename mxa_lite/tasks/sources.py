"""The built-in tasks: where each lives on the Hub, how its rows become questions, whom to cite."""

from __future__ import annotations

import ast
import base64
import builtins
import io
import json
import logging
import pickle
import re
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

from mxa_lite.errors import InputError
from mxa_lite.grading.compare import LONGEST as LONGEST_ANSWER
from mxa_lite.grading.compare import final
from mxa_lite.tasks.grade_code import USUAL, can_fail, is_test
from mxa_lite.tasks.rows import BadRow, Row, question_id
from mxa_lite.tree import Question

LONGEST = 12_000  # characters of a question
MOST_TESTS = 50  # per question: the first ones, so always the same
_UNPACKED = 256 << 20  # bytes of one row's packed tests
_POWER = re.compile(r"[-+]?\d+(?:\.\d*)?e[-+]?\d{1,2}", re.I)  # 1e-07, as numbers are stored
_BUILTINS = frozenset(dir(builtins))
_NAMED = re.compile(r"\b(\w+)\s*\(|`(\w+)`")  # a function that a text names
_LISTED = """
def _listed(value):  # as the results of tests came, as JSON, which has no tuples
    return [*map(_listed, value)] if isinstance(value, (list, tuple)) else value
"""
_STDIN = "\nWrite a program that reads standard input and prints the result."


def _cell(value: Any) -> str:
    """A cell as text, "" for a missing one. Raises TypeError where it holds more than one value."""
    if isinstance(value, (list, dict, bytes)):
        raise TypeError("not one value")
    return "" if value is None or value != value else str(value).strip()  # NaN: none, to pandas


def _decoded(tests: Any) -> list[Any]:
    return list((json.loads(tests) if isinstance(tests, str) else tests) or [])


def math(text: Any, gold: Any, **meta: Any) -> Question:
    """A math question; the gold answer may come as `#### 1,234`, boxed, or plain."""
    several = gold if isinstance(gold, list) else [gold]
    text, gold = _cell(text), final(", ".join(map(_cell, several)))
    if _POWER.fullmatch(gold):
        gold = f"{Decimal(gold):f}"
    if "gym" not in meta and not 0 < len(gold) <= LONGEST_ANSWER:
        raise BadRow("has an over-long answer" if gold else "has no answer")
    if re.fullmatch(r"\(?[A-J]\)?", gold) and re.search(r"\(A\).*\(B\)", text, re.S):
        meta["choices"] = True
    return _question(text, kind="math", gold=gold or None, meta=meta)


def code(text: Any, tests: Any, form: str = "", **meta: Any) -> Question:
    """A code question; tests: asserts or {"input", "output"}, as a list or its JSON text.

    form: what is added to the text about the form of the program; it makes no other question.
    """
    tests = _decoded(tests)
    if not tests:
        raise BadRow("has no tests")
    for test in tests:
        if not is_test(test):
            raise BadRow("has tests that are neither asserts nor input and output")
        if isinstance(test, str) and not can_fail(test):
            raise BadRow("has a test without an assert")
    return _question(_cell(text), form, kind="code", tests=tests[:MOST_TESTS], meta=meta)


def _question(text: str, form: str = "", **rest: Any) -> Question:
    if not text or len(text + form) > LONGEST:
        raise BadRow("is over-long" if text else "has no question")
    return Question(question_id(text), text + form, "", **rest)


def generic(row: Row, columns: dict[str, str], kind: str | None = None) -> Question:
    """A row of a file with the usual column names, or with those given as our name -> column."""

    def cell(name: str, *usual: str) -> Any:
        column = columns.get(name) or next((key for key in usual if key in row), name)
        return row[column]

    text = cell("question", "question", "problem", "prompt", "text")
    if kind == "code" or (kind is None and ("tests" in columns or {"tests", "test_list"} & {*row})):
        tests = _decoded(cell("tests", "tests", "test_list"))
        return code(text, tests, _form(_cell(text), tests))
    return math(text, cell("answer", "answer", "gold", "final_answer", "solution"))


def free(row: Row) -> Question:
    """A row of an own task with a scorer of its own, which alone reads the gold answer."""
    return _question(_cell(row["question"]), kind="math", gold=_cell(row["answer"]), meta={})


def _form(text: str, tests: list[Any]) -> str:
    """What a question leaves unsaid: the function's name, by its first assert, or a program."""
    if not (tests and is_test(tests[0])):
        return ""
    if isinstance(tests[0], dict):
        return "" if "input" in text.lower() else _STDIN
    tree = ast.parse(tests[0])
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - _BUILTINS
    mentioned = names & {call or quoted for call, quoted in _NAMED.findall(text)}
    lone = len(tree.body) == 1 and isinstance(tree.body[0], ast.Assert)
    return f"\nExample: {tests[0]}" if lone and not mentioned else ""


_problem = partial(generic, columns={}, kind="math")


def _mbpp(row: Row) -> Question:
    """`prompt` and `test_imports` are of the sanitized edition, `question` of files after it."""
    text = row[next((name for name in ("prompt", "question") if name in row), "text")]
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or [])
    tests = _decoded(row["test_list"])
    return code(text, tests, f"\nExample: {[*tests, ''][0]}", setup=setup)


def _humaneval(row: Row) -> Question:
    text = f"Write this function, whole and with its imports:\n{row['prompt']}"
    test = f"{row['test']}\ncheck({row['entry_point']})"
    return code(text, [test], before=row["prompt"], entry=row["entry_point"])  # its helpers too


def _calls(text: str, stub: str, name: str, pairs: list[tuple[list[Any], Any]]) -> Question:
    """Tests that call a function, or a method of LeetCode's class: (arguments, result)."""
    called = f"Solution().{name}" if "class Solution" in stub else name
    calls = [f"{called}({', '.join(map(repr, arguments))})" for arguments, _ in pairs]
    tests = [f"assert _listed({c}) == {out!r}" for c, (_, out) in zip(calls, pairs, strict=True)]
    stub = stub.strip() or f"def {name}({', '.join('abcdefgh'[: len(pairs[0][0])])}):"
    return code(text, tests, f"\nWrite the function:\n{stub}", before=USUAL + _LISTED, entry=name)


def _apps(row: Row) -> Question:
    if row.get("difficulty", "introductory") != "introductory":
        raise BadRow("is not introductory")
    packed = json.loads(row["input_output"] or "{}")
    pairs = list(zip(packed.get("inputs", []), packed.get("outputs", []), strict=True))
    if pairs and "fn_name" in packed:
        if all(isinstance(o, list) and len(o) == 1 for _, o in pairs):  # most rows wrap each result
            pairs = [(i, o[0]) for i, o in pairs]
        return _calls(row["question"], row.get("starter_code") or "", packed["fn_name"], pairs)
    lines = [["\n".join(s) if isinstance(s, list) else s for s in pair] for pair in pairs]
    return code(row["question"], [{"input": i, "output": o} for i, o in lines], _STDIN)


def _contests(row: Row) -> Question:
    tests = []
    for column in ("public_tests", "private_tests", "generated_tests"):
        inputs, outputs = ((row.get(column) or {}).get(key, []) for key in ("input", "output"))
        tests += [{"input": i, "output": o} for i, o in zip(inputs, outputs, strict=True)]
    return code(row["description"], tests, _STDIN)


class _TextOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"packed tests name {module}.{name}")


def unpack(text: str) -> list[dict[str, str]]:
    """LiveCodeBench's hidden tests: JSON, or base64 of zlib of one pickled string of JSON."""
    if not text.lstrip().startswith("["):
        data = zlib.decompressobj().decompress(base64.b64decode(text), _UNPACKED)
        text = _TextOnly(io.BytesIO(data)).load()
        if not isinstance(text, str):
            raise pickle.UnpicklingError("packed tests are not a string")
    return list(json.loads(text))


def _livecodebench(row: Row) -> Question:
    tests = json.loads(row["public_test_cases"]) + unpack(row["private_test_cases"] or "[]")
    name = json.loads(row.get("metadata") or "{}").get("func_name")
    if not name:
        return code(row["question_content"], tests, _STDIN)
    pairs = [
        ([json.loads(arg) for arg in test["input"].split("\n") if arg], json.loads(test["output"]))
        for test in tests
    ]
    return _calls(row["question_content"], row["starter_code"], name, pairs)


class Source(NamedTuple):
    """A task. convert raises BadRow, or KeyError and the like for a row of another shape.

    train, test: "repository config split", or "repository file" where the repository's own loader
    is a script, which `datasets` no longer runs; "" where there are no such questions.
    """

    convert: Callable[[Row], Question]
    train: str
    test: str
    cite: str


_OLYMPIAD = "Hothan/OlympiadBench OE_TO_maths_en_COMP train"
_POLARIS = "POLARIS-Project/Polaris-Dataset-53K default train"
_GSM8K, _APPS, _MBPP = "openai/gsm8k main", "codeparrot/apps", "google-research-datasets/mbpp full"
_DEEP = "deepmind/code_contests default"
_HUMANEVAL = "openai/openai_humaneval openai_humaneval test"
_LCB = "livecodebench/code_generation_lite test6.jsonl"  # what came with release 6
# fmt: off
SOURCES = {
    "gsm8k": Source(_problem, f"{_GSM8K} train", f"{_GSM8K} test", "arXiv 2110.14168"),
    "math500": Source(_problem, "", "HuggingFaceH4/MATH-500 default test", "arXiv 2305.20050"),
    "aime24": Source(_problem, "", "HuggingFaceH4/aime_2024 default train", "MAA, AIME 2024"),
    "aime25": Source(_problem, "", "math-ai/aime25 default test", "MAA, AIME 2025"),
    "olympiadbench": Source(_problem, "", _OLYMPIAD, "arXiv 2402.14008"),
    "polaris": Source(_problem, _POLARIS, "", "hkunlp.github.io/blog/2025/Polaris"),
    "mbpp": Source(_mbpp, f"{_MBPP} train", f"{_MBPP} test", "arXiv 2108.07732"),
    "humaneval": Source(_humaneval, "", _HUMANEVAL, "arXiv 2107.03374"),
    "apps": Source(_apps, f"{_APPS} train.jsonl", f"{_APPS} test.jsonl", "arXiv 2105.09938"),
    "code_contests": Source(_contests, f"{_DEEP} train", f"{_DEEP} test", "arXiv 2203.07814"),
    "livecodebench": Source(_livecodebench, "", _LCB, "arXiv 2403.07974"),
}
# fmt: on
PLACES = {place for source in SOURCES.values() for place in (source.train, source.test)} - {""}
_SHAPES = {  # a column that only one of them has
    "test_list": _mbpp,
    "entry_point": _humaneval,
    "input_output": _apps,
    "public_tests": _contests,
    "public_test_cases": _livecodebench,
}


def by_shape(row: Row, kind: str | None = None) -> Question:
    """A row of a file of unknown make: a built-in task's by its columns, else a generic one."""
    shapes = [convert for column, convert in _SHAPES.items() if column in row]
    return shapes[0](row) if shapes else generic(row, {}, kind)


def from_hub(name: str, place: str) -> Iterator[tuple[int, Row]]:
    """Numbered rows of a split. Raises InputError, saying what to bring, where it cannot be had."""
    import datasets
    import httpx

    # of disk and Hub, of a name, of a format, and of the network, raw from the Hub's client
    faults = (OSError, LookupError, RuntimeError, ValueError, httpx.HTTPError)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # not each of its retries
    repository, *rest = place.split()
    try:
        if len(rest) == 1:
            file = f"hf://datasets/{repository}/{rest[0]}"
            data = datasets.load_dataset("json", data_files=file, split="train")
        else:
            data = datasets.load_dataset(repository, rest[0], split=rest[1])
    except (*faults, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"task {name}: {place} cannot be loaded ({type(error).__name__}); without a network "
            f"bring that file (JSONL or Parquet) from https://huggingface.co/datasets/{repository} "
            f"and pass --set task.train=FILE, or --set task.test=FILE for the test questions"
        ) from error
    yield from enumerate(data, 1)
