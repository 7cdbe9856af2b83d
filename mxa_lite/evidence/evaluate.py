"""Accuracy on held-out questions: designed systems, one agent, self-consistency, fixed systems."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mxa_lite.evidence.attempts import (
    Attempt,
    attempts_of,
    completion_tokens,
    kinds_of,
    save_predictions,
    save_transcripts,
    summarize,
)
from mxa_lite.evidence.rivals import best_by_kind, best_fixed
from mxa_lite.mas.patterns import ROUTER, within
from mxa_lite.recipe.own import Own
from mxa_lite.records import ModeNumbers, Modes
from mxa_lite.rollout.sampler import Sampler, Shape
from mxa_lite.rollout.single import Ballots, single_trees
from mxa_lite.tree import Call, Design, Question, Tree

TAG = "eval"  # in every sampling key: cells and seeds are compared on equal noise
Designs = Mapping[str, list[Design]]  # of each question id
HAND_WRITTEN = ("fixed", "router")  # baselines that a run measures after its training only


@dataclass
class Measured:
    """Attempts by mode, their numbers as `eval.json` has them, and seconds per attempt, in batches.

    designs: what the designer wrote for the mode `designed`.
    """

    attempts: dict[str, list[Attempt]] = field(default_factory=dict)
    numbers: Modes = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    designs: Designs = field(default_factory=dict)

    def add(self, mode: str, attempts: list[Attempt]) -> ModeNumbers:
        self.attempts[mode] = attempts
        self.numbers[mode] = summarize(attempts)
        return self.numbers[mode]


class Drawn(Sampler):
    """A sampler that executes designs drawn before, and asks no designer."""

    def __init__(self, base: Sampler, designs: Designs) -> None:
        super().__init__(base.engine, base.sandbox, base.grader, base.recipe)
        self.designs = designs

    def design(
        self, questions: Sequence[Question], shape: Shape, tag: int | str
    ) -> dict[str, list[Design]]:
        return {q.id: [replace(d, executions=[]) for d in self.designs[q.id]] for q in questions}


@dataclass(frozen=True)
class Exam:
    """Who answers which questions, each `samples` times, at which temperature."""

    sampler: Sampler
    questions: Sequence[Question]
    samples: int
    temperature: float

    def shape(self) -> Shape:
        return Shape(self.samples, 1, self.temperature)


def designed_trees(exam: Exam) -> list[Tree]:
    """`samples` designs per question, each executed once."""
    return exam.sampler.rollout(exam.questions, exam.shape(), TAG)


def designed(exam: Exam) -> list[Attempt]:
    return attempts_of(designed_trees(exam), exam.sampler.recipe.credit.answer_from)


def direct(exam: Exam, votes: int = 1) -> list[Attempt]:
    """The executor with the fixed single-agent prompt: one call, or a majority over `votes`."""
    return _alone(single_trees(exam.sampler, exam.questions, exam.shape(), TAG, votes))


def _alone(trees: list[Tree]) -> list[Attempt]:
    attempts = attempts_of(trees, "any")  # the answer is a reply's, taken by the kit itself
    return [replace(a, calls=a.calls[1:], pattern="single") for a in attempts]


def self_consistency(exam: Exam, designed: Sequence[Attempt]) -> tuple[list[Attempt], int]:
    """A majority over so many votes that it costs at least as many calls, and completion tokens,
    as `designed` on average, the designer's own among them; and how many votes that are."""
    tries = max(len(designed), 1)
    calls = sum(len(a.calls) for a in designed) / tries
    tokens = sum(completion_tokens(a) for a in designed) / tries
    ballots = Ballots(exam.sampler, exam.questions, exam.shape(), TAG)
    drawn, votes = 0, max(1, math.ceil(calls))
    while drawn < votes:  # each call once, however often the number of votes rises
        ballots.draw(range(drawn, votes))
        drawn, mean = votes, ballots.completion_tokens()
        if 0 < mean < tokens:
            votes = max(votes + 1, math.ceil(tokens * votes / mean))
    return _alone(ballots.trees()), votes


