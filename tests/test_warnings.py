"""States of a run that are named: made-up metrics, one promise each."""

from __future__ import annotations

from typing import Any

import pytest

from mxa_lite.errors import InputError
from mxa_lite.evidence.metrics import paid_in_question
from mxa_lite.evidence.warnings import first_due, warnings_of
from mxa_lite.recipe.file import load
from mxa_lite.tree import Call, Design, Execution, Outcome, Question, Tree


def line(step: int = 1, **changed: Any) -> dict[str, Any]:
    """A healthy step's metrics, as far as warnings read them."""
    groups = {role: {"total": 4, "signal": 2} for role in ("designer", "executor")}
    healthy = {
        **{"step": step, "role": "executor", "valid_scripts": 0.9, "calls": 20, "correct": 0.5},
        **{"reward": {"designer": 0.5, "executor": 0.5}, "groups": groups},
        "paid_in_question": 0.0,
    }
    return healthy | changed


def without_signal(role: str) -> dict[str, Any]:
    return line(groups=line()["groups"] | {role: {"total": 4, "signal": 0}})


def only(lines: list[dict[str, Any]]) -> str:
    (warning,) = warnings_of(lines).values()
    return warning


def test_a_healthy_run_gives_no_reason_to_warn() -> None:
    assert warnings_of([line(step) for step in range(1, 12)]) == {}
    assert warnings_of([]) == {}


def test_a_step_skipped_in_float16_is_named_at_once_with_its_scale() -> None:
    warning = only([line(1), line(2, step_skipped=1, scale=2048.0)])
    assert "step 2 moved no weight" in warning and "2048" in warning
    assert warnings_of([line(1, step_skipped=0, scale=4096.0)]) == {}


def test_vllm_s_log_probs_far_from_the_update_s_are_named() -> None:
    far = line(engine="vllm", logp_gap={"designer": 0.001, "executor": 0.08})
    warning = only([far] * 3)
    assert "0.08 a token" in warning and "engine=waves" in warning
    near = line(engine="vllm", logp_gap={"designer": 0.001, "executor": 0.04})
    assert warnings_of([far, far, near]) == warnings_of([far, far]) == {}
    assert warnings_of([far | {"engine": "waves"}] * 3) == {}  # there it is train.updates alone


def test_broken_scripts_are_named_as_an_absorbing_state_with_its_knob() -> None:
    broken = line(valid_scripts=0.0, calls=0, correct=0.0)
    warning = only([line(), broken, broken, broken])
    assert "absorbing state" in warning and "train.learning_rate.designer" in warning
    assert warnings_of([broken, line(), broken, broken]) == {}  # one valid script is a way out


def test_scripts_that_call_nobody_are_named_too() -> None:
    assert "no agent was called" in only([line(calls=0, correct=0.0)] * 3)


def test_a_role_without_signal_is_named_while_it_learns() -> None:
    assert "no group of the executor" in only([without_signal("executor")] * 3)
    assert warnings_of([without_signal("designer")] * 3) == {}  # the executor learns


def test_nothing_right_and_nothing_wrong_are_told_apart() -> None:
    assert "every execution was wrong" in only([line(correct=0.0)] * 3)
    assert "every execution was right" in only([line(correct=1.0)] * 3)


def test_a_reward_that_rises_while_right_answers_fall_is_named() -> None:
    """The seen case: format 0.31 to 0.86 while correct fell from 0.19 to 0."""
    fate = [
        line(correct=0.19 - 0.02 * i, reward={"designer": 0.3, "executor": 0.3 + 0.05 * i})
        for i in range(10)
    ]
    assert "credit.format_weight" in only(fate)
    assert warnings_of(fate[1:]) == {}  # nine steps are no trend
    assert warnings_of(fate[::-1]) == {}


def test_answers_copied_from_the_question_are_named() -> None:
    assert "stand in the question" in only([line(paid_in_question=0.06)] * 3)
    assert warnings_of([line(paid_in_question=0.04)] * 3) == {}
    assert warnings_of([line(paid_in_question=None)] * 3) == {}


def test_a_warning_names_the_most_frequent_outcome_and_the_limit_it_ran_into() -> None:
    late = {"ok": 1, "timeout": 12, "crashed": 3}
    warning = only([line(correct=0.0, outcomes=late)] * 3)
    assert "most frequent outcome: timeout, 75%" in warning and "Raise sandbox.seconds" in warning
    broken = line(valid_scripts=0.0, calls=0, correct=0.0, outcomes={"syntax_error": 16})
    assert "syntax_error, 100%" in only([broken] * 3)
    assert "easier questions" in only([line(correct=0.0, outcomes={"ok": 9, "timeout": 7})] * 3)


def test_a_state_is_told_once_though_its_outcomes_shift() -> None:
    first = [line(step, correct=0.0, outcomes={"timeout": 9}) for step in range(1, 4)]
    then = [line(step, correct=0.0, outcomes={"crashed": 99}) for step in range(4, 7)]
    (warning,) = first_due(first + then)
    assert "timeout" in warning


def test_a_report_says_when_each_was_first_due() -> None:
    wrong = [line(step, correct=0.0) for step in range(3, 9)]
    due = first_due([line(1), line(2), *wrong])
    assert list(due.values()) == [5]


def paid(text: str, gold: str, *answers: str, kind: str = "math") -> float | None:
    runs = [Execution(Outcome.OK, answer, correct=1.0) for answer in answers]
    runs.append(Execution(Outcome.OK, "4", correct=0.0))
    design = Design(Call("designer", "", 0, []), executions=runs)
    return paid_in_question([Tree(Question("q", text, "t", kind, gold), [design])])


def test_a_paid_answer_that_stands_in_the_question_is_counted() -> None:
    assert paid("What is 4+2?", "6", "4+2", "6") == 0.5
    assert paid("What is 4+2?", "6") is None
    assert paid("What is 14+21?", "5", "4+2") == 0.0  # only within other numbers
    assert paid("Is it (A) or (B)?", "B", "B") == 0.0  # the gold itself stands there


def test_a_shape_without_groups_is_refused_when_the_recipe_is_read() -> None:
    one = ["rollout.designs=1", "rollout.executions=1"]
    with pytest.raises(InputError, match=r"^--set: .* are both 1"):
        load("arithmetic", one)
    assert load("arithmetic", [*one, "train.steps=0"]).rollout.designs == 1
    assert load("arithmetic", one[:1]).rollout.executions > 1
