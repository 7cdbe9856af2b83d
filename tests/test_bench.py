"""The bench measures what it says it does; no test here looks at seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from statistics import fmean
from typing import Any

import pytest
import torch

from mxa_lite.learn.batching import trajectories
from mxa_lite.machine import anchors, bench
from mxa_lite.policy.generate import EngineStats
from mxa_lite.recipe import file as recipe_file
from mxa_lite.recipe.file import override
from mxa_lite.rollout.opened import load_policy, sampler_for
from mxa_lite.tree import ROLES

SMALL = ("train.questions=1", "rollout.executions=2", "rollout.max_completion_tokens=12")


@pytest.fixture(scope="module")
def sampler() -> Iterator[anchors.FixedDesigns]:
    recipe = recipe_file.load("arithmetic", (*bench.SHAPE, *SMALL))
    with sampler_for(recipe, load_policy(recipe)) as made:
        yield anchors.FixedDesigns(made.engine, made.sandbox, made.grader, recipe)


def test_the_designs_are_one_of_each_pattern_whatever_the_model_writes(
    sampler: anchors.FixedDesigns,
) -> None:
    (tree,) = sampler.some("a")
    assert [d.pattern for d in tree.designs] == list(anchors.PATTERNS)
    calls = [len(e.calls) for d in tree.designs for e in d.executions]
    assert calls[:4] == [1, 1, 3, 3]  # a vote has three members


def test_every_trajectory_has_a_gradient(sampler: anchors.FixedDesigns) -> None:
    (tree,) = sampler.some("b")
    calls = [d.call for d in tree.designs]
    calls += [c for d in tree.designs for e in d.executions for c in e.calls]
    assert {c.advantage for c in calls} == {1.0, -1.0}


def test_the_limit_is_what_the_larger_of_arithmetic_and_memory_allows(
    sampler: anchors.FixedDesigns, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree,) = sampler.some("c")
    policy, calls = sampler.engine.policy, [t.call for t in trajectories([tree], ROLES)]
    stats = EngineStats(completion_tokens=40, row_steps=50)
    stats.batches = [(8, 100), (24, 100)]  # 16 rows in the middle

    def limit(matrix: float, memory: float) -> dict[str, float]:
        monkeypatch.setattr(anchors, "machine_rates", lambda policy: (matrix, memory))
        return anchors.decode_limit(policy, [tree], stats, 500.0)

    # Of the embedded model: four layers of width 192 with an MLP of 512, and a head of 865 tokens.
    weights = 4 * (4 * 192**2 + 3 * 192 * 512) + 865 * 192
    seen = fmean(len(c.prompt_ids) + len(c.completion_ids) / 2 for c in calls)
    bytes_read = 4 * (weights / 16 + 4 * 2 * 192 * seen)
    assert limit(1e9, 1e30)["limit"] == pytest.approx(1e9 / (2 * weights + 4 * 4 * 192 * seen))
    assert limit(1e30, 1e9)["limit"] == pytest.approx(1e9 / bytes_read)
    assert limit(1e30, 1e9)["share"] == pytest.approx(500 * bytes_read / 1e9)
    assert limit(1e30, 1e9)["row_steps"] == pytest.approx(50 / 40)


def test_trl_s_own_update_has_as_many_rows_and_tokens_and_no_padding(
    sampler: anchors.FixedDesigns,
) -> None:
    trees, seen = sampler.some("d"), list[dict[str, torch.Tensor]]()

    class Spied(anchors.Rectangles):
        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> torch.Tensor:
            seen.append(inputs)
            return super().compute_loss(model, inputs, *rest, **named)

    sets = {"train.prefix_sharing": False, "train.tokens_per_micro_batch": 1000}
    recipe = override(sampler.recipe, sets)
    anchors.update(Spied, recipe, sampler.engine.policy, trees, "executor")
    calls = [t.call for t in trajectories(trees, ["executor"])]
    tokens = sum(len(c.prompt_ids) + len(c.completion_ids) for c in calls)
    masks = [torch.cat([i["prompt_mask"], i["completion_mask"]], 1) for i in seen]
    assert all(bool(mask.all()) and mask.numel() <= 1000 for mask in masks)
    assert sum(map(len, masks)) == 2 * len(calls)  # two steps
    assert sum(mask.numel() for mask in masks) == pytest.approx(2 * tokens, abs=2 * len(calls))


def test_a_spinning_process_is_one_as_long_as_it_is_wanted() -> None:
    with anchors.a_spinning_process() as process:
        assert process.poll() is None
    assert process.poll() is not None


def test_a_script_of_one_call_is_timed_alone_in_a_burst_and_against_python() -> None:
    found = bench.sandbox_ms(times=3, burst=4)
    assert set(found) == {"median", "p99", "burst_ms", "burst_p99", "vs_python"}
    assert all(value > 0 for value in found.values())


@pytest.mark.slow
def test_bench_json_is_one_object_with_every_measurement() -> None:
    sets = [part for one in SMALL for part in ("--set", one)]
    command = [sys.executable, "-m", "mxa_lite", "bench", "--json", *sets]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert set(result) == {"machine", *bench.MEANING}
    assert set(result["prefix_sharing"]) == set(ROLES)
    assert set(result["scaling"]) == {"2", "32", "128", "ratio"}  # of the small shape
    assert {"step", "update"} < set(result["busy"])
    assert {"share", "tokens_per_second", "limit", "row_steps"} < set(result["decode_limit"])
