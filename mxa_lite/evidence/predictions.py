"""Predictions that an evaluation saved, read back. No torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from mxa_lite.errors import json_lines
from mxa_lite.evidence.stats import paired
from mxa_lite.records import Difference, Flips, Prediction

Rows = dict[str, list[Prediction]]  # question id -> its attempts, in order
Pair = tuple[Prediction, Prediction]  # cold and final


def read_predictions(path: Path) -> Rows:
    """Question id -> its attempts, in order, of a file that `attempts.save_predictions` wrote.

    Raises InputError for a damaged one.
    """
    rows: Rows = defaultdict(list)
    row: Prediction
    for row in json_lines(path):
        rows[row["question"]].append(row)
    return dict(rows)


def question_means(path: Path) -> dict[str, float]:
    """Question id -> share of its attempts that were correct."""
    rows = read_predictions(path)
    return {q: sum(r["correct"] for r in tries) / len(tries) for q, tries in rows.items()}


def flips(cold: Rows, final: Rows) -> Flips:
    """Attempts before and after training, by question and sample: did the design's pattern stay?"""
    pairs = [
        (before, after)
        for question, tries in final.items()
        for before, after in zip(cold.get(question, []), tries, strict=False)
    ]
    wrong = [(before, after) for before, after in pairs if before["correct"] < 1]
    newly = [(before, after) for before, after in wrong if after["correct"] >= 1]

    def kept(candidates: list[Pair], same: bool = True) -> list[Pair]:
        return [(b, a) for b, a in candidates if (b["pattern"] == a["pattern"]) is same]

    def share(subset: list[Pair], among: list[Pair]) -> float | None:
        return len(subset) / len(among) if among else None

    return {
        "pairs": len(pairs),
        "kept": share(kept(pairs), pairs),
        "newly_right": len(newly),
        "newly_right_kept": share(kept(newly), newly),
        "wrong_cold": len(wrong),
        "right_where_kept": share(kept(newly), kept(wrong)),
        "right_where_changed": share(kept(newly, False), kept(wrong, False)),
    }


def difference(a: Mapping[str, float], b: Mapping[str, float]) -> Difference:
    """b - a over the questions of both (question id -> mean), with its paired 95 % interval."""
    shared = [question for question in a if question in b]
    mean, low, high = paired([a[q] for q in shared], [b[q] for q in shared])
    return {"difference": mean, "low": low, "high": high, "questions": len(shared)}


def against(folder: Path, mode: str, rivals: Sequence[str]) -> dict[str, Difference]:
    """Rival -> `mode` minus it, for the rivals whose predictions lie in `folder`."""
    means = question_means(folder / f"{mode}.jsonl")
    return {
        rival: difference(question_means(folder / f"{rival}.jsonl"), means)
        for rival in rivals
        if (folder / f"{rival}.jsonl").is_file()
    }
