"""What `mxa-lite doctor` says is missing for a GPU run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mxa_lite.machine import doctor
from mxa_lite.policy import GET_UNSLOTH

README = (Path(__file__).parent.parent / "recipes/docs/gpu.md").read_text(encoding="utf-8")
COMPLETE = {"torch": "2.13.0", "unsloth": "2026.10.9"}


@pytest.fixture(autouse=True)
def _compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with a compiler and headers, whatever this one has."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(doctor.sysconfig, "get_path", lambda _: str(tmp_path))


def test_nothing_is_missing_where_all_is_there() -> None:
    assert doctor.missing_for_gpu(COMPLETE, cuda=True) == []


@pytest.mark.parametrize(
    ("found", "cuda", "text"),
    [
        (COMPLETE | {"torch": "2.13.0+cpu"}, True, "torch==2.13.0 from the CUDA index"),
        (COMPLETE, False, "nvidia-smi"),
        ({"torch": "2.13.0"}, True, GET_UNSLOTH),
    ],
)
def test_what_is_missing_is_named_with_its_mend(
    found: dict[str, str], cuda: bool, text: str
) -> None:
    [step] = doctor.missing_for_gpu(found, cuda)
    assert text in step


def test_a_compiler_and_headers_are_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "Python.h").unlink()
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    steps = doctor.missing_for_gpu(COMPLETE, cuda=True)
    assert [re.findall(r"no (C compiler|Python headers)", step) for step in steps] == [
        ["C compiler"],
        ["Python headers"],
    ]


def test_unsloth_is_installed_as_the_readme_says() -> None:
    assert f"`{GET_UNSLOTH}`" in README


def test_an_xformers_that_cannot_load_is_named_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A package of that name whose kernels do not load, and one whose do."""
    package = tmp_path / "xformers"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    kernels = package / "_cpp_lib.py"
    kernels.write_text("def _register_extensions():\n    raise OSError('built for torch 2.10')\n")
    assert "built for torch 2.10" in (doctor.xformers() or "")
    kernels.write_text("def _register_extensions():\n    pass\n")
    assert doctor.xformers() is None
