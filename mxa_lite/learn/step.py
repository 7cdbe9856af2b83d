"""One training step, top to bottom. Begin reading here.

draw questions -> roll out -> assign credit -> who learns -> mini-batches. `trainer.RoleTrainer`
takes a step like this one and turns each mini-batch into one optimizer update. Equations are those
of the paper (arXiv 2605.14212).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from mxa_lite.credit.advantage import GroupStats, assign
from mxa_lite.credit.schedule import learning_roles, questions_for
from mxa_lite.learn import distributed
from mxa_lite.learn.batching import Trajectory, trajectories
from mxa_lite.recipe.keys import Recipe
from mxa_lite.records import UpdateNumbers
from mxa_lite.rollout.sampler import Sampler, Shape
from mxa_lite.rollout.single import single_trees
from mxa_lite.tasks.load import TaskSet
from mxa_lite.tree import Tree


@dataclass
class Step:
    """A step as data. number: from 1. mini_batches: trajectories of each optimizer update.

    numbers: what the trainer measured, one entry an update.
    """

    number: int
    roles: tuple[str, ...]
    trees: list[Tree]
    groups: GroupStats
    mini_batches: list[list[Trajectory]]
    numbers: list[UpdateNumbers] = field(default_factory=list)

    @classmethod
    def of(cls, number: int, trees: list[Tree], roles: tuple[str, ...]) -> Step:
        """A step of one update over trees that are there already, credit assigned."""
        return cls(number, roles, trees, GroupStats(), [trajectories(trees, roles)])


def take(number: int, recipe: Recipe, data: TaskSet, sampler: Sampler) -> Step:
    """The step `number` (from 1): rolled out and credited, ready to learn from."""
    count = recipe.train.questions
    questions = questions_for(data.train, data.weights, recipe.seed, number, count)
    questions = questions[distributed.RANK :: distributed.SIZE]  # this process's share

    # Eq. 1: M designs a question, N executions a design; one agent alone makes M x N calls.
    shape = Shape(recipe.rollout.designs, recipe.rollout.executions, recipe.rollout.temperature)
    alone = recipe.method == "single_agent"
    if alone:
        trees = single_trees(sampler, questions, shape, number)
    else:
        trees = sampler.rollout(questions, shape, number)

    # Eq. 10: rewards; eq. 4 to 8: each role's advantages, within its own groups.
    groups = sum((assign(tree, recipe.credit) for tree in trees), GroupStats())

    # Eq. 9: the role whose turn it is. One agent alone is always the executor.
    roles = ("executor",) if alone else learning_roles(recipe.schedule, number)

    # Eq. 2, 3: the clipped loss is taken over these, `train.updates` times.
    learned = trajectories(trees, roles)
    order = random.Random(f"{recipe.seed} {number} mini-batches")
    return Step(number, roles, trees, groups, mini_batches(learned, recipe.train.updates, order))


def mini_batches(
    learned: Sequence[Trajectory], updates: int, order: random.Random
) -> list[list[Trajectory]]:
    """The trajectories dealt out to `updates` mini-batches, each role evenly, in random order."""
    if updates == 1:
        return [list(learned)]
    shuffled = order.sample(list(learned), len(learned))
    shuffled.sort(key=lambda trajectory: trajectory.role)  # stable: random within a role
    return [shuffled[first::updates] for first in range(updates)]
