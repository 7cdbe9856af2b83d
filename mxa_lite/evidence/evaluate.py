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
    ModeNumbers,
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
from mxa_lite.rollout.sampler import Sampler, Shape
from mxa_lite.rollout.single import single_trees
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
    numbers: dict[str, ModeNumbers] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    designs: Designs = field(default_factory=dict)

    def add(self, mode: str, attempts: list[Attempt]) -> ModeNumbers:
        self.attempts[mode] = attempts
        self.numbers[mode] = summarize(attempts)
        return self.numbers[mode]


class _Drawn(Sampler):
    """A sampler that executes designs drawn before, and asks no designer."""

    def __init__(self, base: Sampler, designs: Designs) -> None:
        super().__init__(base.engine, base.sandbox, base.grader, base.recipe)
        self.designs = designs

    def design(
        self, questions: Sequence[Question], shape: Shape, tag: int | str
    ) -> dict[str, list[Design]]:
        return {q.id: [replace(d, executions=[]) for d in self.designs[q.id]] for q in questions}


def designed_trees(
    sampler: Sampler,
    questions: Sequence[Question],
    samples: int,
    temperature: float,
    designs: Designs | None = None,
) -> list[Tree]:
    """`samples` designs per question, each executed once; designs: drawn before, not again."""
    if designs is not None:
        sampler = _Drawn(sampler, designs)
    return sampler.rollout(questions, Shape(samples, 1, temperature), TAG)


def designed(
    sampler: Sampler,
    questions: Sequence[Question],
    samples: int,
    temperature: float,
    designs: Designs | None = None,
) -> list[Attempt]:
    """The attempts of `designed_trees`."""
    trees = designed_trees(sampler, questions, samples, temperature, designs)
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


def self_consistency(
    sampler: Sampler,
    questions: Sequence[Question],
    samples: int,
    temperature: float,
    designed: Sequence[Attempt],
) -> tuple[list[Attempt], int]:
    """A majority over so many votes that it costs at least as many calls, and completion tokens,
    as `designed` on average, the designer's own among them; and how many votes that are."""
    tries = max(len(designed), 1)
    calls = sum(len(a.calls) for a in designed) / tries
    tokens = sum(completion_tokens(a) for a in designed) / tries
    votes = max(1, math.ceil(calls))
    while True:
        attempts = direct(sampler, questions, samples, temperature, votes)
        mean = sum(completion_tokens(a) for a in attempts) / max(len(attempts), 1)
        if mean >= tokens or not mean:
            return attempts, votes
        votes = max(votes + 1, math.ceil(tokens * votes / mean))


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


def main_mode(sampler: Sampler, questions: Sequence[Question]) -> dict[str, ModeNumbers]:
    """The numbers of the mode that the method is judged by, alone."""
    recipe = sampler.recipe
    make = direct if recipe.mode == "single" else designed
    attempts = make(sampler, questions, recipe.eval.samples, recipe.rollout.temperature)
    return {recipe.mode: summarize(attempts)}


def measure(
    sampler: Sampler,
    questions: Sequence[Question],
    baselines: Sequence[str],
    folder: Path | None = None,
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
    temperature, samples = recipe.rollout.temperature, recipe.eval.samples
    measured, votes = Measured(), 0
    modes = measured.attempts

    def add(mode: str, make: Callable[..., list[Attempt]], *arguments: Any) -> None:
        started = time.perf_counter()
        attempts = make(sampler, questions, *arguments)
        measured.seconds[mode] = (time.perf_counter() - started) / max(len(attempts), 1)
        tell(mode, measured.add(mode, attempts))

    def drawing(*arguments: Any) -> list[Attempt]:
        trees = designed_trees(*arguments)
        measured.designs = {tree.question.id: tree.designs for tree in trees}
        if folder is not None:
            save_transcripts(trees, folder, recipe.credit.answer_from)
        return attempts_of(trees, recipe.credit.answer_from)

    def voting(*arguments: Any) -> list[Attempt]:
        nonlocal votes
        attempts, votes = self_consistency(*arguments)
        return attempts

    if recipe.method == "metaagent":
        add("designed", drawing, samples, temperature)
        if recipe.eval.greedy:
            add("designed_greedy", designed, 1, 0.0)
    if "single" in baselines or recipe.method == "single_agent":
        add("single", direct, samples, temperature)
        if recipe.eval.greedy:
            add("single_greedy", direct, 1, 0.0)
    if "self_consistency" in baselines:
        tries = max(1, samples // 2)  # each is several calls
        if recipe.method == "metaagent":
            add("self_consistency", voting, tries, temperature, modes["designed"])
            measured.numbers["self_consistency"]["votes"] = votes
        else:
            add("self_consistency", direct, tries, temperature, recipe.rollout.designs)
    if "router" in baselines:
        add("router", hand_written, ROUTER, "router", samples, temperature)
    if "fixed" in baselines:
        systems = within(recipe.rollout.max_calls)
        for name, script in systems.items():
            tries = recipe.eval.fixed_samples
            add(f"fixed_{name}", hand_written, script, name, tries, temperature)
        _add_best(measured, {name: modes[f"fixed_{name}"] for name in systems})
    for system in own_systems:
        name, tries = f"own_{Path(system.file).stem}", recipe.eval.fixed_samples
        add(name, hand_written, system.text, name, tries, temperature)
    if folder is not None:
        save_predictions(modes, folder)
    return measured


def _add_best(measured: Measured, systems: Mapping[str, Sequence[Attempt]]) -> None:
    """The modes that choose among the fixed systems; `system` says which they chose."""
    attempts, name = best_fixed(systems)
    measured.add("fixed_best", attempts)["system"] = name
    if kinds_of(attempts):
        attempts, by_kind = best_by_kind(systems)
        measured.add("oracle_kind", attempts)["system"] = by_kind
