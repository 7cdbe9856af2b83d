"""The run folder: what is written where, and what a resumed run finds."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mxa_lite.errors import InputError, json_object, read_text
from mxa_lite.records import Results, StepLine
from mxa_lite.tree import Tree


def checkpoint_name(step: int) -> str:
    """Folder of the checkpoint written after `step`; step 0 is the cold start."""
    return f"step-{step:05d}"


def latest_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint with trainer state; half-written ones have another name."""
    complete = [path.parent for path in folder.glob("step-[0-9]*/trainer_state.json")]
    return max(complete, key=step_of, default=None)


def step_of(path: Path) -> int:
    """The step of a checkpoint or of a file of rollouts."""
    return int(path.stem.removeprefix("step-"))


LOCK = "lock"
# What stands in a run folder before the first step is written down.
BEFORE_STEPS = (
    *("recipe.yaml", "questions.json", "checkpoints", "rollouts", "cold_start", "logs"),
    *("eval.json", "predictions", "metrics.jsonl"),
)


class RunFolder:
    """`runs/<name>/`. Files appear whole: they are written beside and renamed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"

    def create(self, recipe_text: str) -> None:
        for folder in (self.path, self.checkpoints, self.path / "rollouts"):
            folder.mkdir(parents=True, exist_ok=True)
        self.write("recipe.yaml", recipe_text)

    @contextmanager
    def lock(self, *, look: bool = False) -> Iterator[None]:
        """Keep other processes out meanwhile; it ends with this process, however that ends.

        look: nothing is written. Raises InputError that names the process at work there.
        """
        path = self.path / LOCK
        if look and not path.is_file():
            yield
            return
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                who = f"process {file.read()} is at work there"
                raise InputError(f"{self.path}: {who}; wait, or name another folder") from None
            except OSError:
                pass  # a file system without locks
            if not look:
                file.truncate(0)
                file.write(f"{os.getpid()}, started {time.strftime('%F %T')},")
                file.flush()
            yield

    def before_steps(self) -> bool:
        """Whether all that is there is what a start left that ended before its first step."""
        names = {path.name for path in self.path.iterdir()}
        steps = self.metrics.is_file() and self.metrics.stat().st_size
        return "rollouts" in names and names <= {*BEFORE_STEPS, LOCK} and not steps

    def clear(self) -> None:
        for name in BEFORE_STEPS:
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def write(self, name: str, text: str) -> None:
        """Write a file so that a kill leaves the old one or the new one."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(target.name + ".part")
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")  # a path in it
        os.replace(beside, target)

    def read_json(self, name: str) -> Any:
        """The dict of a JSON file, empty when it is not there. InputError for a damaged one."""
        path = self.path / name
        return json_object(read_text(path), str(path)) if path.is_file() else {}

    def results(self) -> Results:
        return self.read_json("eval.json")

    def write_json(self, name: str, data: Any) -> None:
        """Write JSON; NaN is a bug and raises ValueError."""
        self.write(name, json.dumps(data, indent=1, allow_nan=False) + "\n")

    def write_trees(self, step: int, trees: Sequence[Tree]) -> None:
        """`rollouts/step-NNNNN.jsonl`, one question a line."""
        lines = (json.dumps(tree.to_json(), allow_nan=False) + "\n" for tree in trees)
        self.write(f"rollouts/{checkpoint_name(step)}.jsonl", "".join(lines))

    def add_metrics(self, line: StepLine) -> None:
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def read_metrics(self) -> list[StepLine]:
        """All complete lines of `metrics.jsonl`. Raises InputError for a damaged one."""
        if not self.metrics.is_file():
            return []
        lines = read_text(self.metrics).split("\n")[:-1]  # what a kill cut off has no end of line
        return [json_object(line, f"{self.metrics} line {n}") for n, line in enumerate(lines, 1)]

    def keep_checkpoints(self, count: int | None) -> None:
        """Remove all but the last `count`; None: keep all. The cold adapters are none of them."""
        complete = [path.parent for path in self.checkpoints.glob("step-*/trainer_state.json")]
        for path in sorted(complete, key=step_of)[: -count if count else 0]:
            leftover = path.with_name(f"checkpoint-{step_of(path)}")  # resuming clears such away
            os.replace(path, leftover)
            shutil.rmtree(leftover)

    def cut_after(self, step: int) -> None:
        """Forget what was measured of later steps: a resumed run makes it again."""
        lines = [line for line in self.read_metrics() if line["step"] <= step]
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        self.write("metrics.jsonl", text)
        results = self.results()
        if during := results.get("during"):
            results["during"] = {s: modes for s, modes in during.items() if int(s) <= step}
            self.write_json("eval.json", results)
        for file in (self.path / "rollouts").glob("step-*.jsonl"):
            if step_of(file) > step:
                file.unlink()
