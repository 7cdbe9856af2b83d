"""The trainer subclass on the tiny model: gradients, freezing, loss normalisation."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small
from made_trees import call, trees

from mxa_lite.errors import RunError
from mxa_lite.learn.batching import trajectories
from mxa_lite.learn.trainer import RoleTrainer
from mxa_lite.machine.memory import peak
from mxa_lite.policy.generate import Engine
from mxa_lite.policy.load import load
from mxa_lite.policy.policy import Policy
from mxa_lite.policy.request import Request
from mxa_lite.recipe.keys import Rates, Recipe
from mxa_lite.tree import Execution, Outcome, Tree

Weights = dict[str, torch.Tensor]


def adapter(policy: Policy, name: str) -> Weights:
    return {
        key: value.detach().clone()
        for key, value in policy.model.named_parameters()
        if f".{name}." in key
    }


def changed(before: Weights, after: Weights) -> bool:
    return any(not torch.equal(before[key], after[key]) for key in before)


def train(
    recipe: Recipe,
    folder: Path,
    roles: Callable[[int], tuple[str, ...]],
    make: Callable[[int], list[Tree]] = trees,
) -> tuple[Policy, list[dict[str, Any]]]:
    """Train on made-up trees; returns the policy and what each step measured."""
    policy = load(recipe)
    seen: list[dict[str, Any]] = []
    trainer = RoleTrainer(
        recipe, policy, folder, make, roles, lambda step, t, numbers: seen.append(numbers)
    )
    trainer.train()
    return policy, seen


@pytest.fixture
def whole() -> Recipe:
    """One step in fp32, unquantized, so that only the batching can differ; plain SGD, so that a
    difference in the gradient shows as it is."""
    return small(
        "train.steps=1",
        "model.quantization=none",
        "train.optim=sgd",
        "train.learning_rate=1.0",
        "train.max_grad_norm=1000",
    )


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_several_micro_batches_take_the_step_of_one(
    whole: Recipe, tmp_path: Path, loss_type: str
) -> None:
    """The same trees in micro-batches of about 100 tokens and in a single one: equal weights."""
    weights, counts = [], []
    for tokens in (100, 100_000):
        train_ = whole.train.model_copy(
            update={"tokens_per_micro_batch": tokens, "loss_type": loss_type}
        )
        policy, seen = train(
            whole.model_copy(update={"train": train_}),
            tmp_path / str(tokens),
            lambda step: ("designer", "executor"),
        )
        weights.append(adapter(policy, "designer") | adapter(policy, "executor"))
        counts.append(seen[0]["micro_batches"])
    assert counts[0] > counts[1] == 2  # one per role
    for key in weights[0]:
        assert torch.allclose(weights[0][key], weights[1][key], atol=1e-5, rtol=0)


def test_each_role_learns_at_its_own_rate(whole: Recipe, tmp_path: Path) -> None:
    """Plain SGD: half the rate moves a weight by half as much; the log shows the learner's rate."""
    moved = {}
    for name, rates in (("one", {"designer": 1.0}), ("half", {"designer": 0.5})):
        train_ = whole.train.model_copy(
            update={"learning_rate": Rates(executor=1.0, **rates), "weight_decay": 0.0}
        )
        recipe = whole.model_copy(update={"train": train_})
        cold = load(recipe)
        policy, seen = train(recipe, tmp_path / name, lambda step: ("designer",))
        before, after = adapter(cold, "designer"), adapter(policy, "designer")
        moved[name] = torch.cat([(after[k] - before[k]).flatten() for k in before])
        assert seen[0]["lr"] == rates["designer"]
    assert moved["one"].abs().max() > 1e-4
    assert torch.allclose(moved["half"] * 2, moved["one"], atol=1e-5)


def test_a_shared_adapter_learns_at_the_executor_s_rate(tmp_path: Path) -> None:
    recipe = small(
        "train.steps=1",
        "model.adapters=shared",
        "train.learning_rate={designer: 1e-2, executor: 1e-3}",
    )
    _, seen = train(recipe, tmp_path, lambda step: ("designer",))
    assert seen[0]["lr"] == 1e-3


@pytest.mark.parametrize("loss_type", ["bnpo", "cispo", "sapo", "luspo", "vespo"])
def test_the_other_loss_types_run(tmp_path: Path, loss_type: str) -> None:
    recipe = small("train.steps=1", f"train.loss_type={loss_type}")
    _, seen = train(recipe, tmp_path, lambda step: ("executor",))
    assert seen[0]["grad_norm"] > 0


