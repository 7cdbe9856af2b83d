"""What one execution earns (eq. 10 of the paper, arXiv 2605.14212). Standard library only.

    R = correct + format_weight * format

correct is the grader's verdict as far as it is paid (`paid_correct`), format the form of the
replies (`format_score`); only an execution that ended `ok` earns anything. To try another reward,
name a function in the recipe: `credit: {reward: FILE.py:NAME}`.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from mxa_lite.recipe import own
from mxa_lite.texts import answers
from mxa_lite.tree import Call, Execution, Outcome, Question

if TYPE_CHECKING:  # pydantic stays out of the pure part
    from mxa_lite.recipe.keys import Credit


def reward_of(execution: Execution, question: Question, credit: Credit) -> float:
    """The reward of a graded execution whose `format` is filled in: the recipe's own, or eq. 10.

    Raises InputError where the recipe's own function fails or returns no finite number.
    """
    if isinstance(credit.reward, own.Own):
        return own.number(credit.reward, credit.reward(execution, question))
    if execution.outcome is not Outcome.OK:
        return 0.0
    correct = paid_correct(execution, question.kind, credit.answer_from)
    # `correct`: form alone earns nothing, so that it cannot lead a weak executor astray.
    form_counts = credit.format_when == "always" or correct > 0
    return correct + credit.format_weight * execution.format * form_counts


def paid_correct(execution: Execution, kind: str, answer_from: str = "reply") -> float:
    """The grader's verdict in 0..1, as far as it is paid.

    `reply`: only when a reply of the execution holds the answer; `any`: also when the script put
    it together. Only the outcome `ok` is paid at all.
    """
    paid = execution.outcome is Outcome.OK
    paid = paid and (answer_from == "any" or bool(answered_by(execution, kind)))
    return execution.correct if paid else 0.0


def answered_by(execution: Execution, kind: str) -> list[Call]:
    """The calls whose reply, extracted here and not by the script, is the execution's answer."""
    if not execution.answer:
        return []
    same = operator.eq if kind == "code" else answers.same_value
    return [c for c in execution.calls if same(answers.extract(c.reply, kind), execution.answer)]


def format_score(execution: Execution, kind: str) -> float:
    """R_format in 0..1: mean of (the answer stands in the parseable form in the reply that gave
    it, share of the replies with a delivery block); 0 for every outcome but `ok`."""
    if execution.outcome is not Outcome.OK:
        return 0.0
    in_form = any(answers.in_form(c.reply, kind) for c in answered_by(execution, kind))
    # A reply that asks for a tool owes no delivery yet.
    replies = [c.reply for c in execution.calls if "<tool_call>" not in c.reply]
    delivered = sum(answers.delivery(reply) is not None for reply in replies)
    return (in_form + (delivered / len(replies) if replies else 0.0)) / 2
