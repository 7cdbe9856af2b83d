"""Who learns at which step (paper, eq. 9), and on which questions: pure functions of the step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # pydantic stays out of the pure part
    from mxa_lite.recipe import Role, Schedule
    from mxa_lite.tree import Question


def role(t: int, period: int, first: Role = "executor") -> Role:
    """Eq. 9, t from 0: `first` while floor(t / period) is even, the other role while it is odd."""
    second: Role = "designer" if first == "executor" else "executor"
    return first if (t // period) % 2 == 0 else second


def learning_roles(schedule: Schedule, step: int) -> tuple[Role, ...]:
    """The roles that learn in step `step` of the logs, which counts from 1."""
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


def questions_for(
    train: Sequence[Question], weights: Sequence[float], seed: int, step: int, count: int
) -> list[Question]:
    """The `count` questions of step `step` (from 1), a pure function of its arguments.

    Each source (questions of equal weight and task) gives its share of every batch and is gone
    through in shuffled passes of its own.
    """
    sources: dict[str, list[Question]] = {}
    share: dict[str, float] = {}
    for question, weight in zip(train, weights, strict=True):
        sources.setdefault(question.task, []).append(question)
        share[question.task] = share.get(question.task, 0.0) + weight
    total = sum(share.values())
    quota = {name: int(count * share[name] / total) for name in sources}
    by_rest = sorted(sources, key=lambda n: quota[n] - count * share[n] / total)
    for name in by_rest[: count - sum(quota.values())]:
        quota[name] += 1
    chosen = []
    for name, rows in sources.items():
        for position in range((step - 1) * quota[name], step * quota[name]):
            turn, place = divmod(position, len(rows))
            order = list(range(len(rows)))
            random.Random(f"{seed} {name} {turn}").shuffle(order)
            chosen.append(rows[order[place]])
    return chosen
