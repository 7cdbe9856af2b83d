"""The run folder: what is written where, and what a resumed run finds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mxa_lite.errors import json_object, read_text
from mxa_lite.tree import Tree


def checkpoint_name(step: int) -> str:
    """Folder of the checkpoint written after `step`; step 0 is the cold start."""
    return f"step-{step:05d}"


def latest_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint with trainer state; half-written ones have another name."""
    complete = [path.parent for path in folder.glob("step-[0-9]*/trainer_state.json")]
    return max(complete, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was written after."""
    return int(checkpoint.name.removeprefix("step-"))


class RunFolder:
    """`runs/<name>/`. Files appear whole: they are written beside and renamed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"

    def create(self, recipe_text: str) -> None:
        """Make the folder and store the resolved recipe."""
        for folder in (self.path, self.checkpoints, self.path / "rollouts"):
            folder.mkdir(parents=True, exist_ok=True)
        self.write("recipe.yaml", recipe_text)

    def write(self, name: str, text: str) -> None:
        """Write a file so that a kill leaves the old one or the new one."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(target.name + ".part")
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")  # a path in it
        os.replace(beside, target)

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file's content, empty when it is not there. InputError for a damaged one."""
        path = self.path / name
        return json_object(read_text(path), str(path)) if path.is_file() else {}

    def write_json(self, name: str, data: Any) -> None:
        """Write JSON; NaN is a bug and raises ValueError."""
        self.write(name, json.dumps(data, indent=1, allow_nan=False) + "\n")

    def write_trees(self, step: int, trees: Sequence[Tree]) -> None:
        """`rollouts/step-NNNNN.jsonl`, one question a line."""
        lines = (json.dumps(tree.to_json(), allow_nan=False) + "\n" for tree in trees)
        self.write(f"rollouts/step-{step:05d}.jsonl", "".join(lines))

    def add_metrics(self, line: Mapping[str, Any]) -> None:
        """Append one step's metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All complete lines of `metrics.jsonl`. Raises InputError for a damaged one."""
        if not self.metrics.is_file():
            return []
        lines = read_text(self.metrics).split("\n")[:-1]  # what a kill cut off has no end of line
        return [json_object(line, f"{self.metrics} line {n}") for n, line in enumerate(lines, 1)]

    def cut_after(self, step: int) -> None:
        """Forget what was measured of later steps: a resumed run makes it again."""
        kept = [line for line in self.read_metrics() if line["step"] <= step]
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in kept)
        self.write("metrics.jsonl", text)
        results = self.read_json("eval.json")
        if during := results.get("during"):
            results["during"] = {s: modes for s, modes in during.items() if int(s) <= step}
            self.write_json("eval.json", results)
        for file in (self.path / "rollouts").glob("step-*.jsonl"):
            if int(file.stem.removeprefix("step-")) > step:
                file.unlink()
