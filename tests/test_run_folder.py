"""Run folders: one process at a time, what may change on resume, what a failed start leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import small
from test_cli import assert_refused, mxa

from mxa_lite.cli import console
from mxa_lite.credit.schedule import questions_for
from mxa_lite.errors import InputError
from mxa_lite.recipe.file import dump, load
from mxa_lite.recipe.keys import TaskSpec
from mxa_lite.runfolder import RunFolder, checkpoint_name
from mxa_lite.runs.train import run
from mxa_lite.tasks import load as tasks
from mxa_lite.tree import Question

HOLD = (
    "import sys; from pathlib import Path; from mxa_lite.runfolder import RunFolder\n"
    "with RunFolder(Path(sys.argv[1])).lock():\n    print('held', flush=True); sys.stdin.read()"
)


def begun(path: Path, *sets: str) -> RunFolder:
    """A run folder as a start leaves it that fails before its first step."""
    folder = RunFolder(path)
    folder.create(dump(load("arithmetic", sets), {}))
    folder.write("metrics.jsonl", "")
    return folder


@pytest.mark.parametrize("sizes", [(5,), (8,), (3, 9), (1, 2, 40)])
@pytest.mark.parametrize("count", [2, 5, 8])
def test_a_step_has_each_question_once_also_where_passes_meet(
    sizes: tuple[int, ...], count: int
) -> None:
    """Fault: one stood twice where a pass began within a step, and shared its designs."""
    rows = [Question(f"{t} {i}", "", str(t)) for t, size in enumerate(sizes) for i in range(size)]
    weights = [1 / size for size in sizes for _ in range(size)]
    for step in range(1, 60):
        ids = [question.id for question in questions_for(rows, weights, 1, step, count)]
        assert len(ids) == len({*ids}) == min(count, len(rows))


def test_a_late_step_costs_what_an_early_one_does() -> None:
    """In steps of the interpreter, not in seconds; 20 times the questions change nothing either."""
    costs = []
    for size in (100, 2000):
        rows, weights = [Question(str(i), "", "t") for i in range(size)], [1.0] * size
        for step in (5, 405):
            questions_for(rows, weights, 1, step - 1, 4)
            lines: list[int] = []
            sys.settrace(lambda *_, lines=lines: (lines.append(1), sys.gettrace())[1])
            questions_for(rows, weights, 1, step, 4)
            sys.settrace(None)
            costs.append(len(lines))
    assert max(costs) < 1.2 * min(costs)


def test_a_folder_at_work_is_refused_until_its_process_is_gone(tmp_path: Path) -> None:
    begun(tmp_path)
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": "."},
    )  # fmt: skip
    assert held.stdout and held.stdin and held.stdout.readline() == b"held\n"
    for resume in (True, False):
        with pytest.raises(InputError, match=f"process {held.pid}, started 2"):
            console.check_output(tmp_path, load("arithmetic"), resume)
    held.send_signal(signal.SIGKILL)
    held.wait()
    held.stdin.close(), held.stdout.close()
    console.check_output(tmp_path, load("arithmetic"), resume=True)


def test_a_resume_takes_what_changes_no_sample_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(tmp_path)
    console.check_output(tmp_path, load("arithmetic", ["gpu=8gb", "eval.every=7"]), resume=True)
    said = capsys.readouterr().out
    assert "train.tokens_per_micro_batch is 2048 from here on; it was 4096" in said
    assert "eval.every is 7" in said
    with pytest.raises(InputError, match=r"lora\.r differs .* \(16 there, 8 here\)"):
        console.check_output(tmp_path, load("arithmetic", ["lora.r=8"]), resume=True)


def test_a_start_that_failed_before_its_first_step_does_not_block_the_next(tmp_path: Path) -> None:
    folder = begun(tmp_path, "lora.r=8")
    console.check_output(tmp_path, load("arithmetic"), resume=False)
    folder.clear()
    assert not any(tmp_path.iterdir())
    begun(tmp_path).write("metrics.jsonl", '{"step": 1}\n')
    with pytest.raises(InputError, match="is not empty"):
        console.check_output(tmp_path, load("arithmetic"), resume=False)
    folder = begun(tmp_path)
    folder.write("notes.txt", "mine")
    with pytest.raises(InputError, match="is not empty"):
        console.check_output(tmp_path, load("arithmetic"), resume=False)


def test_a_run_folder_is_all_that_a_resume_needs(tmp_path: Path) -> None:
    stored = tmp_path / "elsewhere" / "mine" / "recipe.yaml"
    assert console.default_output(stored, resume=True) == stored.parent


def test_questions_are_known_again_by_their_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    marks = []
    for answer in ("1", "1", "2"):
        path.write_text("".join(f'{{"question": "q{i}", "answer": {answer}}}\n' for i in range(9)))
        marks.append(tasks.load(TaskSpec(train=str(path)), 0).marks())
    assert marks[0] == marks[1] != marks[2]


def test_a_resume_with_another_data_file_is_refused(tmp_path: Path) -> None:
    path, output = tmp_path / "a.jsonl", tmp_path / "run"
    sets = (f"task={path}", "eval.questions=0", "eval.swap=false")

    def lines(answer: int) -> str:
        return "".join(f'{{"question": "q{i}", "answer": {answer}}}\n' for i in range(9))

    path.write_text(lines(1))
    run(small(*sets, "train.steps=0"), output, resume=False)
    before = (output / "questions.json").read_text()
    path.write_text(lines(2))
    with pytest.raises(InputError, match=r"begun with other questions .*bring back its data files"):
        run(small(*sets, "train.steps=1"), output, resume=True)
    assert (output / "questions.json").read_text() == before
    assert not (output / "metrics.jsonl").exists()


def test_a_tilde_is_the_home_folder_in_any_path(tmp_path: Path) -> None:
    done = mxa("report", "~/run", cwd=tmp_path, env={"HOME": str(tmp_path)})
    assert_refused(done, f"{tmp_path}/run: not a run folder")


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    import socket

    begun(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(mxa("serve", tmp_path, "--port", port), f"--port {port}: Address already")


def test_ascii_output_spells_out_what_it_cannot_show() -> None:
    code = (
        "import click\nfrom tqdm import tqdm\nfrom mxa_lite.cli import console\n"
        "@click.command()\ndef command():\n    tqdm.write('\u03c0')\n"
        "console.run_command(command)"
    )
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=ascii_only)
    assert done.stdout == b"\\u03c0\n", done.stderr


def test_the_last_checkpoints_are_kept_and_the_cold_adapters(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (0, 2, 4, 10):
        (folder.checkpoints / checkpoint_name(step) / "designer").mkdir(parents=True)
        if step:  # the cold start has no trainer
            (folder.checkpoints / checkpoint_name(step) / "trainer_state.json").touch()
    for count in (None, 3):
        folder.keep_checkpoints(count)
        assert len(list(folder.checkpoints.iterdir())) == 4
    folder.keep_checkpoints(1)
    left = sorted(path.name for path in folder.checkpoints.iterdir())
    assert left == ["step-00000", "step-00010"]
