"""Merged weights and the decoder: faster ways to the tokens that the adapters themselves say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from conftest import small
from test_generate import asks
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from mxa_lite.policy.decode import Decoder, in_place
from mxa_lite.policy.generate import Engine
from mxa_lite.policy.load import load
from mxa_lite.policy.policy import Policy
from mxa_lite.policy.request import Completion, Request
from mxa_lite.tree import ROLES

TINY = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
OTHER = {
    "llama": {"attention_bias": True, "mlp_bias": False, "tie_word_embeddings": True},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
}


def moved(policy: Policy, role: str, scale: float = 0.05) -> None:
    """As if the role had learned."""
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if f"lora_B.{role}" in name:
                parameter += scale * torch.randn_like(parameter)


def say(policy: Policy, count: int = 40) -> list[Completion]:
    requests = [
        Request(r.messages, ROLES[i % 2], r.key, r.temperature, r.max_tokens)
        for i, r in enumerate(asks(count=count))
    ]
    return Engine(policy, 512, 65_536).generate(requests)


def test_merged_weights_say_what_the_adapters_say() -> None:
    torch.manual_seed(3)
    policy = load(small())
    for role in ROLES:
        moved(policy, role)
    merged = say(policy)
    assert policy.merged is not None
    policy.merged = None
    adapter = say(policy)
    assert [c.completion_ids for c in merged] == [c.completion_ids for c in adapter]
    for one, other in zip(merged, adapter, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-4)


def test_only_the_role_that_learned_is_merged_anew_and_from_the_base() -> None:
    """After ten moves there and back the copy is the one of a policy that never moved."""
    torch.manual_seed(3)
    policy = load(small())
    moved(policy, "executor")
    first = say(policy)
    assert policy.merged is not None
    assert policy.merged.builds == {"designer": 1, "executor": 1}
    say(policy)
    assert policy.merged.builds == {"designer": 1, "executor": 1}
    weights = {n: p for n, p in policy.model.named_parameters() if "lora_B.executor" in n}
    kept = {n: p.detach().clone() for n, p in weights.items()}
    frozen = {n: p.detach().clone() for n, p in policy.model.named_parameters() if n not in weights}
    for _ in range(10):
        moved(policy, "executor", 1.0)
        say(policy, 2)
    for name, parameter in weights.items():
        parameter.data = kept[name]  # behind torch's back, as some optimizers write
    again = say(policy)
    assert policy.merged.builds == {"designer": 1, "executor": 12}
    assert [c.logps for c in again] == [c.logps for c in first]
    assert all(torch.equal(p, frozen[n]) for n, p in policy.model.named_parameters() if n in frozen)


def test_weights_are_merged_where_that_is_exact_and_small() -> None:
    def note(*sets: str) -> str:
        return next(n for n in load(small(*sets)).notes if n.startswith("rollout.weights"))

    assert note() == "rollout.weights merged: copies of the base take 14 MiB"
    assert "adapter: an adapter is rounded away in bfloat16" in note("model.dtype=bfloat16")
    assert "adapter: the recipe asks for it" in note("rollout.weights=adapter")


@pytest.mark.parametrize("family", list(OTHER))
def test_the_decoder_computes_what_the_model_computes(family: str) -> None:
    """Logits of five more tokens of three texts, one of them padded, in a cache with room."""
    torch.manual_seed(5)
    config = AutoConfig.for_model(family, **TINY, **OTHER[family])
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # norms and biases that are not 1 and 0
        parameter.data += 0.1 * torch.randn_like(parameter)
    ids = torch.randint(0, 97, (3, 17))
    attended = torch.ones_like(ids)
    attended[1, :4] = 0
    positions = (attended.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        whole = model(input_ids=ids, attention_mask=attended, position_ids=positions).logits
        cache = DynamicCache(config=config)
        model(
            input_ids=ids[:, :12],
            attention_mask=attended[:, :12],
            position_ids=positions[:, :12],
            past_key_values=cache,
        )
        cache = in_place([(cache, [0, 1, 2], [0, 1, 2])], 3, 12)
        assert Decoder.fits(model)
        decoder = Decoder(model, 64)
        for t in range(12, 17):
            mask = torch.full((3, 1, 1, 40), -torch.inf)
            mask[..., : t + 1].masked_fill_(attended[:, None, None, : t + 1] == 1, 0)
            logits = decoder.step(ids[:, t], positions[:, t], mask, cache)
            assert torch.allclose(logits, whole[:, t], atol=1e-4)


@pytest.mark.slow
def test_two_steps_of_the_shipped_recipe_are_the_same_with_both_weights(tmp_path: Path) -> None:
    from mxa_lite.recipe import file as recipe_file
    from mxa_lite.runs.train import run

    def said(weights: str) -> list[str]:
        shape = ("train.steps=2", "train.questions=4", "eval={questions: 2, swap: false}")
        sets = (*shape, f"rollout.weights={weights}")
        run(recipe_file.load("arithmetic", sets), tmp_path / weights, resume=False)
        files = sorted((tmp_path / weights / "rollouts").glob("step-*.jsonl"))
        return [
            ids for f in files for ids in re.findall(r'"completion_ids": ?(.*?])', f.read_text())
        ]

    merged = said("merged")
    assert len(merged) > 128  # 64 designs and more calls
    assert merged == said("adapter")
