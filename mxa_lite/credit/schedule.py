"""Who learns at which step (paper, eq. 9), and on which questions: pure functions of the step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mxa_lite.recipe import own

if TYPE_CHECKING:  # pydantic stays out of the pure part
    from mxa_lite.recipe.keys import Role, Schedule
    from mxa_lite.tree import Question


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


def questions_for(
    train: Sequence[Question], weights: Sequence[float], seed: int, step: int, count: int
) -> list[Question]:
    """The `count` questions of step `step` (from 1), a pure function of its arguments.

    Each source (the questions of a task and weight) gives its share, a rare one in some steps only,
    and is gone through in shuffled passes of its own.
    """
    sources: dict[tuple[str, float], list[Question]] = {}
    share: dict[tuple[str, float], float] = {}
    for question, weight in zip(train, weights, strict=True):
        source = (question.task, weight)
        sources.setdefault(source, []).append(question)
        share[source] = share.get(source, 0.0) + weight
    total = sum(share.values())
    drawn = dict.fromkeys(sources, 0)
    orders: dict[tuple[tuple[str, float], int], list[Question]] = {}  # of a source and pass
    chosen = []
    for slot in range(1, step * count + 1):
        lag = {source: slot * share[source] / total - drawn[source] for source in sources}
        name = max(lag, key=lag.__getitem__)  # the furthest behind its share of all slots so far
        turn, place = divmod(drawn[name], len(sources[name]))
        drawn[name] += 1
        if slot > (step - 1) * count:
            if (name, turn) not in orders:
                orders[name, turn] = list(sources[name])
                random.Random(f"{seed} {name[0]} {turn}").shuffle(orders[name, turn])
            chosen.append(orders[name, turn][place])
    return chosen
