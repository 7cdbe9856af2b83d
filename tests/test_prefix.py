"""Rows that begin alike: their tree, its mask, and the same log-probs and gradients as alone."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from conftest import small
from made_trees import Seen, on_policy, trees
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from mxa_lite.learn import logprobs
from mxa_lite.learn.batching import trajectories
from mxa_lite.learn.prefixes import forest, packed
from mxa_lite.learn.trainer import RoleTrainer
from mxa_lite.policy.load import load
from mxa_lite.policy.policy import Policy
from mxa_lite.recipe.keys import LossType
from mxa_lite.records import UpdateNumbers
from mxa_lite.tree import Tree

ABCD = [[1, 2, 3, 9], [1, 2, 4, 9], [1, 5, 9]]  # the last tokens predict nothing


def padded(rows: list[list[int]], kept: list[int]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """ids and mask of rows whose last `kept` tokens are completions, and the widest of those."""
    prompt = max(len(row) - k for row, k in zip(rows, kept, strict=True))
    ids = torch.zeros(len(rows), prompt + max(kept), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, (row, k) in enumerate(zip(rows, kept, strict=True)):
        start = prompt - (len(row) - k)
        ids[i, start : start + len(row)] = torch.tensor(row)
        mask[i, start : start + len(row)] = 1
    return ids, mask, max(kept)


def in_packs(rows: list[list[int]], most: int) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """The rows in the order of their packs, and (rows, tokens) of each pack."""
    done = packed([row[:-1] for row in rows], most)
    return [rows[i] for indices, _ in done for i in indices], [(len(i), n) for i, n in done]


def test_the_tree_is_the_one_drawn_in_the_module() -> None:
    inputs, states, targets, places = forest(*padded(ABCD, [1, 1, 1]), [(3, 5)])
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 4, 5]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 2, 1]]
    assert (states.tolist(), targets.tolist(), places.tolist()) == (
        [2, 3, 4],
        [9, 9, 9],
        [[0], [1], [2]],
    )
    assert inputs["attention_mask"][0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 0, 0, 0, 1],
    ]


def test_a_token_sees_itself_and_its_ancestors_alone() -> None:
    """Random rows: what each token sees, in order, is a row up to that token."""
    rng = random.Random(1)
    rows = [[rng.randrange(3) for _ in range(rng.randrange(2, 9))] for _ in range(30)]
    rows, packs = in_packs(rows, 20)
    inputs, *_ = forest(*padded(rows, [1] * 30), packs)
    beginnings = {tuple(row[:n]) for row in rows for n in range(1, len(row))}
    seen = set()
    for ids, (mask,), depth in zip(*inputs.values(), strict=True):
        for i in range(len(ids)):
            if mask[i].sum() == depth[i] + 1:  # not padding
                seen.add(tuple(ids[mask[i]].tolist()))
    assert seen == beginnings


def test_packs_are_bounded_and_lose_no_row() -> None:
    rng = random.Random(2)
    rows = [[rng.randrange(3) for _ in range(rng.randrange(2, 9))] for _ in range(60)]
    done = packed(rows, 20)
    assert sorted(index for indices, _ in done for index in indices) == list(range(60))
    for indices, tokens in done:
        nodes = {tuple(rows[index][:n]) for index in indices for n in range(1, 9)}
        assert tokens == len(nodes) <= 20
    assert packed([[1, 2, 3], [4] * 9, [1, 2, 3]], 5) == [([1], 9), ([0, 2], 3)]


@pytest.fixture(scope="module")
def policy() -> Policy:
    policy = load(small("model.quantization=none"))
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:  # zeros give no gradient to lora_A
            torch.nn.init.normal_(weight, std=0.02)
    return policy


def test_no_gradient_is_added_up_in_an_order_of_chance(policy: Policy) -> None:
    """Several threads that write to one place do so in the backward pass of [...]."""
    rows, packs = in_packs([[*row] for row in ABCD], 40)
    ids, mask, widest = padded(rows, [1] * 3)
    policy.activate("executor")
    logps, _ = logprobs.token_logps(policy.model, ids, mask, widest, 1.0, packs)
    seen: set[object] = set()
    left = [logps.grad_fn]
    while left:
        if (step := left.pop()) is not None and step not in seen:
            seen.add(step)
            left += [before for before, _ in step.next_functions]
    names = {type(step).__name__ for step in seen}
    assert "IndexSelectBackward0" in names and "IndexBackward0" not in names


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("piece", [1 << 25, 4000])
def test_log_probs_entropies_and_gradients_are_those_of_whole_rows(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, checkpointing: bool, piece: int
) -> None:
    monkeypatch.setattr(logprobs, "PIECE", piece)
    rng = random.Random(3)
    start = [rng.randrange(5, 200) for _ in range(12)]
    rows = [
        start[: rng.randrange(1, 13)] + [rng.randrange(5, 200) for _ in range(rng.randrange(4, 9))]
        for _ in range(12)
    ]
    rows += [rows[0], rows[1] + [7]]
    rows, packs = in_packs(rows, 40)
    kept = [rng.randrange(1, 4) for _ in rows]
    ids, mask, widest = padded(rows, kept)
    real = mask[:, -widest:].bool()
    weights = torch.randn(real.shape, generator=torch.Generator().manual_seed(1)) * real
    policy.activate("executor")
    policy.learning()
    if checkpointing:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        policy.model.enable_input_require_grads()
    results = []
    for now in ([], packs):
        policy.model.zero_grad(set_to_none=True)
        logps, entropies = logprobs.token_logps(policy.model, ids, mask, widest, 0.7, now)
        (logps * weights).sum().backward()
        named = policy.model.named_parameters()
        gradients = {n: p.grad.clone() for n, p in named if p.grad is not None}
        results.append((logps[real].detach(), entropies[real], gradients))
    policy.model.gradient_checkpointing_disable()
    plain, shared = results
    torch.testing.assert_close(shared[0], plain[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(shared[1], plain[1], rtol=0, atol=1e-4)
    assert shared[2].keys() == plain[2].keys() and len(plain[2]) > 10
    for name, gradient in plain[2].items():
        torch.testing.assert_close(shared[2][name], gradient, rtol=1e-4, atol=1e-4)


def sharing(policy: Policy) -> list[Tree]:
    """Trees whose calls begin alike, as those of one question do; some twice, with weights."""
    step = trees(4)
    rng = random.Random(4)
    start = [rng.randrange(10, 260) for _ in range(24)]
    for tree in step:
        for design in tree.designs:
            for call in [design.call, *(c for e in design.executions for c in e.calls)]:
                call.prompt_ids = start[: rng.randrange(8, 25)] + call.prompt_ids[:3]
                call.weight = rng.choice([1.0, 0.5])
        again = design.executions[0].calls[0]
        design.executions[1].calls.append(replace(again, advantage=0.7))
    on_policy(policy, step)
    for trajectory in trajectories(step, ("designer", "executor")):  # ratios on both sides of 1
        call = trajectory.call
        call.logps = [logp + rng.uniform(-0.3, 0.3) for logp in call.logps]
    return step


def learned(tmp_path: Path, *sets: str) -> tuple[dict[str, torch.Tensor], UpdateNumbers]:
    """The adapters after one update by plain SGD, whose step is the gradient, and its numbers."""
    recipe = small(
        "train.steps=1",
        "model.quantization=none",
        "train.optim=sgd",
        "train.learning_rate=1.0",
        "train.max_grad_norm=1000",
        "train.weight_decay=0",
        *sets,
    )
    policy = load(recipe)
    step = sharing(policy)
    seen = Seen(lambda _: step, lambda _: ("designer", "executor"))
    RoleTrainer(recipe, policy, tmp_path, seen.take).train()
    named = policy.model.named_parameters()
    return {n: p.detach().clone() for n, p in named if "lora" in n}, seen.numbers[0]


SOME_SLOW = [
    loss if loss in ("dapo", "grpo") else pytest.param(loss, marks=pytest.mark.slow)
    for loss in get_args(LossType)
]


@pytest.mark.parametrize("loss_type", SOME_SLOW)
def test_both_roles_take_the_step_of_whole_rows_with_every_loss(
    tmp_path: Path, loss_type: str
) -> None:
    sets = (f"train.loss_type={loss_type}", "train.tokens_per_micro_batch=100000")
    plain, whole_rows = learned(tmp_path / "plain", *sets, "train.prefix_sharing=false")
    shared, numbers = learned(tmp_path / "shared", *sets)
    assert numbers["trained_tokens"] < 0.8 * whole_rows["trained_tokens"]
    assert numbers["loss"] == pytest.approx(whole_rows["loss"], rel=1e-3, abs=1e-5)
    assert numbers["clipped"] == whole_rows["clipped"]
    for name, weight in plain.items():
        torch.testing.assert_close(shared[name], weight, rtol=0, atol=1e-5)


def test_several_micro_batches_of_packs_take_the_step_of_one(tmp_path: Path) -> None:
    few = "train.tokens_per_micro_batch=120"
    several, numbers = learned(tmp_path / "several", few)
    one, _ = learned(tmp_path / "one", "train.tokens_per_micro_batch=100000")
    assert numbers["micro_batches"] > 4
    for name, weight in one.items():
        torch.testing.assert_close(several[name], weight, rtol=0, atol=1e-5)


def test_the_tokens_that_are_counted_go_through_the_model(tmp_path: Path) -> None:
    """Each beginning once: as many tokens as the trees have nodes, last tokens left out."""
    recipe = small("train.steps=1")
    policy = load(recipe)
    step = sharing(policy)
    counts: list[int] = []
    embedding = policy.model.get_input_embeddings()
    seen = Seen(lambda _: step, lambda _: ("executor",))
    trainer = RoleTrainer(recipe, policy, tmp_path, seen.take)
    embedding.register_forward_hook(lambda _m, inputs, _o: counts.append(inputs[0].numel()))
    trainer.train()
    nodes = {
        tuple([*t.call.prompt_ids, *t.call.completion_ids][:n])
        for t in trajectories(step, ("executor",))
        for n in range(1, len(t.call.prompt_ids) + len(t.call.completion_ids))
    }
    assert seen.numbers[0]["trained_tokens"] == len(nodes)
    assert sum(counts) == seen.numbers[0]["padded_tokens"]


FAMILIES: dict[str, tuple[PreTrainedConfig, bool]] = {
    "llama": (LlamaConfig(num_key_value_heads=1), True),
    "eager": (LlamaConfig(num_key_value_heads=2, attn_implementation="eager"), True),
    "qwen3": (Qwen3Config(num_key_value_heads=1, head_dim=16), True),
    "gpt2": (GPT2Config(n_positions=64), True),
    "long window": (MistralConfig(num_key_value_heads=2, sliding_window=64), True),
    "window": (MistralConfig(num_key_value_heads=2, sliding_window=32), False),
    "alibi": (BloomConfig(), False),
    "recurrent": (MambaConfig(), False),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_cannot_take_the_mask_computes_whole_rows(family: str) -> None:
    config, takes = FAMILIES[family]
    shape = {"vocab_size": 80, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    for key, value in shape.items():
        setattr(config, key, value)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config)
    targets = ["in_proj"] if family == "recurrent" else "all-linear"
    model = get_peft_model(base, LoraConfig(target_modules=targets, task_type="CAUSAL_LM"))
    pack_tokens, reason = logprobs.pack_tokens_of(model, 64)
    assert bool(pack_tokens) is takes, reason
    assert takes or reason.startswith("whole rows: ")
