import itertools
import json
import re

import pytest
from handmade import run_folder
from test_cli import assert_refused, mxa

from mxa_lite.errors import InputError, RunError
from mxa_lite.recipe import file as recipe_file
from mxa_lite.recipe.file import load, shipped
from mxa_lite.runs import compare as comparing

RIGHT, HALF, WRONG = ((1, 1), (1, 1)), ((1, 1), (0, 0)), ((0, 0), (0, 0))
COUPLED = ("schedule.mode=coupled",)


def run(*sources, output, seeds=(), say=lambda text: None, sets=(), resume=False):
    return comparing.compare([str(s) for s in sources], seeds, output, 2, say, sets, resume)


def test_runs_equal_but_for_the_seed_are_one_row(tmp_path):
    a = run_folder(tmp_path / "a", ("seed=1",), cold=WRONG, final=HALF)
    b = run_folder(tmp_path / "b", ("seed=2",), cold=WRONG, final=RIGHT)
    c = run_folder(tmp_path / "c", COUPLED, cold=WRONG, final=WRONG)
    result = run(a, b, c, output=tmp_path / "out")
    first, second = result["rows"]
    assert (first["seeds"], second["seeds"]) == ([1, 2], [1])
    assert first["final"]["mean"] == 0.75
    assert first["gain"]["mean"] == 0.75
    assert second["against_first"]["mean"] == -0.75
    assert first["differs"] == {"schedule.mode": "stagewise"}
    assert "44.8" in first["paper"][0] and "36.7" in second["paper"][0]
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == result


def test_the_table_holds_intervals(tmp_path):
    a = run_folder(tmp_path / "a", cold=WRONG, final=HALF)
    b = run_folder(tmp_path / "b", COUPLED, cold=WRONG, final=RIGHT)
    run(a, b, output=tmp_path / "out")
    text = (tmp_path / "out" / "compare.md").read_text()
    assert re.search(r"\| a \| 1 \| 0\.00 \[0\.00, 0\.00\] \| 0\.50 \[0\.00, 1\.00\] \|", text)
    assert "| +0.50 [+0.00, +1.00] |" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    for before, line in itertools.pairwise(lines):
        if set(line) <= set("|-"):
            assert before.count("|") == line.count("|")


