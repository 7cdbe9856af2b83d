"""The exercises, the ablation recipes that they compare, and the glossary."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest
from handmade import run_folder

from mxa_lite.recipe import file as recipe_file
from mxa_lite.runs.compare import flat

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
NAMED_AFTER = {
    "adapters": {"model.adapters"},
    "ceiling": {"schedule.first"},
    "cold-start": {"cold_start.method"},
    "executor-group": {"credit.executor_group"},
    "executor-unit": {"credit.executor_unit"},
    "format": {"credit.format_weight"},
    "wrong-form": {"credit.format_when"},
    "method": {"method"},
    "schedule": {"schedule.mode"},
    "shape": {"rollout.designs", "rollout.executions"},
    "stage-length": {"schedule.period"},
}
ABLATIONS = [name for name in recipe_file.shipped() if name.startswith("ablations/")]


@pytest.mark.parametrize("axis", NAMED_AFTER)
def test_ablations_of_an_axis_differ_by_the_key_it_is_named_after(axis: str) -> None:
    names = [name for name in ABLATIONS if name.startswith(f"ablations/{axis}-")]
    recipes = [flat(recipe_file.load(name)) for name in names]
    assert len(recipes) > 1
    for a, b in combinations(recipes, 2):
        assert {key for key in a if a[key] != b[key]} == NAMED_AFTER[axis]


def test_every_ablation_has_its_axis_and_rests_on_the_miniature() -> None:
    for name in ABLATIONS:
        assert any(name.startswith(f"ablations/{axis}-") for axis in NAMED_AFTER), name
        recipe, miniature = recipe_file.load(name), recipe_file.load("miniature")
        assert (recipe.task, recipe.model.name) == (miniature.task, miniature.model.name)
        if "cold-start-off" not in name:
            assert recipe.cold_start == miniature.cold_start


EXERCISES = (RECIPES / "exercises" / "README.md").read_text(encoding="utf-8")


def test_an_exercise_names_recipes_and_keys_that_are_there() -> None:
    commands = re.findall(r"^mxa-lite (.+)$", EXERCISES, re.M)
    assert len(commands) >= 5
    for command in commands:
        words = command.split()
        sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        for recipe in (word for word in words if word.endswith(".yaml")):
            recipe_file.load(ROOT / recipe, sets)


def test_exercises_and_notes_stand_apart() -> None:
    notes = (RECIPES / "exercises" / "solutions.md").read_text(encoding="utf-8")
    titles = [re.findall(r"^## (\d\. .+)$", text, re.M) for text in (EXERCISES, notes)]
    assert titles[0] == titles[1]
    assert len(titles[0]) == 5
    assert "**Seen" not in EXERCISES


def test_the_glossary_has_fifteen_words_of_two_lines() -> None:
    text = (RECIPES / "docs" / "glossary.md").read_text(encoding="utf-8")
    entries = [block for block in text.split("\n\n") if block.startswith("**")]
    assert len(entries) == 15
    assert all(len(entry.strip().splitlines()) == 2 for entry in entries)


def test_keys_and_metrics_that_the_pages_name_are_there(tmp_path) -> None:
    """A name in a page's `code` with a dot or an underscore is a recipe's key or a metric."""
    known = {*flat(recipe_file.load("miniature")), "metrics.jsonl"}
    for line in (run_folder(tmp_path / "mine") / "metrics.jsonl").read_text().splitlines():
        for key, value in json.loads(line).items():
            known |= (
                {key, *(f"{key}.{inner}" for inner in value)} if value.__class__ is dict else {key}
            )
    text = EXERCISES + (RECIPES / "docs" / "glossary.md").read_text(encoding="utf-8")
    names = re.findall(r"`([a-z_]+(?:[._][a-z_]+)+)`", text)
    assert [name for name in names if name not in known and not name.startswith("compare.")] == []
    assert {"rollout.designs", "spread.inter"} <= set(names)
