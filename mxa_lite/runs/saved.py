"""A run folder as an object: its numbers, its trees as pages for a notebook, its policy to ask."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxa_lite.errors import InputError, json_lines
from mxa_lite.evidence import report
from mxa_lite.evidence.metrics import flat_numbers
from mxa_lite.recipe import own
from mxa_lite.recipe.keys import own_choices
from mxa_lite.records import Results, Summary
from mxa_lite.runfolder import RunFolder, checkpoint_name
from mxa_lite.runs.stored import stored_recipe

if TYPE_CHECKING:  # torch is loaded when the first question is asked
    from mxa_lite.runs.ask import Asked


class Shown(dict[str, Any]):
    """A tree as `Tree.to_json` gives it, which a notebook shows as a page."""

    def _repr_html_(self) -> str:
        steps = [{"label": "", "data": report.pack([self])}]
        return report.framed(report.page(title=f"Step {self['step']}", steps=steps, done=1))


class Saved:
    """A run folder; InputError for what is none. Read anew each time, so the run may go on."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "recipe.yaml").is_file():
            raise InputError(f"{folder}: not a run folder (no recipe.yaml)")
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._sampler: Any = None
        self._loaded: Path | None = None

    def _repr_html_(self) -> str:
        return report.framed(report.render(self.folder))

    @property
    def metrics(self) -> list[dict[str, str | float]]:
        """The role and the numbers of each step, flat, named as for loggers: "reward/designer"."""
        lines = RunFolder(self.folder).read_metrics()
        return [{"role": line["role"], **flat_numbers(line)} for line in lines]

    @property
    def eval(self) -> Results:
        """eval.json: "cold", "final" and "during", a dict of numbers for each mode."""
        return RunFolder(self.folder).results()

    @property
    def summary(self) -> Summary:
        """summary.json; empty until the run has ended."""
        return RunFolder(self.folder).read_json("summary.json")

    def trees(self, step: int) -> list[Shown]:
        """The trees of a training step (from 1), one for each question. InputError without it."""
        path = self.folder / "rollouts" / f"{checkpoint_name(step)}.jsonl"
        return [Shown(tree) for tree in json_lines(path)]

    def ask(self, question: str) -> Asked:
        """A system designed for a question and run, by the newest checkpoint, in one thread only.

        Raises InputError for an empty question or a run without a checkpoint.
        """
        if self._sampler is None:  # before anything imports trl
            for line in own.notice(own_choices(stored_recipe(self.folder, checkpoint=True))):
                print(line, file=sys.stderr)
        from mxa_lite.runs.ask import ask, checkpoint_of, kind_of, opened

        if self._sampler is None:
            self._sampler = self._stack.enter_context(opened(self.folder))
        newest = checkpoint_of(self.folder)
        if newest != self._loaded:
            self._sampler.engine.policy.load(newest)
            self._loaded = newest
        return ask(self._sampler, question, kind_of(self.folder, self._sampler.recipe))

    def close(self) -> None:
        self._stack.close()
        self._sampler = self._loaded = None