@pytest.mark.parametrize(("learns", "frozen"), [("executor", "designer"), ("designer", "executor")])
def test_the_frozen_adapter_is_bit_identical_after_a_stage(
    tmp_path: Path, learns: str, frozen: str
) -> None:
    """Both learn first, so that the optimizer holds momentum for the role that is then frozen."""
    recipe = small("train.steps=4")
    at_switch: dict[str, Weights] = {}

    def roles(step: int) -> tuple[str, ...]:
        return ("designer", "executor") if step <= 2 else (learns,)

    def make(step: int) -> list[Tree]:
        if step == 3:
            at_switch.update({name: adapter(policy, name) for name in (learns, frozen)})
        return trees(step)

    policy = load(recipe)
    RoleTrainer(recipe, policy, tmp_path, make, roles, lambda *_: None).train()
    assert not changed(at_switch[frozen], adapter(policy, frozen))
    assert changed(at_switch[learns], adapter(policy, learns))


def test_coupled_steps_move_each_role_by_its_own_mean(whole: Recipe, tmp_path: Path) -> None:
    """A role moves in a coupled step exactly as it does when it learns alone on the same trees."""
    both, _ = train(whole, tmp_path / "both", lambda step: ("designer", "executor"))
    for role in ("designer", "executor"):
        alone, _ = train(whole, tmp_path / role, lambda step, role=role: (role,))
        for key, value in adapter(alone, role).items():
            assert torch.allclose(value, adapter(both, role)[key], atol=1e-6, rtol=0)
        fresh = load(whole)
        assert changed(adapter(fresh, role), adapter(both, role))


def test_a_step_without_signal_moves_nothing(tmp_path: Path) -> None:
    def make(step: int) -> list[Tree]:
        made = trees(step)
        for tree in made:
            for design in tree.designs:
                design.call.advantage = 0.0
                for execution in design.executions:
                    for c in execution.calls:
                        c.advantage = 0.0
        return made

    recipe = small("train.steps=2")
    policy, seen = train(recipe, tmp_path, lambda step: ("designer", "executor"), make)
    fresh = load(recipe)
    assert [s["micro_batches"] for s in seen] == [0, 0]
    for role in ("designer", "executor"):
        assert not changed(adapter(fresh, role), adapter(policy, role))


def test_gradients_pass_through_4_bit_layers_after_generating(tmp_path: Path) -> None:
    """bitsandbytes repacks 4-bit weights for a CPU kernel without backward when it generates in
    eval mode; the first layer's gradient is then wrong. It must equal that of a policy which has
    never generated."""
    grads = []
    for generate in (False, True):
        policy = load(small())
        policy.activate("executor")
        if generate:
            ask = [{"role": "user", "content": "Tom has 2 pens."}]
            Engine(policy, 512, 4096).generate([Request(ask, "executor", ("k",), 1.0, 4)])
        policy.learning()
        ids = torch.arange(10, 42).reshape(2, 16)
        policy.model(input_ids=ids, labels=ids).loss.backward()
        first = next(
            p
            for n, p in policy.model.named_parameters()
            if "layers.0.self_attn.q_proj.lora_B.executor" in n
        )
        assert first.grad is not None
        grads.append(first.grad.clone())
    assert float(grads[0].abs().max()) > 0
    assert torch.allclose(grads[0], grads[1], rtol=1e-4, atol=1e-7)


def test_adapters_stay_in_float32_when_trainers_start(tmp_path: Path) -> None:
    """TRL casts adapters over a quantized base to bfloat16, and rounds them while doing so."""
    recipe = small("train.steps=1", "train.learning_rate=0")
    policy, _ = train(recipe, tmp_path, lambda step: ("designer", "executor"))
    fresh = load(recipe)
    for role in ("designer", "executor"):
        after = adapter(policy, role)
        assert {value.dtype for value in after.values()} == {torch.float32}
        assert not changed(adapter(fresh, role), after)


