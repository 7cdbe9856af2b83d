"""Strict graders: a verdict says what was shown, and what is not shown is not paid.

Math answers are compared as exact values (`grading`), programs by their unit tests in the sandbox
(`grade_code`). An empty answer, a test that does not parse and a missing test are false.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mxa_lite.errors import InputError
from mxa_lite.grading.compare import compare, final
from mxa_lite.grading.read import number
from mxa_lite.grading.worker import Worker
from mxa_lite.recipe import own
from mxa_lite.sandbox.box import Limits, Sandbox
from mxa_lite.tasks import grade_code
from mxa_lite.tasks.rows import Row, read
from mxa_lite.texts import answers
from mxa_lite.tree import Question

_OUTPUT_KB = 16 << 10  # of a program under test
_YES_NO = ("True", "False", "Yes", "No", "yes", "no")


class Verdict(NamedTuple):
    """correct: 1.0 or 0.0, or the share of passed tests where that was asked for."""

    correct: float
    reason: str


class Grader:
    """Grades answers; starts its worker and its sandbox when one is first needed.

    sandbox_require: the least sandbox level. ratio: pay the share of passed tests instead of all
    or nothing. seconds: limit of one comparison. limits: of one program under test. scores: the
    own functions that questions name in `meta["score"]`; they grade in this process.
    """

    def __init__(
        self,
        sandbox_require: str = "rlimits",
        *,
        ratio: bool = False,
        seconds: float = 5.0,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        scores: Iterable[own.Own] = (),
    ) -> None:
        self._scores = {str(score): score for score in scores}
        self._require, self._limits, self._ratio = sandbox_require, limits, ratio
        self._worker = Worker("mxa_lite.grading.expressions:holds", seconds)
        self._scorer = Worker("reasoning_gym,mxa_lite.tasks.gym:score", seconds)
        self._sandbox: Sandbox | None = None
        self._seen: dict[str, float] = {}  # request -> what the worker said

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._worker.close()
        self._scorer.close()
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None

    def grade(self, question: Question, answer: str) -> Verdict:
        """The verdict on one answer: a whole reply or what was extracted from it."""
        return self.grade_many([(question, answer)])[0]

    def grade_many(self, pairs: Sequence[tuple[Question, str]]) -> list[Verdict]:
        """Verdicts in order; the programs of all code answers run side by side."""
        verdicts = [self._without_program(*pair) for pair in pairs]
        graded = iter(self._code([p for p, v in zip(pairs, verdicts, strict=True) if v is None]))
        return [next(graded) if verdict is None else verdict for verdict in verdicts]

    def _without_program(self, question: Question, answer: str) -> Verdict | None:
        """The verdict on one answer; None for a program, which is run beside others."""
        if not answer.strip():
            return Verdict(0.0, "empty answer")
        if score := self._scores.get(question.meta.get("score", "")):
            return Verdict(own.number(score, score(question, answer), highest=1.0), f"by {score}")
        return None if question.kind == "code" else self._math(question, answer)

    def _math(self, question: Question, answer: str) -> Verdict:
        gold, place = question.gold, question.meta.get("gym")
        if gold is None and not place:
            return Verdict(0.0, "no gold answer")
        choices = bool(question.meta.get("choices"))
        same = False if gold is None else compare(gold, answer, choices, question.text)
        # its scorers misread numbers, and one takes any text for True
        plain = gold is not None and (number(gold) is not None or gold in _YES_NO)
        if place and same is not True and not plain:
            request = {"place": place, "question": question.text, "answer": final(answer)}
            return self._ask(self._scorer, request)
        if isinstance(same, list):
            return self._ask(self._worker, {"claim": same})
        return Verdict(float(same), "equal" if same else "different")

    def _ask(self, worker: Worker, request: dict[str, Any]) -> Verdict:
        key = json.dumps(request)
        if key not in self._seen:
            self._seen[key] = worker.ask(request)
        return Verdict(self._seen[key], "equal" if self._seen[key] == 1 else "not shown equal")

    def _code(self, pairs: Sequence[tuple[Question, str]]) -> list[Verdict]:
        verdicts = [Verdict(0.0, "")] * len(pairs)
        waiting = {
            i: grade_code.passes(question, answers.extract(answer, "code"), self._ratio)
            for i, (question, answer) in enumerate(pairs)
        }
        results: dict[int, Any] = {}
        while waiting:
            batches: dict[int, grade_code.Programs] = {}
            for i, grading in list(waiting.items()):
                try:
                    batches[i] = grading.send(results.get(i))
                except StopIteration as end:
                    verdicts[i] = self._share(end.value)
                    del waiting[i]
                except (SyntaxError, ValueError, RecursionError) as error:  # of a test's own text
                    verdicts[i] = Verdict(0.0, f"no test could be run: {error}")
                    del waiting[i]
            if batches and self._sandbox is None:
                limits = replace(self._limits, output_kb=_OUTPUT_KB)
                self._sandbox = Sandbox(limits, self._require)
            programs = [program for batch in batches.values() for program in batch]
            ended = iter(self._sandbox.run_codes(programs) if self._sandbox else [])
            results = {i: [next(ended) for _ in batch] for i, batch in batches.items()}
        return verdicts

    def _share(self, checks: list[grade_code.Check]) -> Verdict:
        """The verdict of all tests, and the reasons of those that were left out or not passed."""
        judged = [bool(passed) for passed, _ in checks if passed is not None]
        left_out = dict.fromkeys(failure for passed, failure in checks if passed is None)
        failures = dict.fromkeys(failure for passed, failure in checks if passed is False)
        reasons = [f"{sum(judged)} of {len(judged)} tests passed"]
        if left_out:
            reasons.append(f"{len(checks) - len(judged)} left out: {', '.join(left_out)}")
        if not judged:
            return Verdict(0.0, "; ".join(["no test could be run", *reasons[1:]]))
        reasons += [f"not passed: {', '.join(failures)}"] if failures else []
        share = sum(judged) / len(judged)
        return Verdict(share if self._ratio else float(share == 1), "; ".join(reasons))


def grade_file(path: str | Path) -> list[bool]:
    """Verdicts for the lines `{"task", "gold" or "tests", "answer"}` of a JSONL file, in order.

    tests: list of asserts or of {"input", "output"}. Optional: "setup" (code before the asserts),
    "choices" (multiple choice). Raises InputError with the number of a line that is not such.
    """
    pairs = []
    for line, row in read(str(path)):
        try:
            pairs.append(_pair(row))
        except ValueError as error:
            raise InputError(f"{path} line {line}: {error}") from error
    with Grader() as grader:
        return [verdict.correct == 1 for verdict in grader.grade_many(pairs)]


def _pair(row: Row | None) -> tuple[Question, str]:
    if row is None:
        raise ValueError("not JSON, or not a JSON object")
    missing = [key for key in ("task", "answer") if key not in row]
    if missing or not {"gold", "tests"} & row.keys():
        raise ValueError(f"no {' or '.join(missing) or 'gold or tests'!r}")
    tests, gold, answer = row.get("tests"), row.get("gold"), row["answer"]
    if tests is not None and not (isinstance(tests, list) and all(map(grade_code.is_test, tests))):
        raise ValueError("'tests' is not a list of asserts or of {'input', 'output'}")
    meta = {"setup": str(row.get("setup") or ""), "choices": bool(row.get("choices"))}
    kind, gold = "math" if tests is None else "code", None if gold is None else str(gold)
    question = Question("", "", str(row["task"]), kind, gold, tests or [], meta)
    return question, "" if answer is None else str(answer)
