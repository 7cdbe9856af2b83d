"""Run folders that were damaged after they were written: one clear error, and which file it is."""

from pathlib import Path
from typing import Any

import pytest
from conftest import small
from handmade import run_folder
from test_cli import assert_refused, mxa

from mxa_lite.errors import InputError
from mxa_lite.evidence import report
from mxa_lite.policy.load import load
from mxa_lite.runfolder import RunFolder, checkpoint_name, latest_checkpoint
from mxa_lite.runs import compare


@pytest.mark.parametrize("name", ["eval.json", "summary.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"null", b"garbage", b"\xff\xfe", b"[" * 9999])
def test_a_damaged_file_is_named_by_the_report(tmp_path: Path, name: str, content: bytes) -> None:
    run = run_folder(tmp_path / "a")
    (run / name).write_bytes(content + b"\n")
    with pytest.raises(InputError, match=name):
        report.render(run)


def test_a_line_that_a_kill_cut_off_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2')
    assert RunFolder(tmp_path).read_metrics() == [{"step": 1}]


def test_a_folder_whose_name_is_not_text_takes_files(tmp_path: Path) -> None:
    RunFolder(tmp_path).write("page.html", "runs/\udcff")
    assert (tmp_path / "page.html").read_text() == "runs/\\udcff"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("eval.json", "{}", "no predictions or results"),
        ("eval.json", "{", "eval.json: damaged"),
        (
            "predictions/final/designed.jsonl",
            '{"question": "q"}\ngarb',
            "line 2: damaged",
        ),
    ],
)
def test_a_damaged_run_is_not_compared(tmp_path: Path, name: str, content: str, said: str) -> None:
    run = run_folder(tmp_path / "a")
    (run / name).write_text(content)

    def no(text: str) -> Any:
        raise AssertionError(text)

    with pytest.raises(InputError) as error:
        compare.compare([str(run)], [], tmp_path / "out", 1, no)
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_commands_say_it_in_one_line(tmp_path: Path) -> None:
    (run_folder(tmp_path / "a") / "eval.json").write_text("{")
    assert_refused(mxa("report", "a", cwd=tmp_path), "a/eval.json: damaged: not a JSON object")


def test_a_damaged_line_of_rollouts_is_named(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "a")
    path = next((run / "rollouts").glob("step-*.jsonl"))
    path.write_text("{")
    with pytest.raises(InputError, match=f"{path.name} line 1"):
        report.render(run)


@pytest.mark.parametrize("content", [None, b"", b"not weights"])
def test_a_damaged_adapter_is_named(tmp_path: Path, content: bytes | None) -> None:
    policy = load(small())
    policy.save(tmp_path)
    file = tmp_path / "designer" / "adapter_model.safetensors"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(InputError, match="designer"):
        policy.load(tmp_path)


def test_the_checkpoint_of_the_latest_step_is_the_last_one(tmp_path: Path) -> None:
    for step in (99_999, 100_000):
        folder = tmp_path / checkpoint_name(step)
        folder.mkdir()
        (folder / "trainer_state.json").touch()
    assert latest_checkpoint(tmp_path) == tmp_path / "step-100000"
