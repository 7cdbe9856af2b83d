"""Predictions that an evaluation saved, read back. No torch."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any


def read_predictions(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Question id -> its attempts, in order, of a file that `evaluate.save_predictions` wrote."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows[row["question"]].append(row)
    return dict(rows)


def question_means(path: Path) -> dict[str, float]:
    """Question id -> share of its attempts that were correct."""
    rows = read_predictions(path)
    return {q: sum(r["correct"] for r in some) / len(some) for q, some in rows.items()}
