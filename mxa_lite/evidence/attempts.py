"""Attempts at held-out questions, and the numbers of a mode that `eval.json` holds. No torch."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mxa_lite.credit.advantage import mean
from mxa_lite.credit.reward import paid_correct
from mxa_lite.evidence.stats import interval, shares
from mxa_lite.records import KindNumbers, ModeNumbers, Prediction
from mxa_lite.tree import Call, Execution, Outcome, Tree

IDS = ("prompt_ids", "completion_ids")  # of a call; a page and a transcript only count them
TRANSCRIPTS = "transcripts.jsonl"


@dataclass
class Attempt:
    """One try at one question. correct in 0..1; kind: of the question, "" where it has none."""

    question: str
    answer: str | None
    correct: float
    calls: list[Call] = field(default_factory=list)
    pattern: str = ""
    outcome: str = "ok"
    kind: str = ""


def attempts_of(trees: Sequence[Tree], answer_from: str) -> list[Attempt]:
    """One attempt per execution; a design that never ran is one wrong attempt."""
    attempts = []
    for tree in trees:
        question = tree.question
        kind = str(question.meta.get("kind", ""))
        for design in tree.designs:
            for e in design.executions or [Execution(design.outcome or Outcome.REJECTED)]:
                attempt = Attempt(
                    question.id,
                    e.answer,
                    paid_correct(e, question.kind, answer_from),
                    [design.call, *e.calls],
                    design.pattern,
                    str(e.outcome),
                    kind,
                )
                attempts.append(attempt)
    return attempts


def summarize(attempts: Sequence[Attempt]) -> ModeNumbers:
    """The numbers of a mode, `kinds` among them where questions have kinds."""
    tries = max(len(attempts), 1)
    by_question = _by_question(attempts)
    accuracy, low, high = interval(_means(by_question))
    prompt = sum(len(c.prompt_ids) for a in attempts for c in a.calls)
    completion = sum(completion_tokens(a) for a in attempts)
    numbers: ModeNumbers = {
        "accuracy": accuracy,
        "low": low,
        "high": high,
        "pass_at_k": mean([float(max(t) >= 1) for t in by_question.values()]),
        "k": max((len(t) for t in by_question.values()), default=0),
        "calls": sum(len(a.calls) for a in attempts) / tries,
        "tokens": (prompt + completion) / tries,
        "prompt_tokens": prompt / tries,
        "completion_tokens": completion / tries,
        "questions": len(by_question),
        "attempts": len(attempts),
    }
    kinds = {kind: [a for a in attempts if a.kind == kind] for kind in kinds_of(attempts)}
    if kinds:
        numbers["kinds"] = {kind: _kind_numbers(of_kind) for kind, of_kind in kinds.items()}
    return numbers


def _kind_numbers(attempts: Sequence[Attempt]) -> KindNumbers:
    accuracy, low, high = interval(_means(_by_question(attempts)))
    patterns = shares(a.pattern for a in attempts)
    return {"accuracy": accuracy, "low": low, "high": high, "patterns": patterns}


def kinds_of(attempts: Sequence[Attempt]) -> list[str]:
    return sorted({a.kind for a in attempts} - {""})


def completion_tokens(attempt: Attempt) -> int:
    """Tokens that all calls of an attempt wrote, the designer's among them."""
    return sum(len(call.completion_ids) for call in attempt.calls)


def _by_question(attempts: Sequence[Attempt]) -> dict[str, list[float]]:
    by_question: dict[str, list[float]] = defaultdict(list)
    for attempt in attempts:
        by_question[attempt.question].append(attempt.correct)
    return by_question


def _means(by_question: dict[str, list[float]]) -> list[float]:
    return [sum(tries) / len(tries) for tries in by_question.values()]


def save_predictions(modes: dict[str, list[Attempt]], folder: Path) -> None:
    """One JSONL file a mode."""
    folder.mkdir(parents=True, exist_ok=True)
    for mode, attempts in modes.items():
        with (folder / f"{mode}.jsonl").open("w", encoding="utf-8") as file:
            for a in attempts:
                row: Prediction = {
                    "question": a.question,
                    "answer": a.answer,
                    "correct": a.correct,
                    "calls": len(a.calls),
                    "tokens": completion_tokens(a),
                    "pattern": a.pattern,
                    "outcome": a.outcome,
                    "kind": a.kind,
                }
                file.write(json.dumps(row) + "\n")


def save_transcripts(trees: Sequence[Tree], folder: Path, answer_from: str) -> None:
    """`transcripts.jsonl`, a question a line as in `rollouts/`, but of token ids only their count.

    `correct` is the verdict as far as it is paid, so that a transcript says what its prediction
    says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / TRANSCRIPTS).open("w", encoding="utf-8") as file:
        for tree in trees:
            data = _counted(tree.to_json())
            for design, design_row in zip(tree.designs, data["designs"], strict=True):
                for e, row in zip(design.executions, design_row["executions"], strict=True):
                    row["correct"] = paid_correct(e, tree.question.kind, answer_from)
            file.write(json.dumps(data) + "\n")


def _counted(value: Any) -> Any:
    if isinstance(value, list):
        return [_counted(item) for item in value]
    if isinstance(value, dict):
        fields = {key: inner for key, inner in value.items() if key != "logps"}
        return {k: len(v) if k in IDS else _counted(v) for k, v in fields.items()}
    return value
