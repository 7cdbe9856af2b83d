"""The trainer subclass on the tiny model: gradients, freezing, loss normalisation."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from allocations import peak
from conftest import small
from made_trees import Seen, call, on_policy, trees

from mxa_lite.errors import RunError
from mxa_lite.learn.batching import trajectories
from mxa_lite.learn.numbers import merged
from mxa_lite.learn.scale import lower_first_scale
from mxa_lite.learn.step import Step, mini_batches
from mxa_lite.learn.trainer import RoleTrainer
from mxa_lite.policy.generate import Engine
from mxa_lite.policy.load import load
from mxa_lite.policy.policy import Policy
from mxa_lite.policy.request import Request
from mxa_lite.recipe.keys import Rates, Recipe
from mxa_lite.records import UpdateNumbers
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
) -> tuple[Policy, list[UpdateNumbers]]:
    """Train on made-up trees; returns the policy and what each step measured."""
    policy = load(recipe)
    seen = Seen(lambda step: on_policy(policy, make(step)), roles)
    RoleTrainer(recipe, policy, folder, seen.take).train()
    return policy, seen.numbers


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
        "train.weight_decay=0",
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
    RoleTrainer(recipe, policy, tmp_path, Seen(make, roles).take).train()
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
    seen = Seen(lambda step: kept, lambda step: ("executor",))
    RoleTrainer(recipe, policy, tmp_path, seen.take).train()
    total, count = seen.numbers[0]["logp_gap"]["executor"]
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


@pytest.mark.slow
def test_the_memory_of_an_update_does_not_grow_with_its_rollouts(tmp_path: Path) -> None:
    """Allocated tensor bytes at the peak, beyond what lay there: the same for 12 micro-batches of
    four rows of 64 tokens, none begun alike, and for 48 of them."""
    recipe = small("train.steps=1", "train.tokens_per_micro_batch=256")
    policy, peaks, counts = load(recipe), [], []
    one = call(random.Random(0), "a", 1.0)
    one = replace(one, prompt_ids=[20] * 40, completion_ids=[30] * 24, logps=[-1.0] * 24)
    for executions in (12, 48):
        (tree, *_) = trees(1)
        tree.designs[0].executions = [
            Execution(
                Outcome.OK,
                calls=[replace(one, prompt_ids=[4 * i + n] + [20] * 39) for n in range(4)],
            )
            for i in range(executions)
        ]
        tree.designs = tree.designs[:1]
        seen = Seen(lambda step, tree=tree: [tree], lambda step: ("executor",))
        trainer = RoleTrainer(recipe, policy, tmp_path / str(executions), seen.take)
        peaks.append(peak(trainer.train))
        counts.append(seen.numbers[0]["micro_batches"])
    assert counts == [12, 48]
    assert peaks[1] < 1.001 * peaks[0]


class Scaler:
    """Float16's scaler of gradients, as far as a step looks at it."""


def test_a_step_without_signal_shows_a_scaler_of_gradients_one_that_is_zero(tmp_path: Path) -> None:
    made = trees(1)[:1]
    for design in made[0].designs:
        design.call.advantage = 0.0
    rows = []
    for scaler in (None, Scaler()):
        policy = load(small())
        seen = Seen(lambda step: made, lambda step: ("designer",))
        trainer = RoleTrainer(small("train.steps=1"), policy, tmp_path, seen.take)
        trainer.accelerator.scaler = scaler
        trainer.step = seen.take(1)
        trainer.accelerator.backward = lambda loss: loss.backward()
        trainer.create_optimizer()
        trainer.current_gradient_accumulation_steps = 1
        trainer.training_step(policy.model, None)
        rows.append(trainer.numbers["padded_tokens"])
    assert rows[0] == 0 < rows[1]


def test_a_step_that_the_scaler_skips_is_recorded_with_the_scale(
    whole: Recipe, tmp_path: Path
) -> None:
    """float32 with float16's scaler; the first step's advantages are so large that it overflows."""
    made = {step: trees(step) for step in (1, 2)}
    for trajectory in trajectories(made[1], ("executor",)):
        trajectory.call.advantage *= 1e30
    recipe = whole.model_copy(update={"train": whole.train.model_copy(update={"steps": 2})})
    policy = load(recipe)
    weights = [adapter(policy, "executor")]

    def take(step: int) -> list[Tree]:
        weights.append(adapter(policy, "executor"))
        return on_policy(policy, made[step])

    seen = Seen(take, lambda step: ("executor",))
    trainer = RoleTrainer(recipe, policy, tmp_path, seen.take)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    trainer.train()
    assert [n["step_skipped"] for n in seen.numbers] == [1, 0]
    assert [n["scale"] for n in seen.numbers] == [2.0**29, 2.0**29]
    assert not changed(weights[1], weights[2])
    assert changed(weights[2], adapter(policy, "executor"))
    both = merged(seen.numbers, updates=2)
    assert (both["step_skipped"], both["scale"]) == (1, 2.0**29)


def test_the_scaler_of_gradients_begins_below_torch_s_own() -> None:
    accelerator = Accelerator(cpu=True)
    lower_first_scale(accelerator)
    assert accelerator.scaler is None
    accelerator.scaler = torch.amp.GradScaler("cpu")
    before = accelerator.scaler.get_scale()
    lower_first_scale(accelerator)
    assert accelerator.scaler.get_scale() < before


