"""Sets of real numbers, written as intervals or as inequalities of one name."""

from __future__ import annotations

import re
from itertools import pairwise, permutations
from typing import NamedTuple

from mxa_lite.grading.read import NAME, flat, inside, number, parts

_REALS = re.compile(r"(?:\w ?∈ ?)?ℝ ?(?:\\setminus|\\backslash|-|,(?= ?\w ?≠)|except) ?")
_HOLE = re.compile(r" ?(?:([^≠]+?) ?≠)?([^≠=<>≤≥]+)")
_FLIPPED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤"}


class Interval(NamedTuple):
    """brackets: "[)" for a closed lower and an open upper end. The ends are tidy texts."""

    brackets: str
    lower: str
    upper: str


class Region(NamedTuple):
    """Intervals of which each is part of the set; name: what they bound, "" where unsaid."""

    name: str
    intervals: list[Interval]


def is_region(text: str) -> bool:
    """Whether a text can only be read as a set of numbers: `(1,2)` may be a pair."""
    ends = text[:1] + text[-1:]
    return len(parts(text, "<>≤≥≠∪ℝ")) > 1 or ("," in text and ends in ("[]", "[)", "(]"))


def member(text: str) -> tuple[str, str]:
    """Name and set of `x∈S`; "" and the text itself where it is no such thing."""
    name, *sets = parts(text, "∈")
    if len(sets) == 1 == len(parts(text, ",;")) and NAME.fullmatch(flat(name)):
        return flat(name), sets[0]
    return "", text


def region(text: str) -> Region | None:
    """`x<1 or x>2`, `(-∞,1)∪(2,∞)`, `ℝ`; None for what is no set of numbers."""
    name, intervals = "", list[Interval]()
    text = re.sub(r"^\|([a-z])\| ?([<≤]) ?([^|+-]+)$", r"-\3 \2 \1 \2 \3", text)  # |x|<2
    text = re.sub(r"^\|([a-z])\| ?([>≥]) ?([^|+-]+)$", r"\1 \2 \3 ∪ -\3 \2 \1", text)
    for piece in parts(re.sub(r"\bor\b", "∪", text), "∪"):
        body = inside(piece, "()[]")
        ends = parts(body, ",") if body else []
        if piece == "ℝ":
            bounds = Region("", [Interval("()", "-∞", "∞")])
        elif points := inside(piece, "⦃⦄"):
            bounds = Region("", [Interval("[]", *[_end(end)] * 2) for end in parts(points, ",")])
        elif len(ends) == 2:
            bounds = Region("", [Interval(piece[0] + piece[-1], _end(ends[0]), _end(ends[1]))])
        else:
            bounds = _without(piece) or _inequality(piece)
        if not bounds.intervals or (name and bounds.name != name):
            return None
        name, intervals = bounds.name, intervals + bounds.intervals
    return Region(name, intervals)


def chain(text: str) -> tuple[list[str], list[str]]:
    """Sides and signs of inequalities, turned so that the first sign is `<`, `≤` or `≠`."""
    first, both, second = text.partition(" and ")
    if both:  # x>1 and x<3, in this order or the other
        for (sides, signs), (more, other_signs) in permutations(map(chain, (first, second))):
            if flat(sides[-1]) == flat(more[0]):
                return sides + more[1:], signs + other_signs
    sides, signs = parts(text, "<>≤≥≠"), re.findall("[<>≤≥≠]", text)
    if signs and signs[0] in ">≥":
        return sides[::-1], [_FLIPPED.get(sign, "≠") for sign in reversed(signs)]
    return sides, signs


def _end(text: str) -> str:
    return flat(text).removeprefix("+")


def _without(text: str) -> Region | None:
    """`x≠1, 2`, `x∈ℝ, x≠1`, `ℝ-⦃1,2⦄`: all numbers but some."""
    body = _REALS.sub("", text, count=1)
    items = re.split(r"[,;]| and ", inside(body, "⦃⦄") or body)
    holes = [hole for item in items if (hole := _HOLE.fullmatch(item))]
    names, ends = {hole[1] for hole in holes if hole[1]}, {_end(hole[2]) for hole in holes}
    values = {number(end) or 0: end for end in ends}
    if len(holes) < len(items) or len(values) < len(ends) or len(names) > 1:
        return None
    if (body == text and "≠" not in items[0]) or not all(map(NAME.fullmatch, map(flat, names))):
        return None
    bounds = ["-∞", *(values[value] for value in sorted(values)), "∞"]
    return Region(flat("".join(names)), [Interval("()", *both) for both in pairwise(bounds)])


def _inequality(text: str) -> Region:
    """`x<3` or `0≤x<1`; without intervals where it is no such thing."""
    sides, signs = chain(text)
    names = [bool(NAME.fullmatch(flat(side))) for side in sides]
    if len(sides) == 3 and names[1] and len(signs) == 2 and {*signs} <= {"<", "≤"}:
        brackets = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
        return Region(flat(sides[1]), [Interval(brackets, _end(sides[0]), _end(sides[2]))])
    if len(sides) != 2 or signs not in (["<"], ["≤"]) or names[0] == names[1]:
        return Region("", [])
    name, end = (flat(sides[0]), _end(sides[1])) if names[0] else (flat(sides[1]), _end(sides[0]))
    below, above = Interval("()", "-∞", end), Interval("()", end, "∞")
    if signs[0] == "≤":
        below, above = Interval("(]", "-∞", end), Interval("[)", end, "∞")
    return Region(name, [below if names[0] else above])