def test_log_probs_of_training_are_those_of_sampling(tmp_path: Path) -> None:
    """Sampled at temperature 0.7, recomputed at 0.7: the gap is rounding (fp32, 4 bit)."""
    from mxa_lite.rollout.sampler import call_of

    recipe = small("train.steps=1")
    policy = load(recipe)
    ask = [{"role": "user", "content": "Tom has 2 pens. He buys 3 more. How many pens?"}]
    requests = [Request(ask, "executor", (i,), 0.7, 24) for i in range(6)]
    done = Engine(policy, 512, 65_536).generate(requests)
    made = trees()
    calls = [call_of(r, c, "a") for r, c in zip(requests, done, strict=True)]
    for c in calls:
        c.advantage = 1.0
    made[0].designs[0].executions[0].calls = calls
    kept = made[:1]
    kept[0].designs = kept[0].designs[:1]
    kept[0].designs[0].executions = kept[0].designs[0].executions[:1]
    seen: list[dict[str, Any]] = []
    RoleTrainer(
        recipe,
        policy,
        tmp_path,
        lambda s: kept,
        lambda s: ("executor",),
        lambda *a: seen.append(a[2]),
    ).train()
    total, count = seen[0]["logp_gap"]["executor"]
    assert count == sum(len(c.completion_ids) for c in calls)
    assert total / count < 1e-5


@pytest.mark.parametrize(
    "fault", [torch.OutOfMemoryError(), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling")]
)
def test_out_of_memory_halves_the_micro_batches_and_repeats_the_update(
    whole: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: RuntimeError
) -> None:
    """A model that cannot hold 300 tokens takes the same step as one that can hold all at once."""
    train_ = whole.train.model_copy(update={"tokens_per_micro_batch": 100_000})
    recipe = whole.model_copy(update={"train": train_})
    both = lambda step: ("designer", "executor")  # noqa: E731
    policy, _ = train(recipe, tmp_path / "large", both)
    wanted = adapter(policy, "designer") | adapter(policy, "executor")

    fits = RoleTrainer._get_per_token_logps_and_entropies

    def small_memory(
        self: RoleTrainer, model: Any, input_ids: torch.Tensor, *rest: Any, **named: Any
    ) -> Any:
        found = fits(self, model, input_ids, *rest, **named)
        if input_ids.numel() > 300:
            raise fault
        return found

    monkeypatch.setattr(RoleTrainer, "_get_per_token_logps_and_entropies", small_memory)
    policy, seen = train(recipe, tmp_path / "small", both)
    got = adapter(policy, "designer") | adapter(policy, "executor")
    assert seen[0]["out_of_memory"] > 0
    assert seen[0]["micro_batches"] > 2
    assert all(torch.allclose(got[key], wanted[key], atol=1e-5, rtol=0) for key in wanted)


def test_out_of_memory_with_a_single_trajectory_says_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(RoleTrainer, "_get_per_token_logps_and_entropies", no_memory)
    with pytest.raises(RunError, match="lower rollout"):
        train(small("train.steps=1"), tmp_path, lambda step: ("executor",))


def test_the_memory_of_an_update_does_not_grow_with_its_rollouts(tmp_path: Path) -> None:
    """Allocated tensor bytes at the peak, beyond what lay there: the same for 12 micro-batches of
    four rows of 64 tokens and for 48 of them."""
    recipe = small("train.steps=1", "train.tokens_per_micro_batch=256")
    policy, peaks, counts = load(recipe), [], []
    one = call(random.Random(0), "a", 1.0)
    one = replace(one, prompt_ids=[20] * 40, completion_ids=[30] * 24, logps=[-1.0] * 24)
    for executions in (12, 48):
        (tree, *_) = trees(1)
        tree.designs[0].executions = [
            Execution(Outcome.OK, calls=[replace(one, advantage=1.0) for _ in range(4)])
            for _ in range(executions)
        ]
        tree.designs = tree.designs[:1]
        trainer = RoleTrainer(
            recipe,
            policy,
            tmp_path / str(executions),
            lambda step, tree=tree: [tree],
            lambda step: ("executor",),
            lambda step, t, numbers: counts.append(numbers["micro_batches"]),
        )
        peaks.append(peak(trainer.train))
    assert counts == [12, 48]
    assert peaks[1] < 1.001 * peaks[0]


def test_a_step_without_signal_shows_a_scaler_of_gradients_one_that_is_zero(tmp_path: Path) -> None:
    made = trees(1)[:1]
    for design in made[0].designs:
        design.call.advantage = 0.0
    args = (small("train.steps=1"), load(small()), tmp_path, lambda step: made)
    trainer = RoleTrainer(*args, lambda step: ("designer",), lambda *_: None)
    found = trajectories(made, ["designer"])
    assert trainer._micro_batches(found) == []
    trainer.accelerator.scaler = object()
    (batch,) = trainer._micro_batches(found)
    assert (batch.role, batch.rows, len(batch.calls)) == ("designer", 1, 0)