def test_the_fifty_fifty_question_by_hand(tmp_path):
    # q1: both attempts newly right; q2: one stays right, one stays wrong; the pattern has changed
    changed = run_folder(tmp_path / "a", cold=((0, 0), (1, 0)), final=((1, 1), (1, 0)))
    kept = run_folder(tmp_path / "b", COUPLED, cold=WRONG, final=HALF, pattern="single")
    rows = run(changed, kept, output=tmp_path / "out")["rows"]
    for row, kept in zip(rows, (0.0, 1.0), strict=True):
        assert row["attribution"]["newly_right"] == 2
        assert (row["attribution"]["newly_right_kept"], row["attribution"]["kept"]) == (kept, kept)
    text = (tmp_path / "out" / "compare.md").read_text()
    assert "| b | 2 | 100 % | 100 % |" in text
    assert rows[0]["patterns"] == {"cold": {"single": 1.0}, "final": {"vote": 1.0}}


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (("task=gsm8k",), "differ in task.name: arithmetic and gsm8k"),
        (("task=gsm8k", "eval.questions=7"), "differ in task.name"),  # of both what says more
        (("eval.questions=7",), "differ in eval.questions: 250 and 7"),
    ],
)
def test_other_tasks_and_other_questions_are_refused(tmp_path, sets, message):
    a, b = run_folder(tmp_path / "a"), run_folder(tmp_path / "b", sets)
    with pytest.raises(InputError, match=message):
        run(a, b, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_copy_of_a_run_is_no_second_run(tmp_path):
    a, b = (run_folder(tmp_path / name, ("train.steps=4",), steps=4) for name in "ab")
    for folder in (a, b):
        (folder / "summary.json").write_text('{"steps": 4}')
    with pytest.raises(InputError, match=r"a and .*b: the same recipe and seed twice"):
        run(a, b, output=tmp_path / "out")
    assert len(run(a, a, output=tmp_path / "out")["rows"]) == 1


def test_refusals_are_exit_2_before_anything_heavy_is_imported(tmp_path):
    a, b = run_folder(tmp_path / "a"), run_folder(tmp_path / "b", ("task=gsm8k",))
    for args, message in (
        (["compare", a, b], "differ in task.name"),
        (["compare", a, "--seeds", "x"], 'must look like "1,2,3"'),
        (["eval", a], "no checkpoint yet"),
        (["design", a, "1 + 1?"], "no checkpoint yet"),
        (["serve", tmp_path], "not a run folder"),
        (["exec", recipe_file.find("base"), "--question", "?", "--model", a], "no checkpoint yet"),
    ):
        assert_refused(mxa(*args, cwd=tmp_path), message)


def test_runs_measured_on_other_questions_are_refused(tmp_path):
    a, b = run_folder(tmp_path / "a"), run_folder(tmp_path / "b", COUPLED)
    path = b / "predictions" / "final" / "designed.jsonl"
    path.write_text(path.read_text().replace("q2", "q3"))
    with pytest.raises(InputError, match="other held-out questions"):
        run(a, b, output=tmp_path / "out")


def test_a_run_without_predictions_is_refused(tmp_path):
    a = run_folder(tmp_path / "a")
    (a / "predictions" / "cold" / "designed.jsonl").unlink()
    with pytest.raises(InputError, match="no predictions"):
        run(a, output=tmp_path / "out")


@pytest.fixture
def trained(monkeypatch):
    """Instead of training, writes the run folder that was asked for; the commands it was given."""
    commands = []

    def call(command, **_):
        commands.append(command)
        path = comparing.Path(command[command.index("--output") + 1])
        steps = load("arithmetic").train.steps
        sets = [*command[command.index("--set") + 1 :: 2], f"train.steps={steps}"]
        run_folder(path, sets, steps=4)
        (path / "summary.json").write_text(f'{{"steps": {steps}}}')
        return 0

    monkeypatch.setattr(comparing.subprocess, "call", call)
    return commands


def test_what_is_missing_is_trained_once_and_then_read(tmp_path, trained):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: arithmetic\nschedule: {period: 2}\n")
    said = []
    rows = run(recipe, output=tmp_path / "out", seeds=[1, 2], say=said.append)["rows"]
    assert rows[0]["seeds"] == [1, 2]
    assert rows[0]["name"] == "mine"
    assert len(trained) == len(said) == 2
    assert "--resume" not in trained[0]
    run(recipe, output=tmp_path / "out", seeds=[1, 2])
    assert len(trained) == 2


def test_a_set_changes_every_recipe_that_is_trained(tmp_path, trained):
    sources = ["ablations/schedule-stagewise", "ablations/schedule-coupled"]
    rows = run(*sources, output=tmp_path / "out", seeds=[2], sets=("eval.samples=3",))["rows"]
    assert [row["seeds"] for row in rows] == [[2], [2]]
    given = [command[command.index("--set") :] for command in trained]
    assert given == [["--set", "eval.samples=3", "--set", "seed=2"]] * 2


def test_smoke_trains_what_run_smoke_would(tmp_path):
    found = comparing.members(["arithmetic"], [1], tmp_path / "out", smoke=True)
    assert found[0].recipe == recipe_file.smoked(load("arithmetic", ("seed=1",)), ("seed=1",))
    assert found[0].options == ("--set", "seed=1", "--smoke")


def test_an_unfinished_run_goes_on_when_told_to(tmp_path, monkeypatch):
    path = run_folder(tmp_path / "a")
    (path / "summary.json").unlink()
    commands = []

    def call(command, **_):
        commands.append(command)
        return 3

    monkeypatch.setattr(comparing.subprocess, "call", call)
    with pytest.raises(InputError, match="is not finished; --resume goes on"):
        run(path, output=tmp_path / "out")
    with pytest.raises(RunError, match="ended with 3"):
        run(path, output=tmp_path / "out", resume=True)
    assert commands[0][-2:] == [str(path / "recipe.yaml"), "--resume"]


def test_a_folder_with_another_recipe_is_not_taken_for_ours(tmp_path):
    run_folder(tmp_path / "out" / "runs" / "arithmetic-seed1", ("schedule.period=3",))
    with pytest.raises(InputError, match="with another schedule"):
        run("arithmetic", output=tmp_path / "out", seeds=[1])


def test_a_single_agent_run_is_judged_by_its_one_agent(tmp_path):
    a = run_folder(tmp_path / "a")
    b = run_folder(tmp_path / "b", ("method=single_agent",))
    for when in ("cold", "final"):
        path = b / "predictions" / when / "designed.jsonl"
        path.rename(path.with_name("single.jsonl"))
    rows = run(a, b, output=tmp_path / "out")["rows"]
    assert [row["mode"] for row in rows] == ["designed", "single"]
    assert "29.10" in rows[1]["paper"][0]


ABLATIONS = [name for name in shipped() if name.startswith("ablations/")]


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_nothing_but_its_key(name):
    allowed = next((n for key, n in (("shape", 2), ("ceiling", 3)) if key in name), 1)
    base, recipe = (comparing.flat(load(n)) for n in ("ablations/base", name))
    changed = [key for key in base if base[key] != recipe[key]]
    assert len(changed) <= allowed
    assert recipe["rollout.designs"] * recipe["rollout.executions"] == 16


def test_every_ablation_of_the_paper_has_its_recipes():
    groups = {name.split("/")[1].rsplit("-", 1)[0].split("-")[0] for name in ABLATIONS}
    assert groups >= {"schedule", "stage", "shape", "adapters", "executor", "format", "cold"}


def test_runs_without_a_training_step_are_compared_too(tmp_path):
    runs = [run_folder(tmp_path / name, sets) for name, sets in (("a", ()), ("b", COUPLED))]
    for path in runs:
        (path / "metrics.jsonl").unlink()
    assert [row["curve"] for row in run(*runs, output=tmp_path / "out")["rows"]] == [[], []]
