"""Each role's warm-up counts the updates in which that role learns."""

from __future__ import annotations

import pytest

from mxa_lite.learn.rates import warm_ups
from mxa_lite.recipe import file as recipe_file


def shares(*sets: str) -> dict[str, list[float]]:
    """Role -> its share of the rate at each update of six steps."""
    recipe = recipe_file.load("arithmetic", ("train.steps=6", *sets))
    updates = range(recipe.train.steps * recipe.train.updates)
    return {role: [warm(update) for update in updates] for role, warm in warm_ups(recipe).items()}


def test_a_role_whose_turn_comes_later_begins_its_own_warm_up_then() -> None:
    warm = shares("train.warmup_steps=3", "schedule.period=2", "schedule.first=executor")
    assert warm["executor"][:2] == pytest.approx([1 / 4, 2 / 4])
    assert warm["designer"][2:4] == pytest.approx([1 / 4, 2 / 4])
    assert warm["executor"][4:6] == pytest.approx([3 / 4, 1])


def test_several_updates_of_a_step_are_each_a_step_of_the_warm_up() -> None:
    warm = shares("train.warmup_steps=1", "train.updates=2", "schedule.mode=coupled")
    assert warm["designer"][:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_no_update_has_a_rate_of_0() -> None:
    assert min(shares("train.warmup_steps=5")["executor"]) > 0


def test_constant_has_no_warm_up() -> None:
    warm = shares("train.warmup_steps=5", "train.lr_scheduler=constant")
    assert warm["executor"] == [1.0] * 6
