"""Whole runs on the tiny model: folder, resume after kill -9, Ctrl-C, finished runs."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from textwrap import shorten
from typing import Any

import pytest
from conftest import small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mxa_lite.credit.schedule import questions_for
from mxa_lite.evidence.metrics import flat_numbers
from mxa_lite.policy.load import load
from mxa_lite.rollout.opened import sampler_for
from mxa_lite.runs.after_step import LEGEND
from mxa_lite.tree import Question

SHAPE = {
    "rollout.max_completion_tokens": "{designer: 64, executor: 24}",
    "train.questions": "2",
    "rollout.designs": "2",
    "rollout.executions": "2",
    "schedule.period": "2",
    "train.steps": "4",
    "train.save_every": "2",
    "eval.questions": "0",
    "cold_start.method": "none",
}


MEASURED = {
    "eval__questions": "4",
    "eval__samples": "1",
    "eval__every": "1",
    "train__report_to": "tensorboard",
    "train__show_every": "2",
}


def command(folder: Path, *more: str, **sets: str) -> list[str]:
    pairs = {**SHAPE, **{k.replace("__", "."): v for k, v in sets.items()}}
    flags = [word for key, value in pairs.items() for word in ("--set", f"{key}={value}")]
    return [
        sys.executable, "-m", "mxa_lite", "run", "arithmetic", "--output", str(folder),
        *flags, *more,
    ]  # fmt: skip


def printed(folder: Path) -> list[str]:
    """What the run said, each line without its time."""
    text = (folder / "printed.txt").read_text()
    return [line[9:] for line in text.splitlines() if re.match(r"\[ *\d+:\d\d\] ", line)]


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds"), line.pop("memory")
    return lines


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of four steps: two of the executor, two of the designer."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = subprocess.run(command(folder, **MEASURED), check=True, stdout=subprocess.PIPE)
    (folder / "printed.txt").write_bytes(done.stdout)
    return folder


def test_each_step_says_what_matters_in_eighty_columns(finished: Path) -> None:
    lines = printed(finished)
    steps = [line for line in lines if re.match(r"\d/4 ", line)]
    assert [line.split()[:2] for line in steps] == [
        [f"{n}/4", role] for n, role in enumerate(["executor"] * 2 + ["designer"] * 2, 1)
    ]
    for line, numbers in zip(steps, metrics(finished), strict=True):
        matters, _, left = line.rpartition("  ")
        signal = numbers["groups"][numbers["role"]]["signal"]
        assert matters.endswith(f"signal {numbers['role'][0]} {signal}/2") and len(matters) <= 71
        assert re.fullmatch(r"[\d.]+ s a step, [\d.]+ min left", left)
    legend = [line for line in lines if line in LEGEND]
    assert legend == list(LEGEND) and max(map(len, LEGEND)) <= 71


def test_a_mode_is_said_as_soon_as_it_is_measured(finished: Path) -> None:
    lines = printed(finished)
    start = lines.index("evaluating (cold) on 4 held-out questions") + 1
    modes = ["designed", "designed_greedy", "single", "single_greedy", "self_consistency"]
    assert [line.split()[0] for line in lines[start : start + 5]] == modes


def test_every_so_many_steps_a_question_is_shown(finished: Path) -> None:
    lines = printed(finished)
    places = [place for place, line in enumerate(lines) if line.startswith("  best: reward ")]
    assert len(places) == 2  # after steps 2 and 4
    assert all(lines[place - 1].startswith('"') for place in places)


def test_a_run_leaves_everything_the_design_names(finished: Path) -> None:
    for name in ("recipe.yaml", "metrics.jsonl", "eval.json", "summary.json", "report.html"):
        assert (finished / name).stat().st_size > 0
    for step in ("step-00000", "step-00002", "step-00004"):
        for role in ("designer", "executor"):
            folder = finished / "checkpoints" / step / role
            assert (folder / "adapter_model.safetensors").is_file()
    assert len(list((finished / "rollouts").glob("step-*.jsonl"))) == 4


def test_steps_and_roles_follow_the_schedule(finished: Path) -> None:
    lines = metrics(finished)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["role"] for line in lines] == ["executor"] * 2 + ["designer"] * 2


def test_entropy_is_measured(finished: Path) -> None:
    """Fault: it was never computed, so that the log showed a constant 0."""
    for line in metrics(finished):
        assert 0 < line["entropy"][line["role"]] < 10


def test_the_swap_table_has_four_cells_on_the_same_questions(finished: Path) -> None:
    results = json.loads((finished / "eval.json").read_text())
    swap = results["swap"]
    assert set(swap) == {"cold_cold", "trained_cold", "cold_trained", "trained_trained"}
    assert {cell["questions"] for cell in swap.values()} == {4}
    assert results["seconds"]["swap"].keys() == {"trained_cold", "cold_trained"}
    assert swap["cold_cold"] == results["cold"]["designed"]
    assert swap["trained_trained"] == results["final"]["designed"]
    modes = {"designed", "designed_greedy", "single", "single_greedy", "self_consistency"}
    assert set(results["cold"]) == set(results["final"]) == modes


def test_the_held_out_questions_are_measured_every_so_many_steps(finished: Path) -> None:
    during = json.loads((finished / "eval.json").read_text())["during"]
    assert list(during) == ["1", "2", "3"]  # after step 4 stands "final"
    assert {m["questions"] for modes in during.values() for m in modes.values()} == {4}
    assert [list(modes) for modes in during.values()] == [["designed"]] * 3


def test_a_logger_gets_the_numbers_of_every_step(finished: Path) -> None:
    events = EventAccumulator(str(finished / "logs"))
    events.Reload()
    for name in ("correct", "reward/executor", "valid_scripts", "groups/designer/signal"):
        wanted = [flat_numbers(line)[name] for line in metrics(finished)]
        assert [e.value for e in events.Scalars(f"train/{name}")] == pytest.approx(wanted), name


def test_a_logger_gets_held_out_accuracy_and_a_sample_as_text(finished: Path) -> None:
    events = EventAccumulator(str(finished / "logs"))
    events.Reload()
    during = json.loads((finished / "eval.json").read_text())["during"]
    logged = [e.value for e in events.Scalars("eval/designed/accuracy")]
    assert logged == pytest.approx([modes["designed"]["accuracy"] for modes in during.values()])
    texts = [
        e.tensor_proto.string_val[0].decode() for e in events.Tensors("train/sample/text_summary")
    ]
    files = sorted((finished / "rollouts").iterdir())
    assert len(texts) == len(files)
    for text, file in zip(texts, files, strict=True):
        trees = [json.loads(line) for line in file.read_text().splitlines()]
        asked = [f'    "{shorten(tree["question"]["text"], 66)}"' for tree in trees]
        assert text.startswith(tuple(asked)) and "    best: reward " in text


def test_the_frozen_role_is_the_same_file_through_the_others_stage(finished: Path) -> None:
    def weights(step: str, role: str) -> bytes:
        path = finished / "checkpoints" / step / role / "adapter_model.safetensors"
        return path.read_bytes()

    assert weights("step-00000", "designer") == weights("step-00002", "designer")
    assert weights("step-00000", "executor") != weights("step-00002", "executor")
    assert weights("step-00002", "executor") == weights("step-00004", "executor")
    assert weights("step-00002", "designer") != weights("step-00004", "designer")


def test_a_killed_run_resumes_to_the_same_metrics(finished: Path, tmp_path: Path) -> None:
    """kill -9 in the third step, after the checkpoint of step 2; then --resume."""
    folder = tmp_path / "killed"
    process = subprocess.Popen(command(folder, **MEASURED))
    until(lambda: (folder / "rollouts" / "step-00003.jsonl").exists())
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command(folder, "--resume", **MEASURED), check=True)
    assert metrics(folder) == metrics(finished)
    for step in (1, 2, 3, 4):
        name = f"step-{step:05d}.jsonl"
        assert (folder / "rollouts" / name).read_text() == (
            finished / "rollouts" / name
        ).read_text()
    one, other = (json.loads((f / "eval.json").read_text()) for f in (folder, finished))
    assert (one["swap"], one["during"]) == (other["swap"], other["during"])


def test_ctrl_c_saves_a_checkpoint_and_ends_with_130(tmp_path: Path) -> None:
    """On a terminal of 60 columns, which gets the lines of a pipe and one bar below them."""
    folder = tmp_path / "stopped"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    process = subprocess.Popen(
        command(folder, train__save_every="100", train__steps="50"), stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    text = bytearray()
    reading = threading.Thread(target=read_all, args=(ours, text))
    reading.start()
    until(lambda: (folder / "metrics.jsonl").exists())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=600) == 130
    reading.join()
    os.close(ours)
    lines = re.split(r"[\r\n]+", text.decode())
    assert any(
        re.match(r"\[ *\d+:\d\d\] 1/50 executor  right .* signal e \d/2 *$", x) for x in lines
    )
    assert any(re.match(r"1/50 \|.*s a step", x) and len(x) <= 60 for x in lines)
    assert "\x1b" not in text.decode()  # no colour, whatever NO_COLOR says
    assert any(x.endswith(f"`mxa-lite run {folder} --resume` goes on") for x in lines)
    saved = list((folder / "checkpoints").glob("step-*/trainer_state.json"))
    assert len(saved) == 1
    done = json.loads(saved[0].read_text())["global_step"]
    assert [line["step"] for line in metrics(folder)] == list(range(1, done + 1))


def test_resuming_a_finished_run_says_so_and_changes_nothing(finished: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    again = subprocess.run(
        command(finished, "--resume", **MEASURED),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 0 and "finished" in again.stdout
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}


def test_batches_of_questions_are_a_function_of_seed_and_step() -> None:
    rows = [Question(str(i), "q", "gsm8k" if i < 6 else "mbpp") for i in range(10)]
    weights = [1 / 6] * 6 + [1 / 4] * 4  # both sources weigh the same
    batch = questions_for(rows, weights, 1, 3, 4)
    assert batch == questions_for(rows, weights, 1, 3, 4)
    assert sorted(q.task for q in batch) == ["gsm8k"] * 2 + ["mbpp"] * 2
    assert batch != questions_for(rows, weights, 2, 3, 4)


def test_a_rare_source_of_a_mix_has_its_share_over_many_steps() -> None:
    """Weights 1 to 20, 8 questions a step: 8 of 168 in 21 steps; equal names do not merge."""
    rows = [Question(str(i), "q", "gsm8k") for i in range(40)]
    weights = [1 / 20] * 20 + [20 / 20] * 20
    drawn = [q.id for step in range(1, 22) for q in questions_for(rows, weights, 1, step, 8)]
    assert sum(int(name) < 20 for name in drawn) == 8


@pytest.mark.parametrize(("pass_ratio", "paid"), [("false", 0.0), ("true", 0.5)])
def test_a_recipe_says_whether_half_the_tests_pay_half(pass_ratio: str, paid: float) -> None:
    recipe = small(f"credit.pass_ratio={pass_ratio}")
    question = Question(
        "q", "f", "mbpp", kind="code", tests=["assert f(1) == 1", "assert f(2) == 3"]
    )
    with sampler_for(recipe, load(recipe)) as sampler:
        (verdict,) = sampler.grader.grade_many([(question, "def f(x):\n    return x")])
    assert verdict.correct == paid


def test_a_pass_over_the_questions_uses_each_once() -> None:
    rows = [Question(str(i), "q", "t") for i in range(12)]
    seen = [q.id for step in (1, 2, 3) for q in questions_for(rows, [1.0] * 12, 7, step, 4)]
    assert sorted(seen, key=int) == [str(i) for i in range(12)]


def read_all(terminal: int, text: bytearray) -> None:
    """All that reaches a terminal until its other side is closed."""
    try:
        while chunk := os.read(terminal, 4096):
            text += chunk
    except OSError:  # so Linux says that it is closed
        pass


def until(ready: Any, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_chats_that_cannot_be_read_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text("{}\n")
    chats = {"cold_start__method": "data", "cold_start__data": str(tmp_path / "chats.jsonl")}
    done = subprocess.run(
        command(tmp_path / "new", **chats), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "chats.jsonl line 1" in done.stderr
    assert not (tmp_path / "new").exists()
