"""Two processes (gloo, CPU) take the steps that one takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft.utils import load_peft_weights

WORLD = Path(__file__).parent / "distributed_world.py"
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.mark.slow
@pytest.mark.parametrize(("loss_type", "questions"), [("dapo", 3), ("grpo", 3), ("dapo", 1)])
def test_two_processes_take_the_optimizer_step_of_one(
    tmp_path: Path, loss_type: str, questions: int
) -> None:
    """Two questions against one, so that micro-batches differ in number; then one against none."""
    learnt = []
    for name, command in (("one", [sys.executable]), ("two", TWO)):
        target = tmp_path / name
        arguments = [str(WORLD), str(target), loss_type, str(questions)]
        subprocess.run([*command, *arguments], check=True, capture_output=True, timeout=300)
        learnt.append([load_peft_weights(str(target / r)) for r in ("designer", "executor")])
    for one, two in zip(*learnt, strict=True):
        assert max(float(w.abs().max()) for k, w in one.items() if "lora_B" in k) > 1e-4
        assert all(torch.allclose(one[key], two[key], atol=1e-5, rtol=0) for key in one)


@pytest.mark.slow
def test_a_run_on_two_processes_is_the_run_of_one(tmp_path: Path) -> None:
    """Equal questions, rollouts and rewards, step after step, written by one process."""
    shape = ("train.steps=2", "train.questions=3", "rollout.designs=2", "schedule.period=1")
    evaluation = ("eval.questions=4", "eval.samples=1", "eval.greedy=false", "eval.baselines=[]")
    sets = [part for one in (*shape, *evaluation) for part in ("--set", one)]
    lines = []
    for name, command in (("one", [sys.executable]), ("two", TWO)):
        run = tmp_path / name
        arguments = ["-m", "mxa_lite", "run", "arithmetic", *sets, "--output", str(run)]
        done = subprocess.run(
            [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("report:") == 1
        lines.append([json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()])
    assert len(lines[0]) == len(lines[1]) == 2
    for one, two in zip(*lines, strict=True):
        for key in ("role", "reward", "correct", "outcomes", "patterns", "tokens", "trajectories"):
            assert one[key] == two[key], key
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-4)
        assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-3)


@pytest.mark.slow
def test_a_cold_start_on_several_processes_is_refused_with_what_to_do(tmp_path: Path) -> None:
    sets = ["--set", "cold_start.method=data", "--set", "train.steps=1"]
    arguments = ["-m", "mxa_lite", "run", "arithmetic", *sets, "--output", str(tmp_path / "run")]
    done = subprocess.run([*TWO, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "do `mxa-lite run RECIPE --set train.steps=0` first" in done.stderr
    assert not (tmp_path / "run").exists()  # else that command would find it taken
