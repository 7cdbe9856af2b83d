"""The README's commands as they stand there, on a recipe shrunk to one step of the tiny model."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_readme import README
from test_recipes_run import SHRUNK

from mxa_lite import embedded

pytestmark = pytest.mark.slow
TABLE = re.findall(r"^\| `mxa-lite (.+?)`", README, re.M)
ELSEWHERE = ("serve",)  # test_design_serve.py and test_browser.py
FILLED = {
    "RUN_OR_RECIPE...": "tiny.yaml",
    "RECIPE": "tiny.yaml",
    "RUN2": "run",
    "RUN": "run",
    "SCRIPT": "script.py",
    "TEXT": "'1 + 1?'",
    "QUESTION": "Tom has 2 pens. How many pens?",
    "FILE": "replies.jsonl",
    "DIR": "made",
}


def mxa(folder: Path, line: str, *more: str) -> str:
    """What the command prints; it must end with 0."""
    command = [sys.executable, "-m", "mxa_lite", *shlex.split(line), *more]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def sets(*more: str) -> list[str]:
    return [word for one in (*SHRUNK, *more) for word in ("--set", one)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the placeholders of the table stand for; `run` has been made by its first line."""
    made = tmp_path_factory.mktemp("reader")
    (made / "tiny.yaml").write_text(mxa(made, "validate arithmetic", *sets()))
    (made / "script.py").write_text('answer(Agent("a", "Work.")(question))')
    (made / "replies.jsonl").write_text('{"agent": "*", "reply": "\\\\boxed{2}"}')
    mxa(made, "run tiny.yaml --output run")
    return made


@pytest.mark.parametrize("line", [x for x in TABLE if x.split()[0] not in ELSEWHERE])
def test_a_command_of_the_table_does_what_it_says(folder: Path, line: str) -> None:
    plain = re.sub(r"\[.*?\]", "", line)  # what may be left away
    for name, value in FILLED.items():
        plain = re.sub(rf"\b{name.removesuffix('...')}\b(\.\.\.)?", value, plain)
    assert mxa(folder, plain)


def test_eval_beside_another_run_reaches_the_report(folder: Path) -> None:
    mxa(folder, "eval run --with run --set eval.baselines=[]")
    page = (folder / "run" / "report.html").read_text()
    assert "of the other run" in page and "fixed best" in page


def test_your_own_model_and_data(folder: Path) -> None:
    line = next(x for x in README.splitlines() if "--set model.name=/path/to/model" in x)
    rows = [{"question": f"What is {i} + 1?", "answer": f"It is.\n#### {i + 1}"} for i in range(40)]
    (folder / "my.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    filled = line.removeprefix("mxa-lite ").replace("/path/to/model", str(embedded.FOLDER))
    own = ("model.name=", "task=")  # of the line itself
    shrunk = [x for x in SHRUNK if not x.startswith(own)]
    more = [word for one in shrunk for word in ("--set", one)]
    assert "held out" in mxa(folder, filled, *more)
