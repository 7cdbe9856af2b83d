"""One set of versions: what pyproject allows, what was run, what CI and the Dockerfile install."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINNED = {
    r.name.lower(): r for r in map(Requirement, filter(lambda x: x[:1] not in ("", "#"), LINES))
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


@pytest.mark.parametrize("line", PROJECT["dependencies"] + EXTRAS["gpu"] + EXTRAS["test"])
def test_a_dependency_is_pinned_within_its_bounds(line: str) -> None:
    wanted = Requirement(line)
    [version] = [s.version for s in PINNED[wanted.name.lower()].specifier]
    assert wanted.specifier.contains(version)


def test_ci_and_the_dockerfile_install_the_pinned_versions() -> None:
    for file in (".ci/run", "Dockerfile"):
        text = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ")
        installs = re.findall(r"pip install .*", text)
        assert installs and all("constraints.txt" in line for line in installs), file


def test_what_the_dockerfile_copies_is_there() -> None:
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert all((ROOT / name).exists() for line in copied for name in line.split())


def test_the_readme_takes_the_pinned_torch_for_a_cpu() -> None:
    [version] = re.findall(r"torch==(\S+) --index-url", (ROOT / "README.md").read_text("utf-8"))
    assert PINNED["torch"].specifier.contains(version)
