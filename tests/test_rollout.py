"""The hierarchical sampler with the tiny model and the real sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest
from conftest import small

from mxa_lite.credit.advantage import assign
from mxa_lite.evidence.metrics import outcomes, step_line
from mxa_lite.learn.numbers import counted
from mxa_lite.policy.generate import Engine
from mxa_lite.policy.load import load
from mxa_lite.policy.request import Completion, Request
from mxa_lite.rollout.opened import sampler_for
from mxa_lite.rollout.sampler import Sampler, Shape, call_of
from mxa_lite.tree import Call, Design, Outcome, Question, Tree

QUESTIONS = [
    Question("a", "Tom has 2 pens. Then he buys 3 more. How many pens?", "arithmetic", gold="5"),
    Question("b", "Ann has 9 coins. Then she loses 4. How many coins?", "arithmetic", gold="5"),
]


class Scripted(Engine):
    """The real engine, except that the designer's completions are given."""

    scripts: list[str]

    def generate(self, requests: list[Request]) -> list[Completion]:  # type: ignore[override]
        done = super().generate(requests)
        if requests and requests[0].role == "designer":
            for completion, script in zip(done, self.scripts * len(done), strict=False):
                completion.text = script
        return done


@pytest.fixture(scope="module")
def sampler() -> Iterator[Sampler]:
    recipe = small("rollout.max_calls=4", "rollout.max_tokens=200", "sandbox.seconds=2")
    policy = load(recipe)
    with sampler_for(recipe, policy) as made:
        made.engine = Scripted(policy, 512, 65_536)
        yield made


def rolled(sampler: Sampler, script: str, executions: int = 1) -> list[Tree]:
    sampler.engine.scripts = [f"```python\n{script}\n```"]  # type: ignore[attr-defined]
    return sampler.rollout(QUESTIONS[:1], Shape(1, executions), 1)


def only(trees: list[Tree]) -> Design:
    return trees[0].designs[0]


ASK = 'a = Agent("solver", "Work step by step.")\n'


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        (ASK + "answer(a(question))", Outcome.OK),
        (ASK + "answer(a(question)", Outcome.SYNTAX_ERROR),
        ("import torch\n" + ASK + "answer(a(question))", Outcome.REJECTED),
        (ASK + "answer(a(problem))", Outcome.CRASHED),
        ("while True: pass", Outcome.TIMEOUT),
        ("x = 'a' * (1 << 30)\nanswer('1')", Outcome.MEMORY),
        (ASK + "n = 9\nwhile n: n -= 1; r = a(question)\nanswer(r)", Outcome.CALL_BUDGET),
        (ASK + "r = a(question)", Outcome.NO_ANSWER),
        ("answer('\\\\boxed{5}')", Outcome.NO_CALLS),
    ],
)
def test_each_outcome_is_named_and_all_but_ok_are_unpaid(
    sampler: Sampler, script: str, outcome: Outcome
) -> None:
    trees = rolled(sampler, script)
    design = only(trees)
    found = design.outcome or design.executions[0].outcome
    assert found is outcome
    assign(trees[0], sampler.recipe.credit)
    if outcome is not Outcome.OK:
        assert design.reward == 0.0
        assert all(e.reward == 0.0 for e in design.executions)


def test_no_script_in_the_completion(sampler: Sampler) -> None:
    sampler.engine.scripts = ["I would rather not."]  # type: ignore[attr-defined]
    trees = sampler.rollout(QUESTIONS[:1], Shape(2, 2), 1)
    assert [d.outcome for d in trees[0].designs] == [Outcome.NO_SCRIPT] * 2
    assert outcomes(trees, 2)["no_script"] == 4  # a bad script counts as N


def test_the_token_budget_ends_an_execution(sampler: Sampler) -> None:
    recipe = sampler.recipe
    rollout = recipe.rollout.model_copy(update={"max_tokens": 5})
    sampler.recipe = recipe.model_copy(update={"rollout": rollout})
    try:
        trees = rolled(sampler, ASK + "answer(a(question))")
    finally:
        sampler.recipe = recipe
    assert only(trees).executions[0].outcome is Outcome.TOKEN_BUDGET