def hand_written(exam: Exam, script: str, pattern: str) -> list[Attempt]:
    """`samples` runs of a given script per question; no designer is asked."""
    tries = [q for q in exam.questions for _ in range(exam.samples)]
    designs = [Design(Call("designer", "", 0, []), script, pattern) for _ in tries]
    pairs = list(zip(tries, designs, strict=True))
    exam.sampler.run_scripts(pairs, exam.temperature)
    trees = [Tree(question, [design]) for question, design in pairs]
    attempts = attempts_of(trees, exam.sampler.recipe.credit.answer_from)
    return [replace(a, calls=a.calls[1:]) for a in attempts]  # the designer's is empty


def main_mode(sampler: Sampler, questions: Sequence[Question]) -> Modes:
    """The numbers of the mode that the method is judged by, alone."""
    recipe = sampler.recipe
    exam = Exam(sampler, questions, recipe.eval.samples, recipe.rollout.temperature)
    return {recipe.mode: summarize(direct(exam) if recipe.mode == "single" else designed(exam))}


def measure(
    sampler: Sampler,
    questions: Sequence[Question],
    baselines: Sequence[str],
    folder: Path,
    own_systems: Sequence[Own] = (),
    tell: Callable[[str, ModeNumbers], None] = lambda mode, numbers: None,
) -> Measured:
    """The method and its `baselines` (as `eval.baselines`) with the policy as it stands.

    With "fixed" come `fixed_<system>` for every hand-written system within `rollout.max_calls`,
    `fixed_best`, and where questions have kinds `oracle_kind`. own_systems: scripts, measured as
    `own_<name of the file>`. tell gets a mode's numbers once it is measured. Predictions go to
    `folder/<mode>.jsonl`, what the designs and their agents said to `folder/transcripts.jsonl`.
    """
    recipe = sampler.recipe
    measured, votes = Measured(), 0
    modes = measured.attempts
    exam = Exam(sampler, questions, recipe.eval.samples, recipe.rollout.temperature)
    greedy = replace(exam, samples=1, temperature=0.0)
    voted = replace(exam, samples=max(1, recipe.eval.samples // 2))  # each is several calls
    fixed = replace(exam, samples=recipe.eval.fixed_samples)

    def add(mode: str, make: Callable[..., list[Attempt]], *arguments: Any) -> None:
        started = time.perf_counter()
        attempts = make(*arguments)
        measured.seconds[mode] = (time.perf_counter() - started) / max(len(attempts), 1)
        tell(mode, measured.add(mode, attempts))

    def drawing() -> list[Attempt]:
        trees = designed_trees(exam)
        measured.designs = {tree.question.id: tree.designs for tree in trees}
        save_transcripts(trees, folder, recipe.credit.answer_from)
        return attempts_of(trees, recipe.credit.answer_from)

    def voting() -> list[Attempt]:
        nonlocal votes
        attempts, votes = self_consistency(voted, modes["designed"])
        return attempts

    if recipe.method == "metaagent":
        add("designed", drawing)
        if recipe.eval.greedy:
            add("designed_greedy", designed, greedy)
    if "single" in baselines or recipe.method == "single_agent":
        add("single", direct, exam)
        if recipe.eval.greedy:
            add("single_greedy", direct, greedy)
    if "self_consistency" in baselines:
        if recipe.method == "metaagent":
            add("self_consistency", voting)
            measured.numbers["self_consistency"]["votes"] = votes
        else:
            add("self_consistency", direct, voted, recipe.rollout.designs)
    if "router" in baselines:
        add("router", hand_written, exam, ROUTER, "router")
    if "fixed" in baselines:
        systems = within(recipe.rollout.max_calls)
        for name, script in systems.items():
            add(f"fixed_{name}", hand_written, fixed, script, name)
        _add_best(measured, {name: modes[f"fixed_{name}"] for name in systems})
    for system in own_systems:
        name = f"own_{Path(system.file).stem}"
        add(name, hand_written, fixed, system.text, name)
    save_predictions(modes, folder)
    return measured


def _add_best(measured: Measured, systems: Mapping[str, Sequence[Attempt]]) -> None:
    """The modes that choose among the fixed systems; `system` says which they chose."""
    attempts, name = best_fixed(systems)
    measured.add("fixed_best", attempts)["system"] = name
    if kinds_of(attempts):
        attempts, by_kind = best_by_kind(systems)
        measured.add("oracle_kind", attempts)["system"] = by_kind
