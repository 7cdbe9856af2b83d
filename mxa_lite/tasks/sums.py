"""Sums of two numbers from 1 to 20: small enough for a pretrained model of 135M parameters to learn
on a CPU. Standard library only."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from mxa_lite.tasks import arithmetic

LARGEST = 20


def stream(split: str, seed: int) -> Iterator[tuple[str, str]]:
    """All (question, gold) of "train", "test" or "tune", each once, in an order of the seed."""
    pairs = list(itertools.product(range(1, LARGEST + 1), repeat=2))
    random.Random(f"sums {split} {seed}").shuffle(pairs)
    for a, b in pairs:
        text = f"What is {a} + {b}?"
        if arithmetic.place(text) == split:
            yield text, str(a + b)