def one_call(policy: Policy, advantage: float, gap: float = 0.0) -> list[Tree]:
    """A tree with one executor call of two tokens; gap: new minus old log-prob of its tokens."""
    c = replace(
        call(random.Random(3), "a", advantage), prompt_ids=[20, 21], completion_ids=[30, 31]
    )
    (tree, *_) = trees()
    tree.designs = tree.designs[:1]
    tree.designs[0].executions = [Execution(Outcome.OK, calls=[c])]
    on_policy(policy, [tree])
    c.logps = [logp - gap for logp in c.logps]
    return [tree]


@pytest.mark.parametrize(
    ("advantage", "gap", "moves"),
    [
        (1.0, 0.0, True),
        (1.0, 0.5, False),  # ratio 1.65, already above 1 + 0.2: no more in that direction
        (-1.0, 0.5, True),
        (-1.0, -0.5, False),  # ratio 0.61, already below 1 - 0.2
        (1.0, -0.5, True),
    ],
)
def test_the_clip_bites_on_the_side_that_the_advantage_pushes_to(
    whole: Recipe, tmp_path: Path, advantage: float, gap: float, moves: bool
) -> None:
    """Eq. 2, 3: min(ratio A, clip(ratio, 0.8, 1.2) A); the sampled log-probs are the old ones."""
    policy = load(whole)
    before = adapter(policy, "executor")
    seen = Seen(lambda step: one_call(policy, advantage, gap), lambda step: ("executor",))
    RoleTrainer(whole, policy, tmp_path, seen.take).train()
    assert changed(before, adapter(policy, "executor")) is moves
    clipped, tokens = seen.numbers[0]["clipped"]["executor"]
    assert (clipped, tokens) == (0 if moves else 2, 2)


def test_without_a_clip_the_same_step_moves(whole: Recipe, tmp_path: Path) -> None:
    unclipped = whole.model_copy(update={"train": whole.train.model_copy(update={"clip": 10.0})})
    policy = load(unclipped)
    before = adapter(policy, "executor")
    seen = Seen(lambda step: one_call(policy, 1.0, 0.5), lambda step: ("executor",))
    RoleTrainer(unclipped, policy, tmp_path, seen.take).train()
    assert changed(before, adapter(policy, "executor"))


def test_the_loss_is_minus_the_ratio_times_the_advantage(whole: Recipe, tmp_path: Path) -> None:
    """Worked by hand: one call of two tokens, A = 2, each ratio exp(0.1): loss = -2 exp(0.1)."""
    policy = load(whole)
    seen = Seen(lambda step: one_call(policy, 2.0, 0.1), lambda step: ("executor",))
    RoleTrainer(whole, policy, tmp_path, seen.take).train()
    assert seen.numbers[0]["loss"] == pytest.approx(-2 * math.exp(0.1), abs=1e-3)


def test_a_call_s_weight_reaches_the_loss(whole: Recipe, tmp_path: Path) -> None:
    """`executor_unit: execution`: two executions of one and of three equal calls, advantages 1 and
    -1, weights 1 and 1/3, weigh the same: their gradients cancel. Without weights they do not."""
    moved = []
    for weight in (1 / 3, 1.0):
        policy = load(whole)
        (tree,) = one_call(policy, 1.0)
        (up,) = tree.designs[0].executions[0].calls
        down = [replace(up, advantage=-1.0, weight=weight) for _ in range(3)]
        tree.designs[0].executions.append(Execution(Outcome.OK, calls=down))
        before = adapter(policy, "executor")
        seen = Seen(lambda step, tree=tree: [tree], lambda step: ("executor",))
        RoleTrainer(whole, policy, tmp_path / str(weight), seen.take).train()
        after = adapter(policy, "executor")
        moved.append(max(float((after[key] - before[key]).abs().max()) for key in before))
    assert moved[0] < 1e-5 < 1e-4 < moved[1]


def test_several_updates_share_out_the_trajectories_of_one_rollout(tmp_path: Path) -> None:
    """`train.updates: 2`: every trajectory is learned once; at the second update the policy is no
    longer the one that sampled, so the ratio leaves 1."""
    recipe = small("train.steps=2", "train.updates=2", "train.learning_rate=1e-2")
    policy = load(recipe)
    base = replace_mini_batches(recipe, policy)
    RoleTrainer(recipe, policy, tmp_path, base.take).train()
    for step in base.steps:
        first, second = step.numbers
        total = sum(numbers["trajectories"] for numbers in step.numbers)
        assert total == len(trajectories(step.trees, ("designer", "executor")))
        gap = {
            n: sum(v for v, _ in numbers["logp_gap"].values())
            for n, numbers in (("first", first), ("second", second))
        }
        assert gap["first"] < 1e-2 < gap["second"]
    assert (tmp_path / "step-00002" / "trainer_state.json").exists()


def replace_mini_batches(recipe: Recipe, policy: Policy) -> Seen:
    """Steps over made-up trees whose trajectories are dealt out to `train.updates` updates."""

    class Dealt(Seen):
        def take(self, number: int) -> Step:
            step = super().take(number)
            order = random.Random(number)
            learned = trajectories(step.trees, step.roles)
            step.mini_batches = mini_batches(learned, recipe.train.updates, order)
            return step

    return Dealt(lambda step: on_policy(policy, trees(step)), lambda step: ("designer", "executor"))
