"""The embedded task: short multi-step word problems, generated, offline. Standard library only.

A few names, things and verbs keep the vocabulary small enough for a model of a few million
parameters; every step is one sentence and one operation, so a worked solution is a list of sums.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import NamedTuple

NAMES = dict.fromkeys(("Tom", "Ben", "Sam", "Max"), "He") | dict.fromkeys(
    ("Ann", "Eva", "Mia", "Lily"), "She"
)
THINGS = ("apples", "books", "pens", "coins", "cards", "eggs", "balls", "stamps", "cakes", "hats")
ADD = ("buys {n} more", "finds {n} more", "gets {n} more")
SUBTRACT = ("gives away {n}", "loses {n}", "sells {n}")
MULTIPLY = {2: "doubles them", 3: "triples them"} | {
    n: f"makes it {n} times as many" for n in (4, 5)
}
DIVIDE = {
    n: f"keeps {part} of them"
    for n, part in ((2, "half"), (3, "one third"), (4, "one fourth"), (5, "one fifth"))
}

LARGEST = 199  # of every value on the way


def _step(rng: random.Random, value: int, last: bool) -> tuple[str, str, int, int]:
    """A possible next step from `value`: (verb phrase, sign, operand, result)."""
    lowest = 0 if last else 1
    while True:
        sign = rng.choice("+-*/")
        n = rng.randint(2, 20) if sign in "+-" else rng.randint(2, 5)
        if sign == "+" and value + n <= LARGEST:
            return rng.choice(ADD).format(n=n), sign, n, value + n
        if sign == "-" and value - n >= lowest:
            return rng.choice(SUBTRACT).format(n=n), sign, n, value - n
        if sign == "*" and value * n <= LARGEST:
            return MULTIPLY[n], sign, n, value * n
        if sign == "/" and value % n == 0 and value // n >= lowest:
            return DIVIDE[n], sign, n, value // n


class Story(NamedTuple):
    """One person's story: a sentence for the start and one a step, and the sums."""

    sentences: list[str]
    worked: list[str]
    value: int
    things: str


def story(
    rng: random.Random, steps: int, name: str = "", things: str = "", start: int | None = None
) -> Story:
    """A story of `steps` operations; who, what and the start are drawn where they are not given."""
    name = name or rng.choice(list(NAMES))
    things = things or rng.choice(THINGS)
    value = rng.randint(2, 20) if start is None else start
    sentences, worked = [f"{name} has {value} {things}."], []
    for i in range(steps):
        verb, sign, n, result = _step(rng, value, last=i == steps - 1)
        opening = f"Then {NAMES[name].lower()}" if i and i == steps - 1 else NAMES[name]
        sentences.append(f"{opening} {verb}.")
        worked.append(f"{value}{sign}{n}={result}")
        value = result
    return Story(sentences, worked, value, things)


def question(rng: random.Random, steps: int) -> tuple[str, str, list[str]]:
    """One word problem with `steps` operations: (text, gold, worked), worked as ["12+7=19", ...].

    The start and the operands of + and - are 2 to 20, of * and / 2 to 5; every value on the way is
    1 to 199 and the last 0 to 199; divisions are exact.
    """
    problem = story(rng, steps)
    text = " ".join([*problem.sentences, f"How many {problem.things}?"])
    return text, str(problem.value), problem.worked


def place(text: str) -> str:
    """The split of a question by its hash, the same on every machine: "test", which is reported,
    "tune", or "train", six times as many as of each other, and the only one trained on."""
    bucket = hashlib.sha256(text.encode()).digest()[0] % 8
    return {0: "test", 1: "tune"}.get(bucket, "train")


def stream(split: str, seed: int) -> Iterator[tuple[str, str, list[str]]]:
    """Endless distinct problems of "train", "test" or "tune": 2 steps 45 %, 3 45 %, 4 10 %."""
    rng = random.Random(f"arithmetic {split} {seed}")
    seen: set[str] = set()
    while True:
        steps = rng.choices((2, 3, 4), weights=(45, 45, 10))[0]
        text, gold, worked = question(rng, steps)
        if place(text) == split and text not in seen:
            seen.add(text)
            yield text, gold, worked
