"""How many threads compute: all that are free, and the same bits with each number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small
from made_trees import trees
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from mxa_lite import embedded
from mxa_lite.learn.step import Step
from mxa_lite.learn.trainer import RoleTrainer
from mxa_lite.learn.warmstart import read_chats, warm_start
from mxa_lite.machine.anchors import a_spinning_process
from mxa_lite.policy.decode import Decoder
from mxa_lite.policy.generate import Engine
from mxa_lite.policy.policy import Policy
from mxa_lite.policy.request import Completion, Request
from mxa_lite.rollout import opened

LINUX = pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="other systems do not say")


@pytest.fixture
def spinning() -> Iterator[int]:
    """So many processes that compute."""
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(a_spinning_process())
        yield 4


@LINUX
def test_programs_that_compute_are_seen(spinning: int) -> None:
    assert max(opened.running_beside() for _ in range(20)) >= spinning


@pytest.mark.parametrize(
    ("threads", "cores", "others", "free"),
    [
        (2, 2, 0, 2), (2, 2, 1, 1), (2, 2, 9, 1), (8, 8, 1, 4), (8, 16, 8, 8), (8, 16, 9, 4),
        (6, 6, 5, 6),  # no power of two: other bits
        (1, 2, 5, 1),
    ],
)  # fmt: skip
def test_other_programs_keep_their_cores(
    monkeypatch: pytest.MonkeyPatch, threads: int, cores: int, others: int, free: int
) -> None:
    monkeypatch.setattr(opened, "THREADS", threads)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr(opened, "running_beside", lambda: others)
    assert opened.free_threads() == free


def test_what_runs_for_a_moment_takes_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([1, 1, 0])
    monkeypatch.setattr(opened, "THREADS", 2)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(opened, "running_beside", lambda: next(seen))
    assert opened.free_threads() == 2


def gradients(threads: int, folder: Path, *sets: str) -> tuple[int, dict[str, torch.Tensor]]:
    """The threads of an update of both roles, and its gradients."""
    recipe = small("train.steps=1", "train.tokens_per_micro_batch=2048", *sets)
    torch.manual_seed(0)
    policy = opened.load_policy(recipe)
    policy.threads = lambda: threads
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:  # zeros give no gradient to lora_A
            torch.nn.init.normal_(weight, std=0.02)
    found: dict[str, torch.Tensor] = {}
    used: list[int] = []

    class Trainer(RoleTrainer):
        def _backward(self, model: Any, batches: Any) -> torch.Tensor:
            used.append(torch.get_num_threads())
            loss = super()._backward(model, batches)
            named = model.named_parameters()
            found.update({n: p.grad.clone() for n, p in named if p.grad is not None})
            return loss

    made = trees(questions=8)
    Trainer(recipe, policy, folder, lambda n: Step.of(n, made, ("designer", "executor"))).train()
    return used[0], found


def equal_bits(folder: Path, *sets: str) -> None:
    """Raises AssertionError unless gradients are the same with one, two and four threads."""
    one, *others = (gradients(n, folder / str(n), *sets) for n in (1, 2, 4))
    assert [one[0], *(threads for threads, _ in others)] == [1, 2, 4]
    assert any(bool(g.any()) for g in one[1].values())
    for _, found in others:
        assert all(torch.equal(found[name], gradient) for name, gradient in one[1].items())


def test_gradients_have_the_same_bits_with_one_two_and_four_threads(tmp_path: Path) -> None:
    equal_bits(tmp_path)


@pytest.mark.slow
def test_gradients_of_a_larger_model_have_them_too(tmp_path: Path) -> None:
    """Layers as wide as SmolLM2-135M's."""
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 3}
    config = AutoConfig.from_pretrained(
        embedded.FOLDER, **sizes, num_attention_heads=9, num_key_value_heads=3, head_dim=64
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(embedded.FOLDER).save_pretrained(tmp_path)
    equal_bits(tmp_path, f"model.name={tmp_path}", "model.quantization=none")


def test_prompts_and_updates_of_a_model_that_is_not_tiny_take_the_free_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opened, "TINY", 0)
    monkeypatch.setattr(opened, "free_threads", lambda: 4)
    before = torch.get_num_threads()
    policy = opened.load_policy(small())
    assert torch.get_num_threads() == before
    with policy.all_threads():
        assert torch.get_num_threads() == 4


@pytest.fixture
def threads_kept() -> Iterator[None]:
    """A tiny model's policy sets them for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def replies(
    policy: Policy, threads: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Completion], set[tuple[int, int]]]:
    """80 calls answered, and the (rows, threads) that decoded their tokens."""
    policy.threads = lambda: threads
    used: set[tuple[int, int]] = set()
    stock = Decoder.step

    def step(decoder: Decoder, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        used.add((len(ids), torch.get_num_threads()))
        return stock(decoder, ids, *rest)

    questions = [f"Tom has {number} pens. He buys 4 more." for number in range(80)]
    requests = [
        Request([{"role": "user", "content": text}], "executor", (text,), 1.0, 32)
        for text in questions
    ]
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "step", step)
        return Engine(policy, 512, 65_536).generate(requests), used


def test_wide_batches_take_the_free_threads_and_have_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, threads_kept: None
) -> None:
    policy = opened.load_policy(small())
    one, *others = (replies(policy, threads, monkeypatch) for threads in (1, 2, 4))
    for threads, (completions, used) in zip((2, 4), others, strict=True):
        assert completions == one[0]
        assert {count for rows, count in used if rows >= opened.WIDE} == {threads}
        assert {count for rows, count in used if rows < opened.WIDE} == {1}


def test_a_cold_start_takes_the_free_threads_and_has_the_same_bits(threads_kept: None) -> None:
    recipe = small("cold_start.steps=3", "cold_start.batch_size=8")
    chats = {role: chats[:16] for role, chats in read_chats(embedded.COLD_START).items()}
    adapters, asked = [], []
    for threads in (1, 2):
        torch.manual_seed(0)
        policy = opened.load_policy(recipe)
        policy.threads = lambda threads=threads: asked.append(threads) or threads  # type: ignore
        adapter = [p for p in policy.model.parameters() if p.requires_grad]
        fresh = [p.detach().clone() for p in adapter]
        warm_start(recipe, policy, Engine(policy, 512, 4096), chats)
        assert not any(torch.equal(a, b) for a, b in zip(fresh, adapter, strict=True))
        adapters.append(adapter)
    assert asked.count(1) == asked.count(2) > 6  # before each step of both roles
    assert torch.get_num_threads() == 1
    assert all(torch.equal(a, b) for a, b in zip(*adapters, strict=True))
