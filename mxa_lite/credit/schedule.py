"""Who learns at which step (paper, eq. 9), and on which questions: pure functions of the step."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mxa_lite.recipe import own

if TYPE_CHECKING:  # pydantic stays out of the pure part
    from mxa_lite.recipe.keys import Schedule
    from mxa_lite.tree import Question, Role


def role(t: int, period: int, first: Role = "executor") -> Role:
    """Eq. 9, t from 0: `first` while floor(t / period) is even, the other role while it is odd."""
    second: Role = "designer" if first == "executor" else "executor"
    return first if (t // period) % 2 == 0 else second


def learning_roles(schedule: Schedule, step: int) -> tuple[str, ...]:
    """The roles that learn in step `step` of the logs, which counts from 1.

    Raises InputError where the recipe's own function fails or names no role.
    """
    if isinstance(schedule.mode, own.Own):
        return own.roles(schedule.mode, step)
    if schedule.mode == "coupled":
        return ("designer", "executor")
    if schedule.mode == "designer_only":
        return ("designer",)
    if schedule.mode == "executor_only":
        return ("executor",)
    return (role(step - 1, schedule.period, schedule.first),)


def stage(schedule: Schedule, step: int) -> int:
    """Number of the stage that step `step` (from 1) belongs to, from 0; one stage if not staged."""
    return (step - 1) // schedule.period if schedule.mode == "stagewise" else 0


Source = tuple[str, float]  # the questions of a task that weigh the same


class Draws:
    """The questions of every step, made once in their order: a step costs the same whether it is
    early or late, of few questions or many."""

    def __init__(
        self, train: Sequence[Question], weights: Sequence[float], seed: int, count: int
    ) -> None:
        self.train, self.weights, self.seed, self.count = train, weights, seed, count
        self.sources: dict[Source, list[Question]] = {}
        self.share: dict[Source, float] = {}
        for question, weight in zip(train, weights, strict=True):
            source = (question.task, weight)
            self.sources.setdefault(source, []).append(question)
            self.share[source] = self.share.get(source, 0.0) + weight
        self.total = sum(self.share.values())
        self.drawn = dict.fromkeys(self.sources, 0)
        self.left: dict[Source, list[Question]] = {source: [] for source in self.sources}
        self.steps: list[list[Question]] = []

    def add_step(self) -> None:
        """Draw the next step: a source that is used up within it leaves its place to the others."""
        chosen: dict[str, Question] = {}
        room = {source: len(questions) for source, questions in self.sources.items()}
        first = len(self.steps) * self.count + 1
        for slot in range(first, first + self.count):
            lag = {s: slot * self.share[s] / self.total - self.drawn[s] for s in room if room[s]}
            if not lag:
                break
            source = max(lag, key=lag.__getitem__)  # the furthest behind its share of all slots
            room[source] -= 1
            question = self._next(source, chosen)
            chosen[question.id] = question
        self.steps.append(list(chosen.values()))

    def _next(self, source: Source, chosen: Mapping[str, Question]) -> Question:
        """The next of the source's pass that this step has not; the end of a pass may be in it."""
        left, size = self.left[source], len(self.sources[source])
        if not left:
            left += self.sources[source]
            turn = self.drawn[source] // size
            random.Random(f"{self.seed} {source[0]} {turn}").shuffle(left)
            left.reverse()
        self.drawn[source] += 1
        return left.pop(next(i for i in range(-1, -size - 1, -1) if left[i].id not in chosen))


_latest: dict[tuple[int, ...], Draws] = {}  # two: those of a cold start and of the training


def questions_for(
    train: Sequence[Question], weights: Sequence[float], seed: int, step: int, count: int
) -> list[Question]:
    """The questions of step `step` (from 1), each once: `count`, or all where there are fewer.

    A pure function of its arguments, which must not be changed in place. Each source gives its
    share, a rare one in some steps only, and is gone through in shuffled passes of its own.
    """
    key = (id(train), id(weights), len(train), seed, count)
    draws = _latest.pop(key, None) or Draws(train, weights, seed, count)
    _latest[key] = draws
    if len(_latest) > 2:
        del _latest[next(iter(_latest))]
    while len(draws.steps) < step:
        draws.add_step()
    return list(draws.steps[step - 1])
