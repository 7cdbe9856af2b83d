"""`import mxa_lite`, and the two notebooks that use it."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from handmade import call, execution, run_folder
from test_report import rollouts

import mxa_lite
from mxa_lite import cli
from mxa_lite.errors import InputError
from mxa_lite.recipe import file as recipe_file
from mxa_lite.runs import saved
from mxa_lite.runs.ask import Asked
from mxa_lite.tree import Design, Question, Tree

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
IDEAS = str(RECIPES / "own" / "ideas.yaml")
NOTEBOOKS = ("walkthrough", "colab")
TINY = {
    "rollout__max_completion_tokens": {"designer": 64, "executor": 24},
    "train__steps": 2,
    "train__questions": 2,
    "train__warmup_steps": 0,
    "schedule__period": 1,
    "rollout__designs": 2,
    "rollout__executions": 2,
    "cold_start__steps": 2,
    "eval__questions": 2,
    "eval__samples": 1,
    "eval__baselines": ["single"],
    "eval__swap": False,
}
PARAMETERS = {  # in the place of what stands in the cell tagged "parameters"
    "walkthrough": {"DESIGNS": 3, "EXECUTIONS": 2, "SMALL": TINY},
    "colab": {
        "MODEL": "embedded",
        "RECIPE": "arithmetic",
        "OUTPUT": "run",
        "SETS": TINY,
        "QUESTION": "Tom has 12 pens. He buys 7 more. How many pens?",
    },
}


def notebook(name: str) -> dict[str, Any]:
    return json.loads((RECIPES / f"{name}.ipynb").read_text(encoding="utf-8"))


def tags(cell: dict[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


# import mxa_lite


def test_the_import_is_light() -> None:
    code = "import sys, mxa_lite; print(*(m for m in sys.modules if m.startswith('mxa_lite.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_sets_by_keyword_reach_the_command_as_its_set_texts(tmp_path, monkeypatch) -> None:
    ran: dict[str, Any] = {}

    def body(**arguments: Any) -> None:
        ran.update(arguments)
        run_folder(arguments["output"])

    parameters = signature(cli.commands.run.callback).parameters
    monkeypatch.setattr(cli.commands.run, "callback", body)
    monkeypatch.chdir(tmp_path)
    sets = {"train.steps": 7, "task__kind": None, "lora__targets": ["q_proj"], "gpu": "8gb"}
    run = mxa_lite.run("arithmetic", train__learning_rate={"designer": 1e-5, "executor": 2}, **sets)
    assert run.folder == ran["output"] == Path("runs/arithmetic")
    assert ran.keys() == parameters.keys()
    assert not ran["resume"]
    loaded = recipe_file.load(ran["recipe"], ran["sets"])
    assert (loaded.train.steps, loaded.task.kind, loaded.gpu) == (7, None, "8gb")
    assert loaded.lora.targets == ["q_proj"]
    assert loaded.train.learning_rate.designer == 1e-5


def test_a_run_folder_is_read_as_lists_and_dicts(tmp_path) -> None:
    folder = run_folder(tmp_path / "mine")
    run = mxa_lite.load(str(folder))
    assert [line["step"] for line in run.metrics] == [1, 2, 3, 4]
    names = {"role", "reward/designer", "groups/executor/signal", "outcomes/ok"}
    assert names <= run.metrics[0].keys()
    assert not any(isinstance(value, dict) for line in run.metrics for value in line.values())
    assert run.eval["final"]["designed"]["accuracy"] == 0.75
    assert run.summary == json.loads((folder / "summary.json").read_text())


def test_trees_are_those_of_the_file(tmp_path) -> None:
    folder = run_folder(tmp_path / "mine")
    written = (folder / "rollouts" / "step-00002.jsonl").read_text().splitlines()
    assert mxa_lite.load(folder).trees(2) == [json.loads(line) for line in written]


def framed(value: Any) -> str:
    """The page that a notebook shows of a value, in a frame."""
    (source,) = re.findall(r'srcdoc="([^"]*)"', value._repr_html_())
    return html.unescape(source)


def test_a_tree_in_a_notebook_is_a_page_in_a_frame(tmp_path) -> None:
    """The page's own rules (no network, no foreign script) hold within the frame too."""
    page = framed(mxa_lite.load(run_folder(tmp_path / "mine")).trees(2)[0])
    assert "default-src 'none'" in page
    assert rollouts(page)[0]["trees"][0]["question"]["gold"] == "4"


