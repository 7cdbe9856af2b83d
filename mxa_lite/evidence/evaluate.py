"""Accuracy on held-out questions: the designed systems, one agent alone, self-consistency."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mxa_lite.credit.advantage import paid_correct
from mxa_lite.evidence.stats import interval
from mxa_lite.mas.patterns import SYSTEMS
from mxa_lite.rollout.sampler import Sampler, Shape
from mxa_lite.rollout.single import single_trees
from mxa_lite.tree import Call, Design, Question, Tree

TAG = "eval"  # in every sampling key: cells and seeds are compared on equal noise


@dataclass
class Attempt:
    """One try at one question. correct in 0..1."""

    question: str
    answer: str | None
    correct: float
    calls: list[Call] = field(default_factory=list)
    pattern: str = ""
    outcome: str = "ok"


def summarize(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """accuracy (avg@k) with its 95 % interval, pass@k, and cost per attempt."""
    by_question: dict[str, list[float]] = defaultdict(list)
    for attempt in attempts:
        by_question[attempt.question].append(attempt.correct)
    means = [sum(tries) / len(tries) for tries in by_question.values()]
    accuracy, low, high = interval(means)
    tries = max(len(attempts), 1)
    prompt = sum(len(c.prompt_ids) for a in attempts for c in a.calls)
    completion = sum(len(c.completion_ids) for a in attempts for c in a.calls)
    return {
        "accuracy": accuracy,
        "low": low,
        "high": high,
        "pass_at_k": interval([float(max(t) >= 1) for t in by_question.values()])[0],
        "k": max((len(t) for t in by_question.values()), default=0),
        "calls": sum(len(a.calls) for a in attempts) / tries,
        "tokens": (prompt + completion) / tries,
        "prompt_tokens": prompt / tries,
        "completion_tokens": completion / tries,
        "questions": len(by_question),
        "attempts": len(attempts),
    }


def attempts_of(trees: Sequence[Tree], answer_from: str) -> list[Attempt]:
    """One attempt per execution; a design that never ran is one wrong attempt."""
    found = []
    for tree in trees:
        for design in tree.designs:
            if not design.executions:
                outcome = str(design.outcome)
                found.append(
                    Attempt(tree.question.id, None, 0.0, [design.call], design.pattern, outcome)
                )
            for e in design.executions:
                correct = paid_correct(e, tree.question.kind, answer_from)
                calls = [design.call, *e.calls]
                found.append(
                    Attempt(
                        tree.question.id, e.answer, correct, calls, design.pattern, str(e.outcome)
                    )
                )
    return found


def designed(
    sampler: Sampler, questions: Sequence[Question], samples: int, temperature: float
) -> list[Attempt]:
    """`samples` designs per question, each executed once."""
    trees = sampler.rollout(questions, Shape(samples, 1, temperature), TAG)
    return attempts_of(trees, sampler.recipe.credit.answer_from)


def direct(
    sampler: Sampler,
    questions: Sequence[Question],
    samples: int,
    temperature: float,
    votes: int = 1,
) -> list[Attempt]:
    """The executor with the fixed single-agent prompt: one call, or a majority over `votes`."""
    trees = single_trees(sampler, questions, Shape(samples, 1, temperature), TAG, votes)
    attempts = attempts_of(trees, "any")  # the answer is a reply's, taken by the kit itself
    return [replace(a, calls=a.calls[1:], pattern="single") for a in attempts]


def hand_written(
    sampler: Sampler,
    questions: Sequence[Question],
    script: str,
    pattern: str,
    samples: int,
    temperature: float,
) -> list[Attempt]:
    """`samples` runs of a given script per question; no designer is asked."""
    tries = [q for q in questions for _ in range(samples)]
    designs = [Design(Call("designer", "", 0, []), script, pattern) for _ in tries]
    pairs = list(zip(tries, designs, strict=True))
    sampler.run_scripts(pairs, temperature)
    trees = [Tree(question, [design]) for question, design in pairs]
    attempts = attempts_of(trees, sampler.recipe.credit.answer_from)
    return [replace(a, calls=a.calls[1:]) for a in attempts]  # the designer's is empty


def main_mode(sampler: Sampler, questions: Sequence[Question]) -> dict[str, dict[str, Any]]:
    """The numbers of the mode that the method is judged by, alone."""
    recipe = sampler.recipe
    make = {"designed": designed, "single": direct}[recipe.mode]
    attempts = make(sampler, questions, recipe.eval.samples, recipe.rollout.temperature)
    return {recipe.mode: summarize(attempts)}


def measure(
    sampler: Sampler,
    questions: Sequence[Question],
    folder: Path | None = None,
    fixed: bool = False,
) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Mode -> numbers, for the policy as it stands, and mode -> seconds per attempt, in batches.

    Predictions go to `folder/<mode>.jsonl`.

    fixed: the hand-written systems too, whatever the recipe says.
    """
    recipe = sampler.recipe
    temperature, samples = recipe.rollout.temperature, recipe.eval.samples
    modes: dict[str, list[Attempt]] = {}
    seconds: dict[str, float] = {}

    def add(mode: str, make: Callable[..., list[Attempt]], *arguments: Any) -> None:
        started = time.perf_counter()
        modes[mode] = make(sampler, questions, *arguments)
        seconds[mode] = (time.perf_counter() - started) / max(len(modes[mode]), 1)

    votes = recipe.rollout.designs
    if recipe.method == "metaagent":
        add("designed", designed, samples, temperature)
        ran = [a for a in modes["designed"] if len(a.calls) > 1]
        votes = max(1, round(sum(len(a.calls) - 1 for a in ran) / len(ran))) if ran else 1
        if recipe.eval.greedy:
            add("designed_greedy", designed, 1, 0.0)
    if "single" in recipe.eval.baselines or recipe.method == "single_agent":
        add("single", direct, samples, temperature)
        if recipe.eval.greedy:
            add("single_greedy", direct, 1, 0.0)
    if "self_consistency" in recipe.eval.baselines:
        tries = max(1, samples // 2)  # each is several calls
        add("self_consistency", direct, tries, temperature, votes)
    if fixed or ("fixed" in recipe.eval.baselines and recipe.method == "metaagent"):
        for pattern, script in SYSTEMS.items():
            add(f"fixed_{pattern}", hand_written, script, pattern, samples, temperature)
    if folder is not None:
        save_predictions(modes, folder)
    return {mode: summarize(attempts) for mode, attempts in modes.items()}, seconds


def save_predictions(modes: dict[str, list[Attempt]], folder: Path) -> None:
    """One JSONL file a mode: question, answer, correct, calls, tokens, pattern, outcome."""
    folder.mkdir(parents=True, exist_ok=True)
    for mode, attempts in modes.items():
        with (folder / f"{mode}.jsonl").open("w", encoding="utf-8") as file:
            for a in attempts:
                row = {
                    "question": a.question,
                    "answer": a.answer,
                    "correct": a.correct,
                    "calls": len(a.calls),
                    "tokens": sum(len(c.completion_ids) for c in a.calls),
                    "pattern": a.pattern,
                    "outcome": a.outcome,
                }
                file.write(json.dumps(row) + "\n")
