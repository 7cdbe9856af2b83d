"""`mxa-lite selftest`: its checks, failures, a process that is lost, and one whole run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mxa_lite.machine import at_size, proofs, selftest
from mxa_lite.policy.policy import Policy
from mxa_lite.recipe.file import load
from mxa_lite.recipe.shapes import Shape, shape_of
from mxa_lite.rollout.opened import load_policy
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
    other_side = partial(selftest.started, folder, ())
    return proofs.Ground(load("arithmetic", selftest.SETS), folder, other_side)


def run(checks: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> list[Any]:
    proofs.run(ground(folder), checks)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_needs_a_gpu_is_skipped_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for found in run(["device", "float16", "memory"], tmp_path, capsys):
        assert found["result"] == "skipped" and "no GPU here" in found["text"]


def test_log_probs_and_greedy_tokens_that_are_too_far_from_plain_ones_fail(tmp_path: Path) -> None:
    found = ground(tmp_path)
    logps = [torch.tensor(t.call.logps) for t in found.calls]
    found.plain = {"logps": logps, "other": [logp - 1 for logp in logps], "ties": [0.0, 0.05]}
    assert proofs.check_log_probs(found)[0] and proofs.check_greedy(found)[0]
    found.calls[0].call.logps[0] -= 0.5
    found.plain["ties"][0] = 0.2
    assert not proofs.check_log_probs(found)[0] and not proofs.check_greedy(found)[0]


def test_an_export_that_says_something_else_or_is_none_fails(tmp_path: Path) -> None:
    found = ground(tmp_path)
    found.exported = SimpleNamespace(stderr="error: no room on the disk")
    for plain, passes in (({"merged": [0.0, 0.05]}, True), ({"merged": [0.0, 0.2]}, False)):
        found.plain = plain
        assert proofs.check_export(found)[0] == passes
    found.plain = {}
    passed, text = proofs.check_export(found)
    assert not passed and "no room on the disk" in text


def test_vllm_that_is_too_far_from_an_update_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proofs, "find_spec", lambda name: None)
    with pytest.raises(proofs.Skip, match="not installed"):
        proofs.check_vllm(ground(tmp_path))
    monkeypatch.setattr(proofs, "find_spec", lambda name: name)
    for gap, passes in ((0.04, True), (0.06, False)):
        found = SimpleNamespace(answer=lambda name, gap=gap: {"gaps": torch.tensor([0.0, 2 * gap])})
        assert proofs.check_vllm(found)[0] == passes


def test_the_recipe_for_a_card_is_the_largest_that_it_has_the_memory_for() -> None:
    presets = {gb: at_size.recipe(gb).gpu for gb in (6, 7.7, 11.8, 14.6, 15.7, 23.5, 79)}
    expected = ["8gb", "8gb", "12gb", "12gb", "16gb", "24gb", "24gb"]
    assert list(presets.values()) == expected


class Small(at_size.Memory):
    """As if a card held one thing alone: the tokens of a forward pass."""

    def __init__(self, policy: Policy) -> None:
        self.limit, self.most = float("inf"), 0
        policy.model.register_forward_pre_hook(self.hold, with_kwargs=True)

    def hold(self, _: Any, __: Any, inputs: dict[str, Any]) -> None:
        self.most = max(self.most, inputs["input_ids"].numel())
        if inputs["input_ids"].numel() > self.limit:
            raise torch.OutOfMemoryError

    def peak(self, work: Callable[[], int]) -> tuple[int, int, int]:
        self.most = 0
        result = work()
        return 0, self.most, result

    @contextmanager
    def at_most(self, size: float) -> Iterator[None]:
        self.limit = size
        yield
        self.limit = float("inf")


@pytest.fixture
def sized(tmp_path: Path) -> tuple[Any, Policy]:
    """As `Ground.sized`, but tiny."""
    shape = Shape(32, 48, 2, 4, 2, 8, 1000, True)
    at_size.write_model(shape, tmp_path)
    assert shape_of(str(tmp_path)) == shape
    sets = {"rollout.max_completion_tokens": 64, "train.tokens_per_micro_batch": 2048}
    sets |= {"model.max_length": 512, "generation_tokens": 2048, "rollout.weights": "adapter"}
    recipe = at_size.recipe(
        0, f"model.name={tmp_path}", *(f"{key}={value}" for key, value in sets.items())
    )
    return recipe, load_policy(recipe)


@pytest.mark.slow
def test_memory_that_runs_out_is_counted_in_both_phases_and_they_go_on(
    sized: tuple[Any, Policy],
) -> None:
    """In half of what they took: a full batch of four prompts, micro-batches of six rows."""
    phases, memory = at_size.Phases(*sized), Small(sized[1])
    peak, counts = at_size.forced(phases, memory)
    assert peak == 6 * 320 and counts == {"generation": 1, "update": 1}
    assert len(phases.completions) == 4
    memory.limit = 1000  # from the beginning: then it is no proof
    assert at_size.forced(phases, memory)[1]["generation"] == 0


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
    here = set() if torch.cuda.is_available() else {"device", "float16", "memory"}
    assert skipped == here | (set() if find_spec("vllm") else {"vllm"})
    assert [line.split()[0] for line in done.stdout.splitlines()[:-1]] == [
        one["result"] for one in result["checks"].values()
    ]
