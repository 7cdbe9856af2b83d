"""Why a run learned: which patterns its designer writes, and how often each is right. No torch.

Counted are designs, by kind of question and pattern. `correct` of a design is the mean over its
executions, 0 where the script never ran: in training as graded, held out as paid.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

from mxa_lite.errors import json_object, read_text
from mxa_lite.evidence.predictions import read_predictions

ENDS = 5  # steps at the beginning and at the end of the training
Counted = Mapping[tuple[str, str], Sequence[float]]  # (kind, pattern) -> correct of each design


def _counted(rows: Iterable[tuple[str, str, float]]) -> Counted:
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for kind, pattern, correct in rows:
        cells[kind, pattern].append(correct)
    return cells


@lru_cache(4 * ENDS)
def _of_step(path: Path, size: int) -> list[tuple[str, str, float]]:
    """(kind, pattern, correct) of each design of a file of rollouts; size: to see a new one."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        tree = json_object(line, f"{path} line {number}")
        kind = str((tree["question"].get("meta") or {}).get("kind", ""))
        for design in tree["designs"]:
            verdicts = [e["correct"] for e in design["executions"]]
            rows.append((kind, design["pattern"], fmean(verdicts) if verdicts else 0.0))
    return rows


def _cell(own: Sequence[float], total: int) -> dict[str, float] | None:
    """None where no design is in it."""
    if not own:
        return None
    return {"share": len(own) / total, "accuracy": fmean(own), "designs": len(own)}


def why(run: Path) -> dict[str, Any]:
    """What the designs of a run were, when: empty where nothing is written down.

    columns: names of the times, as many as there are; tables: (kind, "" for all; rows of (pattern,
    a cell for each column)). A cell has share, accuracy, designs; None where there is no design.
    gain: `parts_of_gain` of the held-out questions, where both ends were measured.
    """
    columns: dict[str, Counted] = {}
    paths = sorted((run / "rollouts").glob("step-*.jsonl"))
    ends = (paths[:ENDS], paths[-ENDS:]) if len(paths) >= 2 * ENDS else (paths,)
    for files in filter(None, ends):
        first, last = (int(path.stem.removeprefix("step-")) for path in (files[0], files[-1]))
        rows = [row for path in files for row in _of_step(path, path.stat().st_size)]
        columns[f"steps {first} to {last}" if first < last else f"step {first}"] = _counted(rows)
    held_out: list[Counted] = []
    for when, name in (("cold", "held out, cold"), ("final", "held out, trained")):
        path = run / "predictions" / when / "designed.jsonl"
        if path.is_file():
            tries = [row for rows in read_predictions(path).values() for row in rows]
            held_out.append(
                _counted((r.get("kind", ""), r["pattern"], r["correct"]) for r in tries)
            )
            columns[name] = held_out[-1]
    kinds = sorted({kind for counted in columns.values() for kind, _ in counted})
    tables = [("", _rows(columns, kinds))]
    tables += [(kind, _rows(columns, [kind])) for kind in kinds if kinds != [""]]
    gain = parts_of_gain(*held_out) if len(held_out) == 2 else None
    return {"columns": list(columns), "tables": tables, "gain": gain} if columns else {}


def _rows(columns: Mapping[str, Counted], kinds: Sequence[str]) -> list[tuple[str, list[Any]]]:
    """The patterns of some kinds of questions, what the last column has most of first."""
    own = [
        {name: [c for kind in kinds for c in counted.get((kind, name), ())] for _, name in counted}
        for counted in columns.values()
    ]
    totals = [sum(map(len, column.values())) for column in own]
    rows = [
        (
            name,
            [_cell(column.get(name, ()), total) for column, total in zip(own, totals, strict=True)],
        )
        for name in sorted({name for column in own for name, tries in column.items() if tries})
    ]
    return sorted(rows, key=lambda row: -(row[1][-1] or {"share": 0})["share"])


def parts_of_gain(before: Counted, after: Counted) -> dict[str, float]:
    """The rise of the accuracy in two parts, which add up to it.

    other_patterns: shares moved, each pattern of each kind at its mean accuracy before and after;
    same_patterns: accuracies rose, at the mean share. What was never written before, or never
    again, has one accuracy, and so no rise of its own.
    """
    totals = [sum(map(len, counted.values())) or 1 for counted in (before, after)]
    parts = {"other_patterns": 0.0, "same_patterns": 0.0}
    for cell in before.keys() | after.keys():
        tries = [counted.get(cell, ()) for counted in (before, after)]
        shares = [len(own) / total for own, total in zip(tries, totals, strict=True)]
        known = [fmean(own) for own in tries if own]
        parts["other_patterns"] += (shares[1] - shares[0]) * fmean(known)
        parts["same_patterns"] += (known[-1] - known[0]) * fmean(shares)
    return parts
