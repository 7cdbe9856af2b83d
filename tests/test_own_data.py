"""A newcomer's first hour: the recipe to copy, own rows, `--smoke`, own scripts."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from test_cli import mxa

from mxa_lite.recipe import file as recipe_file
from mxa_lite.rollout.own_ideas import try_all
from mxa_lite.tasks import load as tasks

OWN = recipe_file.SHIPPED / "own"
SYSTEMS = {"own_checked", "own_vote"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe and its scripts, copied, with other rows under other columns."""
    copied = tmp_path_factory.mktemp("newcomer")
    shutil.copytree(OWN / "systems", copied / "systems")
    text = (OWN / "my-data.yaml").read_text()
    commented = "  # columns: {question: Frage, answer: Antwort}"
    assert commented in text
    (copied / "my-data.yaml").write_text(text.replace(commented, commented.replace("# ", "")))
    with (copied / "my-data.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Frage", "Quelle", "Antwort"])
        for n in range(2, 12):
            rows.writerow([f'Tom has {n} pens, and "buys" 3 more. How many pens?', "me", n + 3])
        rows.writerow(["", "me", 1])
    return copied


def test_the_shipped_rows_are_all_read() -> None:
    data = tasks.load(recipe_file.load("own/my-data").task, 1)
    assert (len(data.train), len(data.test)) == (48, 12)
    assert len(data.notes) == 1 and "12 of 60 questions held out" in data.notes[0]


def test_data_and_scripts_lie_beside_the_recipe_wherever_it_is_called_from(folder: Path) -> None:
    recipe = recipe_file.load(folder / "my-data.yaml")
    assert recipe.task.train == str(folder / "my-data.csv")
    assert [script.path for script in recipe.eval.systems] == [
        str(folder / "systems" / name) for name in ("checked.py", "vote.py")
    ]
    try_all(recipe)


def test_validate_says_which_row_is_left_out(folder: Path) -> None:
    done = mxa("validate", "my-data.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "my-data.csv: 1 of 11 rows left out: row 12 has no question" in done.stderr
    assert "eval.systems[1]: vote.py" in done.stderr and "inside the sandbox only" in done.stderr


def test_a_smoke_run_goes_from_end_to_end(folder: Path) -> None:
    """Twice, since a second one takes the first one's place."""
    (folder / "runs" / "my-data-smoke").mkdir(parents=True)
    shutil.copy(folder / "my-data.yaml", folder / "runs" / "my-data-smoke" / "recipe.yaml")
    (folder / "runs" / "my-data-smoke" / "stale").touch()
    done = mxa("run", "my-data.yaml", "--smoke", "--set", "train.keep=1", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("means anything") == done.stdout.count("numbers mean nothing") == 1
    run = folder / "runs" / "my-data-smoke"
    assert not (run / "stale").exists()
    roles = [json.loads(line)["role"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert roles == ["executor", "designer"] * 2
    results = json.loads((run / "eval.json").read_text())
    assert set(results["final"]) - set(results["cold"]) == SYSTEMS
    assert results["final"]["own_vote"]["calls"] == 3 >= results["final"]["own_checked"]["calls"]
    assert set(json.loads((run / "summary.json").read_text())["against"]) >= SYSTEMS
    page = (run / "report.html").read_text()
    assert all(f"<td>{name.replace('_', ' ')}" in page for name in SYSTEMS)
    assert sorted(path.name for path in (run / "own").iterdir()) == ["checked.py", "vote.py"]
    left = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert left == ["step-00000", "step-00004"]
