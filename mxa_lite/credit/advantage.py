"""Who is paid for what: rewards and role-aware advantages over one question's tree. No torch.

Suffixes: `_D` one entry per design of the question, `_E` per execution, `_C` per trained call.
Equations are those of the paper (arXiv 2605.14212).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from mxa_lite.mas import answers
from mxa_lite.tree import Call, Execution, Outcome, Tree

if TYPE_CHECKING:  # pydantic stays out of the pure part
    from mxa_lite.recipe.keys import Credit

EPS = 1e-6
_EQUAL = 1e-9  # rewards closer than this are the same reward, summed in another order


def mean(values: Sequence[float]) -> float:
    """The mean, rounded once, so that the order of the values does not matter; 0 of nothing."""
    return math.fsum(values) / len(values) if values else 0.0


def group_advantages(rewards: Sequence[float]) -> list[float]:
    """Eq. 5 and 7: (r - mean) / (std + eps), sample deviation; exactly 0 when all are equal."""
    if len(rewards) < 2 or max(rewards) - min(rewards) <= _EQUAL:
        return [0.0] * len(rewards)
    mu = mean(rewards)
    std = math.sqrt(math.fsum((r - mu) ** 2 for r in rewards) / (len(rewards) - 1))
    return [(r - mu) / (std + EPS) for r in rewards]


def answered_by(execution: Execution, kind: str) -> list[Call]:
    """The calls whose reply, extracted here and not by the script, is the execution's answer."""
    if not execution.answer:
        return []
    same = operator.eq if kind == "code" else answers.same_value
    return [c for c in execution.calls if same(answers.extract(c.reply, kind), execution.answer)]


def format_score(execution: Execution, kind: str) -> float:
    """R_format in 0..1: mean of (the answer stands in the parseable form in the reply that gave
    it, share of the replies with a delivery block). Requests for a tool are no deliveries."""
    in_form = any(answers.in_form(c.reply, kind) for c in answered_by(execution, kind))
    messages = [c.reply for c in execution.calls if "<tool_call>" not in c.reply]
    delivered = mean([float(answers.delivery(reply) is not None) for reply in messages])
    return (float(in_form) + delivered) / 2


def paid_correct(execution: Execution, kind: str, answer_from: str = "reply") -> float:
    """The grader's verdict, as far as it is paid.

    `reply`: only when a reply of the execution holds the answer; `any`: also when the script put
    it together. Only the outcome `ok` is paid at all.
    """
    paid = execution.outcome is Outcome.OK
    paid = paid and (answer_from == "any" or bool(answered_by(execution, kind)))
    return execution.correct if paid else 0.0


def execution_reward(execution: Execution, kind: str, credit: Credit) -> float:
    """Eq. 10: R = correct + format_weight * format; 0 for every outcome but `ok`."""
    if execution.outcome is not Outcome.OK:
        return 0.0
    correct = paid_correct(execution, kind, credit.answer_from)
    return correct + credit.format_weight * execution.format


@dataclass(frozen=True)
class GroupStats:
    """Groups of each role, those of them whose rewards are all equal (no signal), and the calls
    left out because they were made at temperature 0. Adds up over trees."""

    designer_groups: int = 0
    designer_equal: int = 0
    executor_groups: int = 0
    executor_equal: int = 0
    greedy_calls: int = 0

    def __add__(self, other: GroupStats) -> GroupStats:
        return GroupStats(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def _executor_group(executions_E: Sequence[Execution], unit: str) -> bool | None:
    """Fill one group's calls; True when its rewards are all equal, None when it has no call.

    An execution without a trained call has no trajectory, so it is no member (eq. 6).
    """
    trained = ((e, [c for c in e.calls if c.temperature > 0]) for e in executions_E)
    members = [(e, calls_C) for e, calls_C in trained if calls_C]
    if not members:
        return None
    once = unit == "execution"
    rewards = [e.reward for e, calls_C in members for _ in (calls_C[:1] if once else calls_C)]
    advantage_of = dict(zip(rewards, group_advantages(rewards), strict=True))
    for execution, calls_C in members:
        for call in calls_C:
            call.advantage = advantage_of[execution.reward]
            call.weight = 1 / len(calls_C) if once else 1.0
    return not any(advantage_of.values())


def assign(tree: Tree, credit: Credit) -> GroupStats:
    """Fill format, reward, advantage and weight all over the tree, from outcome and correct.

    Designer: group = the M designs of the question. Executor: group = all trained calls of the
    question, or of one design. Calls at temperature 0 get advantage and weight 0.
    """
    kind, greedy = tree.question.kind, 0
    for design in tree.designs:
        for execution in design.executions:
            ok = execution.outcome is Outcome.OK
            execution.format = format_score(execution, kind) if ok else 0.0
            execution.reward = execution_reward(execution, kind, credit)
            for call in (c for c in execution.calls if c.temperature <= 0):
                call.advantage, call.weight = 0.0, 0.0
                greedy += 1
        # Eq. 4. A script that the check refused has no executions: N rewards of 0.
        design.reward = mean([e.reward for e in design.executions])
    advantages_D = group_advantages([d.reward for d in tree.designs])
    for design, advantage in zip(tree.designs, advantages_D, strict=True):
        design.call.advantage, design.call.weight = advantage, 1.0
    if credit.executor_group == "design":
        groups = [design.executions for design in tree.designs]
    else:
        groups = [[e for design in tree.designs for e in design.executions]]
    equal = [_executor_group(group, credit.executor_unit) for group in groups]
    return GroupStats(
        designer_groups=1,
        designer_equal=int(not any(advantages_D)),
        executor_groups=sum(e is not None for e in equal),
        executor_equal=sum(e is True for e in equal),
        greedy_calls=greedy,
    )
