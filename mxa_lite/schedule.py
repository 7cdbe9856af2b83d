"""Which role learns at which step: a pure function of the step (paper, eq. 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # pydantic stays out of the pure part
    from mxa_lite.recipe import Role, Schedule


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
