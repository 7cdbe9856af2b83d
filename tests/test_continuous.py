"""Transformers' continuous batching behind the sampler: nothing lost, log-probs that are true."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from conftest import small
from test_generate import asks

from mxa_lite.errors import InputError
from mxa_lite.policy import models
from mxa_lite.policy.continuous import ContinuousEngine
from mxa_lite.policy.generate import Request
from mxa_lite.rollout.sampler import Sampler
from mxa_lite.runs.opened import sampler_for
from mxa_lite.tree import Call, Design, Outcome, Question

RECIPE = small("engine=continuous")


@pytest.fixture(scope="module")
def sampler() -> Iterator[Sampler]:
    with sampler_for(RECIPE, models.load(RECIPE)) as made:
        yield made


def test_every_request_gets_its_own_completion(sampler: Sampler) -> None:
    done = sampler.engine.generate(asks(count=20))
    assert len(done) == 20
    for request, made in zip(asks(count=20), done, strict=True):
        assert made.prompt_ids == sampler.engine.encode(request.messages, 400)[0]
        assert 0 < len(made.completion_ids) <= 24
        assert made.truncated == (made.completion_ids[-1] not in sampler.engine.ends)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_probs_are_the_model_s_at_the_call_s_temperature(
    sampler: Sampler, temperature: float
) -> None:
    policy = sampler.engine.policy
    for made in sampler.engine.generate(asks(temperature, count=3)):
        ids = torch.tensor([made.prompt_ids + made.completion_ids])
        with torch.inference_mode():
            logits = policy.model(input_ids=ids).logits[0, len(made.prompt_ids) - 1 : -1]
        logps = torch.log_softmax(logits / temperature, -1)
        chosen = logps.gather(-1, torch.tensor(made.completion_ids)[:, None])[:, 0]
        assert torch.allclose(chosen, torch.tensor(made.logps), atol=1e-3)


def test_a_rollout_is_whole(sampler: Sampler) -> None:
    """Members of a vote, rounds of a debate and a single agent, all at once."""
    scripts = (
        'a = Agent("s", "Work step by step.")\nanswer(Ensemble("v", [a] * 3)(question))',
        'a = Agent("s", "Work step by step.")\nanswer(Debate("d", [a, a])(question))',
        'answer(Agent("s", "Work step by step.")(question))',
    )
    question = Question("q", "Tom has 2 pens. He buys 3 more. How many?", "arithmetic", gold="5")
    designs = [Design(Call("designer", "", 0, []), script, "x") for script in scripts * 4]
    sampler.run_scripts([(question, design) for design in designs], 1.0)
    executions = [design.executions[0] for design in designs]
    assert {e.outcome for e in executions} <= {Outcome.OK, Outcome.NO_ANSWER}
    assert [len(e.calls) for e in executions] == [3, 5, 1] * 4
    assert all(call.reply for e in executions for call in e.calls)


def test_attention_is_as_before_when_it_is_done(sampler: Sampler) -> None:
    before = sampler.engine.policy.model.config._attn_implementation
    sampler.engine.generate(asks(count=2))
    assert sampler.engine.policy.model.config._attn_implementation == before


def test_calls_of_the_other_role_wait_for_the_first_to_finish(sampler: Sampler) -> None:
    engine = sampler.engine
    assert isinstance(engine, ContinuousEngine)
    first, *_ = asks(count=1)
    engine.submit(first)
    with pytest.raises(ValueError, match="one role at a time"):
        engine.submit(Request(first.messages, "designer", ("k",), 1.0, 8))
    engine.finish()


def test_it_is_refused_with_unsloth_s_loader(sampler: Sampler) -> None:
    policy = models.load(RECIPE)
    policy.loader = "unsloth"
    with pytest.raises(InputError, match="loader=plain"), sampler_for(RECIPE, policy):
        pass
