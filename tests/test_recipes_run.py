"""Every shipped recipe runs, shrunk to one step of the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mxa_lite.recipe import file as recipe_file
from mxa_lite.runs import train

SHRUNK = (
    "model.name=embedded",
    "model.max_length=512",
    "model.dtype=float32",
    "task=arithmetic",
    "task.limit=20",
    "train.steps=1",
    "train.questions=1",
    "rollout.designs=2",
    "rollout.executions=2",
    "rollout.max_completion_tokens={designer: 64, executor: 24}",
    "cold_start.steps=1",
    "cold_start.batch_size=2",
    "cold_start.questions=2",
    "cold_start.rounds=1",
    "eval.questions=2",
    "eval.samples=1",
)
NAMES = [name for name in recipe_file.shipped() if not name.endswith("base")]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_runs_to_the_end(name: str, tmp_path: Path) -> None:
    recipe = recipe_file.load(name, SHRUNK)
    train.run(recipe, tmp_path / "run", resume=False)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 1
    assert (tmp_path / "run" / "report.html").is_file()
