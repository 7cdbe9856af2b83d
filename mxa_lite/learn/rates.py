"""The warm-up of each role's learning rate, over the updates in which that role learns.

Adam's first updates are as large as the rate allows, whatever the gradient. A role whose first turn
comes when the run's own warm-up is over would make them at its full rate.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from torch.optim.lr_scheduler import LambdaLR

from mxa_lite.credit.schedule import learning_roles
from mxa_lite.recipe.keys import Recipe
from mxa_lite.tree import ROLES

Factor = Callable[[int], float]  # of an update, which counts from 0


def warm_ups(recipe: Recipe) -> dict[str, Factor]:
    """Role -> the share of its rate at an update.

    1 / (w + 1), 2 / (w + 1), ... over a role's first w updates, w being `train.warmup_steps` in
    updates; 1 afterwards, and always where the scheduler is `constant`.
    """
    train = recipe.train
    warm = 0 if train.lr_scheduler == "constant" else train.warmup_steps * train.updates

    def of_role(role: str) -> Factor:
        turns = [role in learning(recipe, step) for step in range(1, train.steps + 1)]
        before = [0, *accumulate(turns)]  # steps in which the role has learned so far

        def factor(update: int) -> float:
            steps, updates_in_step = divmod(update, train.updates)
            steps = min(steps, train.steps)
            updates_learned = before[steps] * train.updates + updates_in_step
            return min(1.0, (updates_learned + 1) / (warm + 1))

        return factor

    return {role: of_role(role) for role in ROLES}


def with_warm_ups(scheduler: LambdaLR, recipe: Recipe) -> LambdaLR:
    """The scheduler, each factor times the warm-up of its group's `role` (else the executor's)."""
    warm = warm_ups(recipe)
    for number, group in enumerate(scheduler.optimizer.param_groups):
        course, warm_up = scheduler.lr_lambdas[number], warm[group.get("role", "executor")]
        factor = _product(course, warm_up)
        scheduler.lr_lambdas[number] = factor
        group["lr"] = scheduler.base_lrs[number] * factor(0)
    return scheduler


def _product(a: Factor, b: Factor) -> Factor:
    return lambda update: a(update) * b(update)


def learning(recipe: Recipe, step: int) -> tuple[str, ...]:
    """The roles whose adapters learn at a step (from 1); a shared adapter is the executor's."""
    if recipe.method == "single_agent" or recipe.model.adapters == "shared":
        return ("executor",)
    return learning_roles(recipe.schedule, step)
