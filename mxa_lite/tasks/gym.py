"""`reasoning_gym:NAME`: a procedural data set with its own scorer (optional dependency)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from mxa_lite.errors import InputError


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
    except ValueError as error:
        raise InputError(f"task reasoning_gym:{name}: {error}") from error


def rows(name: str, seed: int, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered rows; `gym` says how the scorer finds the entry again, as entries are not JSON."""
    for i, entry in enumerate(_dataset(name, seed, size)):
        place = {"name": name, "seed": seed, "size": size, "index": i}
        yield i + 1, {"text": entry["question"], "gold": entry["answer"], "gym": place}


def score(place: dict[str, Any], answer: str) -> float:
    """1.0 if the data set's own scorer gives full marks; part marks are no marks."""
    data = _dataset(place["name"], place["seed"], place["size"])
    return float(data.score_answer(answer, data[place["index"]]) >= 1)
