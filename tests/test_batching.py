"""Trajectories and micro-batches."""

from __future__ import annotations

import random

import pytest
import torch
from made_trees import call, trees

from mxa_lite.learn.batching import (
    Trajectory,
    micro_batches,
    pack,
    padded_tokens,
    role_totals,
    trajectories,
)
from mxa_lite.tree import Call

CPU = torch.device("cpu")


def sized(prompt: int, completion: int) -> Call:
    """A call of so many tokens."""
    made = call(random.Random(0), "a", 1.0)
    made.prompt_ids, made.completion_ids = [1] * prompt, [1] * completion
    made.logps = [0.0] * completion
    return made


def test_only_the_learning_roles_have_trajectories() -> None:
    made = trees()
    assert {t.role for t in trajectories(made, ["designer"])} == {"designer"}
    assert len(trajectories(made, ["designer"])) == 4
    calls = sum(len(e.calls) for tree in made for d in tree.designs for e in d.executions)
    assert len(trajectories(made, ["designer", "executor"])) == 4 + calls


def test_calls_at_temperature_0_are_not_trained_on() -> None:
    made = trees()
    made[0].designs[0].executions[0].calls[0].temperature = 0.0
    before = len(trajectories(trees(), ["executor"]))
    assert len(trajectories(made, ["executor"])) == before - 1


def test_a_micro_batch_holds_one_role_and_one_temperature() -> None:
    made = trees()
    made[1].designs[0].executions[0].calls[0].temperature = 0.5
    batches = micro_batches(trajectories(made, ["designer", "executor"]), 512)
    kinds = {(b.role, b.temperature) for b in batches}
    assert kinds == {("designer", 1.0), ("executor", 1.0), ("executor", 0.5)}


def test_padded_tokens_stay_under_the_budget_and_the_longest_come_first() -> None:
    rng = random.Random(1)
    calls = [call(rng, "a", 1.0) for _ in range(40)]
    batches = pack(calls, 300)
    assert sum(map(len, batches)) == 40
    sizes = [padded_tokens(some) for some in batches]
    assert sizes == sorted(sizes, reverse=True)
    found = [Trajectory("executor", c) for c in calls]
    for batch in micro_batches(found, 300):
        inputs = batch.tensors(0, CPU)
        tokens = inputs["prompt_ids"].numel() + inputs["completion_ids"].numel()
        assert tokens == batch.padded
        assert batch.rows == 1 or tokens <= 300


def test_rows_of_unlike_length_are_kept_apart() -> None:
    """Ten rows of 40 + 10 tokens and ten of 20 + 30, fixed cost 2000 // 32 = 62 a micro-batch: two
    rectangles of 500 tokens waste nothing; one of 20 x (40 + 30) would waste 400."""
    calls = [sized(40, 10) for _ in range(10)] + [sized(20, 30) for _ in range(10)]
    assert [padded_tokens(some) for some in pack(calls, 2000)] == [500, 500]


def test_rows_of_almost_equal_length_share_a_micro_batch() -> None:
    """Ten rows of 40 tokens and ten of 41: one token of padding a row costs less than a cut."""
    calls = [sized(30, 10) for _ in range(10)] + [sized(31, 10) for _ in range(10)]
    assert [len(some) for some in pack(calls, 2000)] == [20]


def test_no_row_is_lost_or_doubled() -> None:
    found = trajectories(trees(3, questions=5), ["executor"])
    batches = [batch.tensors(0, CPU) for batch in micro_batches(found, 200)]
    kept = sorted(x for inputs in batches for x in inputs["advantages"].tolist())
    assert kept == pytest.approx(sorted(t.call.advantage for t in found))


def test_num_items_in_batch_counts_the_tokens_of_the_same_role() -> None:
    """The designer's tokens do not dilute the executor's mean, in any micro-batch."""
    found = trajectories(trees(), ["designer", "executor"])
    for batch in micro_batches(found, 200):
        tokens = sum(len(t.call.completion_ids) for t in found if t.role == batch.role)
        assert float(batch.tensors(0, CPU)["num_items_in_batch"]) == tokens


def test_rows_without_advantage_count_but_are_not_computed() -> None:
    found = trajectories(trees(), ["designer"])
    found[0].call.advantage = 0.0
    batches = micro_batches(found, 10_000)
    assert sum(batch.rows for batch in batches) == len(found) - 1
    assert role_totals(found)["designer"][1] == len(found)


def test_prompts_are_padded_left_and_completions_right() -> None:
    found = trajectories(trees(), ["designer"])
    for batch in micro_batches(found, 10_000):
        inputs = batch.tensors(7, CPU)
        prompt, mask = inputs["prompt_ids"], inputs["prompt_mask"]
        assert bool((mask[:, -1] == 1).all()) and bool((prompt[mask == 0] == 7).all())
        assert bool((inputs["completion_mask"][:, 0] == 1).all())


def test_a_call_s_weight_scales_its_advantage_and_its_count() -> None:
    """`executor_unit: execution` gives each of c calls weight 1/c: advantages 3/3 and 2, and
    1/3 of 6 tokens and 1 of 4 make 6 loss tokens of 4/3 rows."""
    shared, lone = sized(2, 6), sized(3, 4)
    shared.advantage, shared.weight = 3.0, 1 / 3
    lone.advantage = 2.0
    learned = [Trajectory("executor", shared), Trajectory("executor", lone)]
    assert role_totals(learned) == {"executor": (pytest.approx(6.0), pytest.approx(4 / 3))}
    (batch,) = micro_batches(learned, 512)
    inputs = batch.tensors(0, CPU)
    assert sorted(inputs["advantages"].tolist()) == pytest.approx([1.0, 2.0])
