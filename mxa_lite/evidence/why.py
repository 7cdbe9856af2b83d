"""Why a run learned: the designs that `why.js` counts by kind of question and pattern. No torch.

`correct` of a design is the mean over its executions, 0 where the script never ran: in training as
graded, held out as paid.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from statistics import fmean

from mxa_lite.errors import json_object, read_text
from mxa_lite.evidence.predictions import read_predictions

ENDS = 5  # steps at the beginning and at the end of the training
Row = tuple[str, str, float]  # kind, pattern, correct of a design


@lru_cache(4 * ENDS)
def _of_step(path: Path, size: int) -> list[Row]:
    """size: of the file, so that one that has changed is read again."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        tree = json_object(line, f"{path} line {number}")
        kind = str(tree["question"]["meta"].get("kind", ""))
        for design in tree["designs"]:
            verdicts = [e["correct"] for e in design["executions"]]
            rows.append((kind, design["pattern"], fmean(verdicts) if verdicts else 0.0))
    return rows


def designs(run: Path) -> dict[str, list[Row]]:
    """The designs of the first and of the last steps, held out cold, and held out trained.

    Keyed by what the report calls these times; what is not written down is left out.
    """
    times: dict[str, list[Row]] = {}
    paths = sorted((run / "rollouts").glob("step-*.jsonl"))
    ends = (paths[:ENDS], paths[-ENDS:]) if len(paths) >= 2 * ENDS else (paths,)
    for files in filter(None, ends):
        first, last = (int(path.stem.removeprefix("step-")) for path in (files[0], files[-1]))
        rows = [row for path in files for row in _of_step(path, path.stat().st_size)]
        times[f"steps {first} to {last}" if first < last else f"step {first}"] = rows
    for when, name in (("cold", "held out, cold"), ("final", "held out, trained")):
        path = run / "predictions" / when / "designed.jsonl"
        if path.is_file():
            tries = [row for rows in read_predictions(path).values() for row in rows]
            times[name] = [(r.get("kind", ""), r["pattern"], r["correct"]) for r in tries]
    return times
