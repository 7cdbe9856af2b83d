"""No tensor is left on the CPU where the model is on a card: runs on tensors said to be on one.

`said_cuda` raises where a card would; what comes out must be what comes out on a plain CPU. What it
cannot do: kernels for a GPU alone (Unsloth's, and TRL's for the loss of the cold start).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small
from made_trees import Seen, on_policy, trees
from said_cuda import CARD, place, said_cuda
from test_brought import brought
from test_generate import QUESTIONS

from mxa_lite.learn import warmstart
from mxa_lite.learn.batching import MicroBatch
from mxa_lite.learn.trainer import RoleTrainer
from mxa_lite.machine.proofs import drawn
from mxa_lite.policy.generate import Engine
from mxa_lite.policy.load import load
from mxa_lite.policy.request import Request
from mxa_lite.recipe.keys import Recipe
from mxa_lite.runs.train import run
from mxa_lite.tree import ROLES

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a real card is here")

PLAIN = ("model.loader=plain", "model.dtype=float32", "threads=1")
Mixing = Callable[[torch.Tensor, torch.Tensor], Any]
REFUSED: dict[str, Mixing] = {
    "sum": lambda card, cpu: card + cpu,
    "sum in place": lambda card, cpu: cpu.add_(card.sum()),
    "sum into a number": lambda card, cpu: cpu.sum().add_(card.sum()),
    "product": lambda card, cpu: card[None] @ cpu,
    "cat": lambda card, cpu: torch.cat([card, cpu]),
    "gather": lambda card, cpu: card.gather(0, cpu.long()),
    "where": lambda card, cpu: torch.where(cpu > 0, card, 0.0),
    "index of a CPU's": lambda card, cpu: cpu[card.long()],
    "indices set": lambda card, cpu: card.index_put_((cpu.long(),), cpu),
    "numpy": lambda card, cpu: card.numpy(),
}
ALLOWED: dict[str, Mixing] = {
    "number": lambda card, cpu: card * cpu.sum() + 1,
    "copy": lambda card, cpu: card.copy_(cpu),
    "copy into a part": lambda card, cpu: card[:2].copy_(cpu[1:]),
    "index": lambda card, cpu: card[cpu.long()],
    "move": lambda card, cpu: card + cpu.cuda() + cpu.to("cuda:0") + cpu.to(card),
    "new": lambda card, cpu: card + card.new_tensor([1.0, 2, 3]) + torch.zeros_like(card),
    "made": lambda card, cpu: card + torch.tensor([1, 2, 3], device=card.device),
}


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.tensor([0.0, 1.0, 2.0])
    return values.to("cuda"), values


@pytest.mark.parametrize("name", REFUSED)
def test_the_mode_refuses_what_a_card_refuses(name: str) -> None:
    with said_cuda(), pytest.raises((RuntimeError, TypeError), match="cuda:0"):
        REFUSED[name](*pair())


@pytest.mark.parametrize("name", ALLOWED)
def test_the_mode_allows_what_a_card_allows(name: str) -> None:
    with said_cuda():
        made = ALLOWED[name](*pair())
        assert made.is_cuda and made.device == CARD
        assert not made.cpu().is_cuda and made.cpu().numpy().shape == made.shape
    assert made.device.type == "cpu"  # in truth


def test_a_mix_in_a_backward_pass_is_seen() -> None:
    class Careless(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
            return values * 2

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * torch.full((3,), 2.0)

    with said_cuda():
        weight = torch.ones(3, device="cuda", requires_grad=True)
        with pytest.raises(RuntimeError, match="cuda:0"):
            Careless.apply(weight).sum().backward()
        (weight * 3).sum().backward()
        assert weight.grad is not None and place(weight.grad) == CARD


def spoken(recipe: Recipe) -> list[tuple[list[int], list[float]]]:
    """Greedy and sampled completions of both roles, in one batch each, and their log-probs."""
    policy = drawn(load(recipe), 0.02)
    asked = [
        Request([{"role": "user", "content": text}], role, (text, number), temperature, 24)
        for temperature in (0.0, 1.0)
        for role in ROLES
        for number, text in enumerate(QUESTIONS * 3)
    ]
    done = Engine(policy, 512, 65_536).generate(asked)
    return [(completion.completion_ids, completion.logps) for completion in done]


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["merged", "adapter"])
@pytest.mark.parametrize("quantization", ["4bit", "none"])
def test_the_engine_keeps_to_one_device(weights: str, quantization: str) -> None:
    recipe = small(*PLAIN, f"rollout.weights={weights}", f"model.quantization={quantization}")
    expected = spoken(recipe)
    with said_cuda():
        assert spoken(recipe) == expected


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_the_engine_keeps_to_one_device_with_other_families(family: str, tmp_path: Path) -> None:
    """Gemma's layers attend to a window, so that it is read in another way."""
    folder = brought(tmp_path, family, sliding_window=32)
    recipe = small(*PLAIN, f"model.name={folder}", "model.quantization=none")
    expected = spoken(recipe)
    with said_cuda():
        assert spoken(recipe) == expected


