"""How much better than its group a trajectory did (eq. 4 to 7 of the paper, arXiv 2605.14212).

    eq. 4  a design's reward is the mean over its N executions
    eq. 5  designer: (reward - mean) / (std + eps) over the M designs of the question
    eq. 6  executor: the group is every call of the question, over all designs and executions
    eq. 7  executor: (reward - mean) / (std + eps) over that group; a call has its execution's R

The two levels of eq. 8, designs and executions within them, are the tree itself. To try another
rule than (reward - mean) / (std + eps), name a function in the recipe: `credit: {advantage:
FILE.py:NAME}`. Standard library only. Suffixes: `_D` an entry per design, `_C` per trained call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from mxa_lite.credit.reward import format_score, reward_of
from mxa_lite.recipe import own
from mxa_lite.tree import Execution, Tree

if TYPE_CHECKING:  # pydantic stays out of the pure part
    from mxa_lite.recipe.keys import Credit

EPS = 1e-6
_EQUAL = 1e-9  # rewards closer than this are the same reward, summed in another order


@dataclass(frozen=True)
class GroupStats:
    """Groups of each role, those of them whose advantages are all 0 (no signal), and the calls
    left out because they were made at temperature 0. Adds up over trees."""

    designer_groups: int = 0
    designer_equal: int = 0
    executor_groups: int = 0
    executor_equal: int = 0
    greedy_calls: int = 0

    def __add__(self, other: GroupStats) -> GroupStats:
        return GroupStats(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def assign(tree: Tree, credit: Credit) -> GroupStats:
    """Fill format, reward, advantage and weight all over one question's tree, once it is graded.

    Calls at temperature 0 get advantage and weight 0. Raises InputError for a recipe's own
    function that fails.
    """
    for design in tree.designs:
        for execution in design.executions:
            execution.format = format_score(execution, tree.question.kind)
            execution.reward = reward_of(execution, tree.question, credit)
        # Eq. 4. A script that the check refused has no executions: N rewards of 0.
        design.reward = mean([e.reward for e in design.executions])

    advantages_D = advantages([design.reward for design in tree.designs], credit)  # eq. 5
    for design, advantage in zip(tree.designs, advantages_D, strict=True):
        design.call.advantage, design.call.weight = advantage, 1.0

    groups = [design.executions for design in tree.designs]
    if credit.executor_group == "question":  # eq. 6
        groups = [[execution for group in groups for execution in group]]
    signals = [_executor_group(group, credit) for group in groups]

    greedy = [c for d in tree.designs for e in d.executions for c in e.calls if c.temperature <= 0]
    for call in greedy:
        call.advantage, call.weight = 0.0, 0.0
    return GroupStats(
        designer_groups=1,
        designer_equal=int(not any(advantages_D)),
        executor_groups=sum(signal is not None for signal in signals),
        executor_equal=sum(signal is False for signal in signals),
        greedy_calls=len(greedy),
    )


def _executor_group(executions: Sequence[Execution], credit: Credit) -> bool | None:
    """Fill one group's calls; whether it has a signal, None when it has no trained call.

    `executor_unit: trajectory`: each call is a member. `execution`: each execution is one, and
    its c calls share it, weight 1/c each. An execution without a trained call is no member.
    """
    trained = ([c for c in e.calls if c.temperature > 0] for e in executions)
    members = [(e, calls_C) for e, calls_C in zip(executions, trained, strict=True) if calls_C]
    if credit.executor_unit == "trajectory":
        members = [(e, [call]) for e, calls_C in members for call in calls_C]
    if not members:
        return None
    values = advantages([execution.reward for execution, _ in members], credit)  # eq. 7
    for (_, calls_C), advantage in zip(members, values, strict=True):
        for call in calls_C:
            call.advantage, call.weight = advantage, 1 / len(calls_C)
    return any(values)


def advantages(rewards: Sequence[float], credit: Credit) -> list[float]:
    """One advantage a member of a group, in order: the recipe's own rule, or eq. 5 and 7."""
    if isinstance(credit.advantage, own.Own):
        return own.numbers(credit.advantage, rewards)
    return group_advantages(rewards)


def group_advantages(rewards: Sequence[float]) -> list[float]:
    """Eq. 5 and 7: (r - mean) / (std + eps), sample deviation; exactly 0 when all are equal."""
    if len(rewards) < 2 or max(rewards) - min(rewards) <= _EQUAL:
        return [0.0] * len(rewards)
    mu = mean(rewards)
    std = math.sqrt(math.fsum((r - mu) ** 2 for r in rewards) / (len(rewards) - 1))
    return [(r - mu) / (std + EPS) for r in rewards]


def mean(values: Sequence[float]) -> float:
    """The mean, rounded once, so that the order of the values does not matter; 0 of nothing."""
    return math.fsum(values) / len(values) if values else 0.0
