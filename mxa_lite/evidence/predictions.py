"""Predictions that an evaluation saved, read back. No torch."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from mxa_lite.errors import json_object, read_text


def read_predictions(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Question id -> its attempts, in order, of a file that `evaluate.save_predictions` wrote.

    Raises InputError for a damaged one.
    """
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, line in enumerate(read_text(path).splitlines(), 1):
        row = json_object(line, f"{path} line {number}")
        rows[row["question"]].append(row)
    return dict(rows)


def question_means(path: Path) -> dict[str, float]:
    """Question id -> share of its attempts that were correct."""
    rows = read_predictions(path)
    return {q: sum(r["correct"] for r in some) / len(some) for q, some in rows.items()}
