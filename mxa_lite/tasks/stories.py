"""The miniature's task: three kinds of word problems that want three kinds of systems.

short: 2 or 3 steps, which fit in one short reply. long: 6 or 7 steps, more than a reply of 40
tokens holds, so the work must be divided and a value handed on. together: two people's stories of
2 or 3 steps on two lines, then their sum or difference, so each is solved alone and the two are
joined. The kinds were chosen so that their needs differ under a budget of four calls; the text
alone tells them apart. Standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from mxa_lite.tasks import arithmetic
from mxa_lite.tasks.arithmetic import LARGEST, NAMES, Story, story

KINDS = ("short", "long", "together")


class Problem(NamedTuple):
    """A question of a kind; the stories it is made of, and the sums that solve it, in order."""

    kind: str
    text: str
    gold: str
    worked: list[str]
    stories: list[Story]


def problem(rng: random.Random, kind: str) -> Problem:
    """A problem of a kind. Every value on the way, the sum of two stories too, is 1 to 199."""
    if kind == "together":
        return _together(rng)
    single = story(rng, rng.choice((2, 3) if kind == "short" else (6, 7)))
    text = " ".join([*single.sentences, f"How many {single.things}?"])
    return Problem(kind, text, str(single.value), single.worked, [single])


def _together(rng: random.Random) -> Problem:
    """Two stories, at least one of 3 steps: with the last sum at least 6, too many for a reply."""
    while True:
        names = rng.sample(list(NAMES), 2)
        steps = rng.choice(((2, 3), (3, 2), (3, 3)))
        first = story(rng, steps[0], names[0])
        second = story(rng, steps[1], names[1], first.things)
        if 0 < first.value != second.value > 0 and first.value + second.value <= LARGEST:
            break
    worked, gold, question = joined(rng.choice("+-"), first.value, second.value, first.things)
    lines = [" ".join(half.sentences) for half in (first, second)]
    text = "\n".join([*lines, question])
    return Problem("together", text, gold, [*first.worked, *second.worked, worked], [first, second])


def joined(sign: str, a: int, b: int, things: str) -> tuple[str, str, str]:
    """How two values are joined: (the sum, its result, how it is asked)."""
    if sign == "+":
        return f"{a}+{b}={a + b}", str(a + b), f"How many {things} together?"
    large, small = max(a, b), min(a, b)
    question = f"How many more {things} has one of them?"
    return f"{large}-{small}={large - small}", str(large - small), question


def stream(split: str, seed: int) -> Iterator[Problem]:
    """Endless distinct problems of "train", "test" or "tune", each kind as often as the others."""
    rng = random.Random(f"stories {split} {seed}")
    seen: set[str] = set()
    while True:
        drawn = problem(rng, rng.choice(KINDS))
        if arithmetic.place(drawn.text) == split and drawn.text not in seen:
            seen.add(drawn.text)
            yield drawn
