"""The README says what is there: commands, files, recipes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from mxa_lite.cli import cli
from mxa_lite.machine.doctor import COVERS
from mxa_lite.recipe import file as recipe_file
from mxa_lite.sandbox.confine import LEVELS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    page.name: page.read_text(encoding="utf-8") for page in (ROOT / "recipes/docs").glob("*.md")
}
COMMANDS = sorted(set(re.findall(r"mxa-lite ([a-z]+)", README)))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_the_readme_names_exists(name: str) -> None:
    assert cli.get_command(click.Context(cli), name) is not None


def test_every_command_is_in_the_readme() -> None:
    for name in cli.list_commands(click.Context(cli)):
        assert re.search(rf"`(mxa-lite )?{name}\b", README), name


@pytest.mark.parametrize("name", sorted(set(re.findall(r"recipes/([\w/-]+)\.yaml", README))))
def test_a_recipe_the_readme_names_loads(name: str) -> None:
    if name != "base":  # which has no model or task of its own
        recipe_file.load(name)


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`(test_\w+\.py)`", "".join(PAGES.values()))))
)
def test_a_test_the_pages_name_exists(path: str) -> None:
    assert (ROOT / "tests" / path).is_file()


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1600


def test_files_in_the_tree_exist() -> None:
    tree = PAGES["code.md"].split("mxa_lite/\n")[1].split("```")[0]
    for name in re.findall(r"([\w]+(?:\.py|/))", tree):
        assert (ROOT / "mxa_lite" / name).exists(), name


def test_ci_runs_the_test_command_of_the_readme() -> None:
    """The same install line, in an environment of its own."""
    line = next(x for x in README.splitlines() if ".[test]" in x)
    install = shlex.split(line.split("&&")[1].strip())[1:]
    assert " ".join(install) in (ROOT / ".ci/run").read_text().replace("-q ", "").replace("'", "")


def test_the_sandbox_table_is_what_the_sandbox_says() -> None:
    for text, first in COVERS:
        cells = ["yes" if LEVELS.index(x) >= LEVELS.index(first) else "no" for x in LEVELS]
        assert f"| {text} | {' | '.join(cells)} |" in PAGES["sandbox.md"]


def test_every_page_and_file_that_is_linked_exists() -> None:
    for folder, text in [
        (ROOT, README),
        *((ROOT / "recipes/docs", page) for page in PAGES.values()),
    ]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (folder / link).exists(), link