def learned(recipe: Recipe, folder: Path, steps: dict[int, Any]) -> tuple[Any, Any]:
    """Loss, gradient norm and measurements of each step; the adapters after the last."""
    policy = drawn(load(recipe), 0.02)
    seen = Seen(steps.__getitem__, lambda step: ROLES if step < 2 else ("executor",))
    RoleTrainer(recipe, policy, folder, seen.take).train()
    weights = policy.model.named_parameters()
    return seen.numbers, {n: p.tolist() for n, p in weights if "lora_" in n}


def two_steps(recipe: Recipe) -> dict[int, Any]:
    policy = drawn(load(recipe), 0.02)
    return {step: on_policy(policy, trees(step)) for step in (1, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["true", "false"])
def test_updates_of_both_roles_keep_to_one_device(sharing: str, tmp_path: Path) -> None:
    """With prompts computed once, and with whole rows; activations computed again, as on a GPU."""
    recipe = small(*PLAIN, "train.steps=2", f"train.prefix_sharing={sharing}")
    steps = two_steps(recipe)
    expected = learned(recipe, tmp_path / "cpu", steps)
    with said_cuda():
        found = learned(recipe, tmp_path / "card", steps)
    assert found == expected


@pytest.mark.slow
def test_a_whole_run_keeps_to_one_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cold start, two steps, evaluations: the same files as of a plain CPU."""
    monkeypatch.setattr(warmstart, "SFTTrainer", warmstart._PlainSFT)  # else a GPU's kernel
    recipe = small(
        *PLAIN,
        "cold_start={method: data, steps: 2, batch_size: 2}",
        "schedule.mode=coupled",
        "train.steps=2",
        "eval={questions: 2, samples: 1, every: 1, baselines: [single]}",
    )
    for place_, context in (("cpu", contextlib.nullcontext), ("card", said_cuda)):
        with context():
            run(recipe, tmp_path / place_, False, lambda _: None)
    cpu, card = tmp_path / "cpu", tmp_path / "card"
    same = [f for part in ("rollouts", "predictions") for f in (cpu / part).rglob("*.jsonl")]
    assert len(same) > 6
    for file in same:
        assert (card / file.relative_to(cpu)).read_text() == file.read_text()
    assert metrics(card) == metrics(cpu)
    assert all(line["grad_norm"] > 0 for line in metrics(card))


def metrics(folder: Path) -> list[dict[str, Any]]:
    """What a run measured at each step, without what a clock and the memory say."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: line[k] for k in line.keys() - {"seconds", "memory"}} for line in lines]


@pytest.mark.slow
def test_a_mask_made_on_the_cpu_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Engine.padded_left

    def wrong(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask = right(*arguments)
        return ids, mask.cpu()

    monkeypatch.setattr(Engine, "padded_left", wrong)
    recipe = small(*PLAIN, "model.quantization=none")
    spoken(recipe)  # on a CPU nobody sees it
    with said_cuda(), pytest.raises(RuntimeError, match="tensors on cuda:0 and on cpu"):
        spoken(recipe)


@pytest.mark.slow
def test_advantages_left_on_the_cpu_are_caught(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = MicroBatch.tensors

    def wrong(*arguments: Any) -> dict[str, torch.Tensor]:
        inputs = right(*arguments)
        return inputs | {"advantages": inputs["advantages"].cpu()}

    monkeypatch.setattr(MicroBatch, "tensors", wrong)
    recipe = small(*PLAIN, "train.steps=2", "model.quantization=none")
    steps = two_steps(recipe)
    learned(recipe, tmp_path / "cpu", steps)
    with said_cuda(), pytest.raises(RuntimeError, match="tensors on cuda:0 and on cpu"):
        learned(recipe, tmp_path / "card", steps)
