"""`reasoning_gym:NAME`: a procedural data set with its own scorer (optional dependency)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from mxa_lite.errors import InputError
from mxa_lite.tasks.rows import Row


@functools.lru_cache(maxsize=8)
def _dataset(name: str, seed: int, size: int) -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise InputError(
            f"task reasoning_gym:{name} needs the package: pip install 'mxa-lite[tasks]'"
        ) from error
    try:
        return reasoning_gym.create_dataset(name, seed=seed, size=size)
    except (AssertionError, ValueError) as error:
        raise InputError(f"task reasoning_gym:{name}: {error}") from error


def rows(name: str, seed: int, size: int) -> Iterator[tuple[int, Row]]:
    """Numbered rows; `gym` says how the scorer finds the entry again, as entries are not JSON."""
    for i, entry in enumerate(_dataset(name, seed, size)):
        place = {"name": name, "seed": seed, "size": size, "index": i}
        yield i + 1, {"text": entry["question"], "gold": entry["answer"], "gym": place}


def score(place: dict[str, Any], question: str, answer: str) -> float:
    """1.0 if the data set's own scorer gives full marks; part marks are no marks.

    0.0 where the entry came out as another question: one set varies from process to process.
    """
    data = _dataset(place["name"], place["seed"], place["size"])
    entry = data[place["index"]]
    return float(entry["question"].strip() == question and data.score_answer(answer, entry) >= 1)