def test_executions_of_one_design_differ_and_repeat(sampler: Sampler) -> None:
    """N executions draw their own noise; the same step rolls out the same tree again."""
    script = ASK + 'answer(Ensemble("vote", [a] * 3)(question))'
    first, again = rolled(sampler, script, 6), rolled(sampler, script, 6)
    said = [[c.reply for c in e.calls] for e in only(first).executions]
    assert len({tuple(replies) for replies in said}) > 1
    assert first[0].to_json() == again[0].to_json()


def test_members_of_an_ensemble_are_answered_in_one_batch(sampler: Sampler) -> None:
    sampler.engine.reset()
    rolled(sampler, ASK + 'answer(Ensemble("vote", [a] * 3)(question))', 2)
    rows = [rows for rows, _ in sampler.engine.reset().batches]
    assert 6 in rows  # 2 executions of 3 members; the designer's own batch has 1 row


def test_what_has_ended_is_graded_while_the_model_works(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second wave finds that the execution which ended before it is being graded."""
    begun, grade, generate = Event(), sampler.grader.grade_many, sampler.engine.generate
    found: list[bool] = []

    def grading(pairs: list[tuple[Question, str]]) -> Any:
        begun.set()
        return grade(pairs)

    def generating(requests: list[Request]) -> list[Completion]:
        if requests[0].key[-2:] == ("1", 0):  # the chain's second call
            found.append(begun.wait(20))
        return generate(requests)

    monkeypatch.setattr(sampler.grader, "grade_many", grading)
    monkeypatch.setattr(sampler.engine, "generate", generating)
    one = Design(Call("designer", "", 0, []), ASK + "answer(a(question))")
    two = Design(Call("designer", "", 0, []), ASK + "answer(a(question, a(question)))")
    sampler.run_scripts([(QUESTIONS[0], one), (QUESTIONS[0], two)], 1.0)
    assert found == [True]


def test_calls_are_listed_in_the_order_of_the_script(sampler: Sampler) -> None:
    script = (
        'a = Agent("one", "Be quick.")\nb = Agent("two", "Be quick.")\n'
        'answer(Debate("debate", [a, b], num_rounds=1)(question))'
    )
    calls = only(rolled(sampler, script)).executions[0].calls
    assert [c.agent for c in calls] == ["one", "two", "one"]


def test_agents_speak_at_the_temperature_of_the_recipe_or_their_own(sampler: Sampler) -> None:
    """Fault: agents were decoded greedily in training, whatever temperature was asked for."""
    script = ASK + 'b = Agent("own", "p", temperature=0.5)\na(question)\nanswer(b(question))'
    calls = only(rolled(sampler, script)).executions[0].calls
    assert [c.temperature for c in calls] == [1.0, 0.5]


def test_a_failed_execution_has_its_own_calls_and_no_others(sampler: Sampler) -> None:
    """Fault: it was trained on the calls of an earlier step, and lost those before its crash."""
    rolled(sampler, ASK + "answer(a(question))")
    made = [only(rolled(sampler, f"{ASK}{before}1 / 0")) for before in ("", "a(question)\n")]
    assert [design.executions[0].outcome for design in made] == [Outcome.CRASHED] * 2
    assert [len(design.executions[0].calls) for design in made] == [0, 1]


def test_training_uses_the_ids_that_were_generated(sampler: Sampler) -> None:
    call = only(rolled(sampler, ASK + "answer(a(question))")).executions[0].calls[0]
    tokenizer = sampler.engine.policy.tokenizer
    assert tokenizer.decode(call.completion_ids, skip_special_tokens=True) == call.reply
    assert len(call.logps) == len(call.completion_ids)
    prompt = tokenizer.decode(call.prompt_ids)
    assert "Work step by step." in prompt and QUESTIONS[0].text in prompt


def test_a_step_line_is_plain_json_without_nan(sampler: Sampler) -> None:
    import json

    trees = rolled(sampler, ASK + "answer(a(question))")
    groups = assign(trees[0], sampler.recipe.credit)
    line = step_line(1, ("executor",), trees, groups, 1, counted())
    json.dumps(line, allow_nan=False)
    assert line["outcomes"]["ok"] == 1 and line["calls"] == 1


def test_a_request_and_its_completion_become_a_call() -> None:
    request = Request([], "executor", ("k",), 0.5, 8)
    call = call_of(request, Completion("x", [1], [2, 3], [-1.0, -2.0], True, False), "a")
    assert (call.reply, call.temperature, call.truncated) == ("x", 0.5, True)
