"""`mxa-lite selftest`: its checks, failures, a process that is lost, and one whole run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mxa_lite.machine import proofs, selftest
from mxa_lite.recipe.file import load
from mxa_lite.sandbox.box import Limits, Sandbox
from mxa_lite.sandbox.confine import LEVELS


def test_every_check_has_its_criterion() -> None:
    named = {name.replace("-", "_").replace(" ", "_") for name in selftest.CRITERIA}
    checks = {name.removeprefix("check_") for name in vars(proofs) if name.startswith("check_")}
    assert named == checks


def test_a_failed_check_says_what_was_wanted() -> None:
    result = {"result": "failed", "text": "rlimits", "wanted": "landlock"}
    assert selftest.described("sandbox", result) == "failed   sandbox    rlimits (wanted: landlock)"
    assert "wanted" not in selftest.described("sandbox", result | {"result": "passed"})


def ground(folder: Path) -> proofs.Ground:
    plain = partial(selftest.started, folder, (), [])
    return proofs.Ground(load("arithmetic", selftest.SETS), folder, plain)


def run(checks: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> list[Any]:
    proofs.run(ground(folder), checks)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_needs_a_gpu_is_skipped_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for found in run(["device", "float16"], tmp_path, capsys):
        assert found["result"] == "skipped" and "no GPU here" in found["text"]


def test_log_probs_and_greedy_tokens_that_are_too_far_from_plain_ones_fail(tmp_path: Path) -> None:
    found = ground(tmp_path)
    logps = [torch.tensor(t.call.logps) for t in found.calls]
    found.plain = {"logps": logps, "other": [logp - 1 for logp in logps], "ties": [0.0, 0.05]}
    assert proofs.check_log_probs(found)[0] and proofs.check_greedy(found)[0]
    found.calls[0].call.logps[0] -= 0.5
    found.plain["ties"][0] = 0.2
    assert not proofs.check_log_probs(found)[0] and not proofs.check_greedy(found)[0]


def test_a_sandbox_below_landlock_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sandbox(Limits(), LEVELS[0]) as sandbox:
        lowest = (sandbox.level, *LEVELS)  # as if this machine's were the lowest
    monkeypatch.setattr(proofs, "LEVELS", lowest)
    assert run(["sandbox"], tmp_path, capsys)[0]["result"] == "failed"


def test_a_check_that_ends_its_process_has_failed_and_the_next_ones_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a fault of a GPU does: here a process that ends at the second check."""
    program = (
        "import json, sys\n"
        "for name in json.loads(sys.argv[1])['names']:\n"
        "    if name == 'sandbox': sys.exit('CUDA error: an illegal memory access')\n"
        "    print(json.dumps({'result': 'passed', 'text': 'x', 'seconds': 0}))\n"
        "    sys.stdout.flush()\n"
    )
    fake = tmp_path / "python"
    fake.write_text(f"#!{sys.executable}\nimport sys\nsys.argv[1:] = sys.argv[3:]\n{program}")
    fake.chmod(0o755)
    monkeypatch.setattr(selftest.sys, "executable", str(fake))
    said: list[str] = []
    result = selftest.selftest((), said.append)
    results = {name: one["result"] for name, one in result["checks"].items()}
    assert results == dict.fromkeys(selftest.CRITERIA, "passed") | {"sandbox": "failed"}
    assert "CUDA error: an illegal memory access" in result["checks"]["sandbox"]["text"]
    assert len(said) == len(selftest.CRITERIA) and not result["passed"]


@pytest.mark.slow
def test_this_machine_passes_all_that_applies(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mxa_lite", "selftest"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout
    result = json.loads((tmp_path / "selftest.json").read_text(encoding="utf-8"))
    assert list(result["checks"]) == list(selftest.CRITERIA)
    assert result["passed"] and result["versions"]["torch"]
    skipped = {name for name, one in result["checks"].items() if one["result"] == "skipped"}
    assert skipped == (set() if torch.cuda.is_available() else {"device", "float16"})
    assert [line.split()[0] for line in done.stdout.splitlines()[:-1]] == [
        one["result"] for one in result["checks"].values()
    ]
