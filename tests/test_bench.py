"""The bench measures what it says it does; no test here looks at seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mxa_lite.machine import bench
from mxa_lite.recipe import file as recipe_file
from mxa_lite.rollout.opened import load_policy, sampler_for

SMALL = ("train.questions=1", "rollout.executions=2", "rollout.max_completion_tokens=12")


@pytest.fixture(scope="module")
def sampler() -> Iterator[bench.FixedDesigns]:
    recipe = recipe_file.load("arithmetic", (*bench.SHAPE, *SMALL))
    with sampler_for(recipe, load_policy(recipe)) as made:
        yield bench.FixedDesigns(made.engine, made.sandbox, made.grader, recipe)


def test_the_designs_are_one_of_each_pattern_whatever_the_model_writes(
    sampler: bench.FixedDesigns,
) -> None:
    (tree,) = sampler.some("a")
    assert [d.pattern for d in tree.designs] == list(bench.PATTERNS)
    calls = [len(e.calls) for d in tree.designs for e in d.executions]
    assert calls[:4] == [1, 1, 3, 3]  # a vote has three members


def test_every_trajectory_has_a_gradient(sampler: bench.FixedDesigns) -> None:
    (tree,) = sampler.some("b")
    calls = [d.call for d in tree.designs]
    calls += [c for d in tree.designs for e in d.executions for c in e.calls]
    assert {c.advantage for c in calls} == {1.0, -1.0}


def test_one_call_at_a_time_reads_and_makes_one_row(sampler: bench.FixedDesigns) -> None:
    engine = sampler.engine
    sampler.engine = bench.Engine(engine.policy, engine.max_length, 1)
    sampler.some("c")
    stats, sampler.engine = sampler.engine.reset(), engine
    assert {rows for rows, _ in stats.batches} == {1}


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
    phases = {"design", "execute_model", "execute_sandbox", "grade", "update", "write"}
    assert set(result["step_seconds"]) == phases
    assert set(result["role_overhead"]) == {"time", "memory"}
    assert 0 <= result["padding_waste"] < 1
