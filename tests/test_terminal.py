"""What a run says on the way: the question it shows, the time it still takes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from handmade import SCRIPT, trees

from mxa_lite.mas.patterns import within
from mxa_lite.recipe import file as recipe_file
from mxa_lite.runfolder import RunFolder
from mxa_lite.runs.after_step import sample
from mxa_lite.runs.measuring import Measuring


def test_the_question_that_is_shown_is_one_with_something_to_choose() -> None:
    alike, apart = trees(1, 1)
    apart.designs[0].reward = 0.9
    apart.designs[1].error = "line 1\x1b[2J"
    lines = sample([alike, apart])
    assert lines[0].startswith('"What is 2 + 2, question 1') and lines[0].endswith('" -> 4')
    assert lines[1] == "  best: reward 0.90, vote, answers 4, 5"
    assert [line.strip() for line in lines[2:5]] == SCRIPT.splitlines()
    assert lines[5] == "  worst: reward 0.00, other, answers syntax_error: line 1\\x1b[2J"


@pytest.mark.parametrize(
    ("step", "sets", "again"),
    [
        (1, (), len(within(4)) / 4 + 1 + 2),  # fixed systems, router, two cells of the swap table
        (1, ("eval.swap=false", "eval.baselines=[single]"), 0),
        (1, ("eval.swap=false", "eval.baselines=[single]", "eval.every=20"), 2),
        (20, ("eval.swap=false", "eval.baselines=[single]", "eval.every=20"), 1),
        (60, ("eval.swap=false", "eval.baselines=[single]", "eval.every=20"), 0),
    ],
)
def test_time_left_counts_the_evaluations(
    tmp_path: Path, step: int, sets: tuple[str, ...], again: float
) -> None:
    """30 seconds for what was measured cold, and 20 each time that designs are executed again."""
    folder = RunFolder(tmp_path)
    sampler: Any = SimpleNamespace(recipe=recipe_file.load("miniature", sets))
    measuring = Measuring(sampler, [], folder, print)
    assert measuring.seconds_after(step) == 0  # nothing is known
    cold = {"designed": {"attempts": 10}, "single": {"attempts": 10}}
    seconds = {"cold": {"designed": 2.0, "single": 1.0}}
    folder.write_json("eval.json", {"cold": cold, "seconds": seconds})
    assert measuring.seconds_after(step) == pytest.approx(30 + 20 * again)