def test_a_run_in_a_notebook_is_its_report(tmp_path) -> None:
    page = framed(mxa_lite.load(run_folder(tmp_path / "mine")))
    assert "<title>mine" in page
    assert rollouts(page)


def test_what_came_of_a_question_is_shown_as_the_page_of_the_design_command() -> None:
    design = Design(call("designer", "", "x"), "x", "vote", executions=[execution(1)])
    asked = Asked(Tree(Question("asked", "What is 2 + 2?", "asked"), [design]), "4", "no_answer")
    assert framed(asked) == asked.page()
    assert 'id="answer">4<' in asked.page()
    assert "The design failed (no_answer)" in asked.page()


def test_asking_names_own_code_before_it_runs(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(saved, "stored_recipe", lambda folder, checkpoint: recipe_file.load(IDEAS))
    with pytest.raises(InputError, match="no checkpoint"):
        mxa_lite.load(run_folder(tmp_path / "mine")).ask("1 + 1?")
    assert "price.py" in capsys.readouterr().err


def test_what_is_no_run_is_said_so(tmp_path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        mxa_lite.load(tmp_path)
    with pytest.raises(InputError, match=r"step-00009.jsonl cannot be read"):
        mxa_lite.load(run_folder(tmp_path / "mine")).trees(9)


# The notebooks


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_clean(name: str) -> None:
    """As nbformat 4.5 wants it; no outputs, and so nothing of the machine it was run on."""
    data = notebook(name)
    assert (data["nbformat"], data["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in data["cells"]}) == len(data["cells"])
    for cell in data["cells"]:
        assert all(isinstance(line, str) for line in cell["source"])
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            keys |= {"execution_count", "outputs"}
            assert (cell["execution_count"], cell["outputs"]) == (None, [])
        assert cell.keys() == keys
    assert not re.search(r"/(home|tmp|root|work|Users)/", json.dumps(data))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_lines_of_the_shell_stand_in_the_install_cell_only(name: str) -> None:
    code = [cell for cell in notebook(name)["cells"] if cell["cell_type"] == "code"]
    assert sum("parameters" in tags(cell) for cell in code) == 1
    for cell in code:
        if "install" not in tags(cell):
            assert not [line for line in cell["source"] if line.lstrip().startswith(("!", "%"))]
            compile("".join(cell["source"]), name, "exec")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_of_a_notebook_lead_somewhere(name: str) -> None:
    texts = [cell for cell in notebook(name)["cells"] if cell["cell_type"] == "markdown"]
    for cell in texts:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", "".join(cell["source"])):
            assert (RECIPES / link).exists(), link


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_cell_of_a_notebook_runs(name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    namespace: dict[str, Any] = {}
    for cell in notebook(name)["cells"]:
        if cell["cell_type"] == "code" and "install" not in tags(cell):
            exec(compile("".join(cell["source"]), f"{name} {cell['id']}", "exec"), namespace)
        if "parameters" in tags(cell):
            own = PARAMETERS[name]
            assert own.keys() <= namespace.keys()
            namespace |= own | {"FOLDER": tmp_path}
    assert isinstance(namespace["run"], saved.Saved)
    assert namespace["run"].summary["steps"] == 2
    assert isinstance(namespace["answer"], Asked)
    if name == "walkthrough":  # what its text says of the numbers above it
        assert namespace["step"].numbers[0]["loss"] == pytest.approx(namespace["by_hand"], abs=1e-4)
        before, after = namespace["before"], namespace["after"]
        moved = {n.split(".")[-2] for n in before if not before[n].equal(after[n])}
        assert moved == {"executor"}
        mine, paper = namespace["mine"].metrics[0], namespace["run"].metrics[0]
        assert (mine["correct"], mine["calls"]) == (paper["correct"], paper["calls"])
