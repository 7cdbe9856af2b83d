r"""Whether a math answer is the gold answer: exact, without any tolerance.

`RULES` is the whole of it, from top to bottom: the first rule that has something to say about a
pair of texts decides, by a verdict or by the pairs of parts that must be equal. What no rule
settles is two expressions, which `expressions` compares with SymPy, in a worker process. Only what
is proven equal is paid, and where a value is asked a sum that was not worked out is no answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

from mxa_lite.grading.intervals import Interval, chain, is_region, member, region
from mxa_lite.grading.read import (
    NAME,
    NO_UNIT,
    denominator,
    flat,
    inside,
    left_to_do,
    number,
    parts,
    split_unit,
    tidy,
    wordy,
)
from mxa_lite.texts import answers

T = TypeVar("T")

LONGEST = 500  # characters of an answer that is compared

# What must hold: True, False, or ["same", gold, answer] (two expressions), ["equation", gold,
# answer] (of which one is to be the other), ["all", claim, ...] or ["match", row, ...], where a row
# is what must hold for one part of the gold to be each part of the answer.
Claim = bool | list[Any]

_SAID = re.compile(r"(?:(?:so|thus|therefore),? )?(?:the )?(?:final )?answer(?: is:?|:)(.+)", re.I)
_OPTION = re.compile(r"\(?([A-Ja-j])(?:[).:](.*))?", re.S)
_SECOND = re.compile(  # another option
    r"(?<![a-zA-Z(])\(?[A-J](?:\)|:\s)|\b(?:or|and)\s+\(?[A-J]\b"
)
_CUT_OFF = re.compile(r"\.\d+\s*(?:\.\.|…|\\[lcd]?dots(?![a-zA-Z]))")  # 0.333... is not 0.333
_AND = re.compile(r"\s*[,;]?\s*\b(?:and|or)\b\s*")
_SIGNS = {*"%$€£¥¢", "degree"}  # units whose sign a bare answer may leave away
_DATE = re.compile(r"\d+([-/.])\d+\1\d+|\d+ ?- ?\d+|[IVX]{2}|[nN][oO]|on")  # or score, range, word
_FORMULA = re.compile(r"(?=.*[\\^_/])(?!.*(?<![\\a-zA-Z])[a-zA-Z]{5}|.*[a-z]{3} ).*")  # GMm/r^2

_OPERATION = re.compile(r"[+\-·/^!±]|\\(?:frac|sqrt|binom|sum|prod|int|log|ln|sin|cos|tan)")


def final(text: str) -> str:
    """What of a reply is graded: its last box, else what follows `####`, else its text."""
    text = answers.extract(text)
    if "####" in text:
        text = text.rpartition("####")[2].strip().partition("\n")[0]
    text = text.strip("* \n`")
    match = _SAID.fullmatch(text)
    return match[1].strip("* ") if match else text


def compare(gold: str, answer: str, choices: bool = False, question: str = "") -> Claim:
    """True or False where that is plain, else what the worker must find to hold.

    gold, answer: whole texts; the last box counts. choices: the question is multiple choice, so
    that `(B)`, `b` and `B) 7` name the option B; in any other question a letter is a letter.
    question: its text; an expression copied from it is paid only if it has the operations of the
    gold.
    """
    gold, answer = final(gold), final(answer)
    cut = bool(_CUT_OFF.search(answer)) and not _CUT_OFF.search(gold)
    gold, answer = tidy(gold), tidy(answer)
    broken = answer.count("{") != answer.count("}") or cut  # a reply, or a number, that was cut off
    if not gold or not answer or broken or max(len(gold), len(answer)) > LONGEST:
        return False
    if choices and (right := _OPTION.fullmatch(gold)):
        chosen = _OPTION.fullmatch(answer)
        if chosen is None or _SECOND.search(chosen[2] or ""):
            return False
        return chosen[1].upper() == right[1].upper()
    if copied(question, answer) and number(gold) is None and _size(gold) != _size(answer):
        return False
    return same(gold, answer)


def copied(question: str, answer: str) -> bool:
    """Whether an answer with an operation in it stands literally in the question."""
    answer = flat(tidy(final(answer)))
    return number(answer) is None and bool(_size(answer)) and answer in flat(tidy(question))


def _size(text: str) -> Counter[str]:
    """The operations of an expression: alike in `x+1` and `1+x`, not in `(x^2-1)/(x-1)`."""
    return Counter(_OPERATION.findall(flat(text)))


def same(gold: str, answer: str, undone: bool = False) -> Claim:
    """What must hold for two tidy texts to be the same answer.

    undone: the answer may be work that is left to do, as `4+3` in `4+3=7`.
    """
    if not gold or not answer:
        return False
    for rule in RULES:
        claim = rule.claim(gold, answer, undone)
        if claim is not None:
            return claim
    first, second = (text if number(text) is None else str(number(text)) for text in (gold, answer))
    return ["same", first, second]


def _all(claims: list[Claim]) -> Claim:
    if any(claim is False for claim in claims):
        return False
    unsettled = [claim for claim in claims if claim is not True]
    return ["all", *unsettled] if unsettled else True


def _match(gold: list[T], answer: list[T], claim: Callable[[T, T], Claim]) -> Claim:
    rows: list[Any] = [[claim(g, a) for a in answer] for g in gold]
    if len(gold) != len(answer) or not all(map(any, rows)):
        return False
    return ["match", *rows]


def _ordered(gold: list[str], answer: list[str]) -> Claim:
    if len(gold) != len(answer):
        return False
    return _all([same(g, a) for g, a in zip(gold, answer, strict=True)])


# The rules. Each takes what `same` does; None: the next rule's.


def _identical(gold: str, answer: str, undone: bool) -> Claim | None:
    return True if flat(gold) == flat(answer) else None


def _numbers(gold: str, answer: str, undone: bool) -> Claim | None:
    gold_value, answer_value = number(gold), number(answer)
    if gold_value is None or answer_value is None:
        return None
    under = denominator(answer)
    fraction = bool(denominator(gold)) and gold_value.denominator > 1
    done = under is None or (under > 0 and fraction) or 1 < under == answer_value.denominator
    return gold_value == answer_value and (undone or done)


def _unit(gold: str, answer: str, undone: bool) -> Claim | None:
    (gold_text, gold_unit), (answer_text, answer_unit) = split_unit(gold), split_unit(answer)
    values = number(gold_text), number(answer_text)
    if not gold_unit + answer_unit or any(
        value is None and len(parts(text, ",;")) > 1
        for value, text in zip(values, (gold_text, answer_text), strict=True)
    ):
        return None
    if {gold_unit, answer_unit} == {"", "degree"} and "π" in gold_text + answer_text:
        return None
    alike = gold_unit == answer_unit or {gold_unit, answer_unit} in ({"$", "dollar"}, {"€", "euro"})
    if gold_unit and not alike and (answer_unit or gold_unit not in _SIGNS):
        return False
    if not gold_unit and answer_unit.startswith("base ") and answer_unit != "base 10":
        return False  # other digits than they look
    if None not in values and (gold_unit == "%") != (answer_unit == "%"):
        # half is 50 %, and 50 where percents are asked, but never 0.5 %
        scaled: Fraction = (values[0] or 0) * (Fraction(1, 100) if gold_unit else Fraction(100))
        texts = (str(scaled), gold_text)[: 1 if not gold_unit and abs(scaled) < 100 else 2]
        return any(_numbers(text, answer_text, undone) for text in texts)
    return same(gold_text, answer_text, undone)


def _region(gold: str, answer: str, undone: bool) -> Claim | None:
    (name, text), (other_name, other_text) = member(gold), member(answer)
    if name or other_name:
        named, bare = (text, other_text) if name else (other_text, text)
        if named[:1] in ("(", "[") and bare[:1] not in ("(", "[") and not is_region(bare):
            return False  # x∈(1,3) is no list
        return (not name or not other_name or name == other_name) and same(text, other_text, undone)
    texts = gold, answer
    if not any(map(is_region, texts)):
        return None
    gold_region, answer_region = region(gold), region(answer)
    if gold_region and answer_region:
        if gold_region.name and answer_region.name and gold_region.name != answer_region.name:
            return False
        return _match(gold_region.intervals, answer_region.intervals, _interval)
    if any(len(parts(text, ",;")) > 1 for text in texts):
        return None
    (sides, signs), (other_sides, other_signs) = chain(gold), chain(answer)
    if gold_region or answer_region or len(signs) != len(sides) - 1 or signs != other_signs:
        return None if "=" in gold + answer else False
    return _ordered(sides, other_sides) if signs else None


def _interval(gold: Interval, answer: Interval) -> Claim:
    ends = _ordered([gold.lower, gold.upper], [answer.lower, answer.upper])
    return gold.brackets == answer.brackets and ends


def _joined(gold: str, answer: str, undone: bool) -> Claim | None:
    texts = _AND.sub("; ", gold), _AND.sub("; ", answer)
    return None if texts == (gold, answer) else same(*texts, undone)


def _items(text: str) -> tuple[str, list[str]]:
    """ "one", "list", "set" or "tuple", and the items; `±` makes two of one."""
    body, kind = inside(text, "⦃⦄"), "set"
    if body is None:
        body, kind = inside(text, "()"), "tuple"
        if body is None or len(parts(body, ",;")) < 2:
            body, kind = text, "list"
    pieces = re.split(r"[;,] ", body)
    if kind == "list" and all(number(piece) is not None for piece in pieces):
        items = pieces  # 1,000 and 2,000
    else:
        items = [item for item in parts(body, ",;") if item]
    if kind != "tuple":
        items = [choice for item in items for choice in _choices(item)]
    return "one" if kind == "list" and len(items) == 1 else kind, items


def _choices(text: str) -> list[str]:
    """Both that a text with `±` stands for; another text itself."""
    if not re.search("[±∓]", text):
        return [text]
    signed = [text.replace("±", above).replace("∓", below) for above, below in ("+-", "-+")]
    return [re.sub(r"(^|[=({,]\s*)\+\s*", r"\1", choice) for choice in signed]


def _list(gold: str, answer: str, undone: bool) -> Claim | None:
    if "=" in gold and "=" in answer:
        gold, answer = _spread(gold), _spread(answer)
    (kind, items), (other_kind, other_items) = _items(gold), _items(answer)
    kinds = {kind, other_kind}
    named = [any("=" in item for item in side) for side in (items, other_items)]
    if kinds == {"one"} or (kind == "one" and named[0]) or (other_kind == "one" and named[1]):
        return None
    if named == [True, False]:
        kind, items = _unnamed(kind, items)
    elif named == [False, True]:
        other_kind, other_items = _unnamed(other_kind, other_items)
    kinds = {kind, other_kind}
    if "no" in kinds or "∅" in (gold, answer) or ("tuple" in kinds and kinds & {"set", "one"}):
        return False  # a pair has an order, a set has none
    return _ordered(items, other_items) if "tuple" in kinds else _match(items, other_items, same)


def _spread(text: str) -> str:
    """`(x,y)=(1,2)` as `x=1, y=2`."""
    name, *value = (inside(side, "()") or "" for side in parts(text, "="))
    names, values = parts(name, ","), parts(value[0], ",") if value else []
    if len(names) != len(values) or len(names) < 2 or len(value) > 1:
        return text
    return ", ".join(f"{name} = {value}" for name, value in zip(names, values, strict=True))


def _unnamed(kind: str, items: list[str]) -> tuple[str, list[str]]:
    """The values of `x=2, y=4` in the order of their names; kind "no" where that is not plain."""
    pairs = [[side.strip() for side in item.partition("=")[::2]] for item in items]
    if _called(pairs[0][0]) and not any(right for _, right in pairs[1:]):
        return kind, [pairs[0][1], *(left for left, _ in pairs[1:])]  # (x,y)=(1,2), (2,1)
    names = [flat(left) for left, _ in pairs]
    alike = len({*names}) == 1 and _called(names[0])
    if any("=" in right or not right for _, right in pairs):
        return "no", []
    if alike or not all(map(NAME.fullmatch, names)):
        return kind if alike else "no", [right for _, right in pairs]
    pairs.sort()
    ends = [ord(name[-1]) for name in sorted(names)]
    heads = {name[:-1] for name in names}
    if len(heads) > 1 or any(b - a != 1 for a, b in pairwise(ends)):
        return "no", []
    return "tuple", [right for _, right in pairs]


def _called(text: str) -> bool:
    """Whether a left side only says what the value is of: a name, or an expression of several."""
    names = [flat(name) for name in parts(inside(text, "()") or text, ",")]
    if all(map(NAME.fullmatch, names)) and not NO_UNIT.search(text.lower()):
        # (y,x)=(1,2) is the point (2,1)
        return all(len(a + b) > 2 or ord(a) - ord(b) != 1 for a, b in pairwise(names))
    plain = re.sub(r"\\(?:frac|sqrt|sin|cos|tan|log|ln|angle|triangle|overline|vec)", " ", text)
    letters = re.findall(r"\\?[a-zA-Z](?:_(?:\w|\{[^{}]*\})|(?<=[fgh])\(\d+\))?", plain)
    return len({*letters}) > 1 and not wordy(plain)


def _chain(gold: str, answer: str, undone: bool) -> Claim | None:
    sides, other_sides = (parts(text, "=") for text in (gold, answer))
    if len(sides) == len(other_sides) == 1:
        return None
    if len(sides) == len(other_sides) == 2 and flat(sides[0]) == flat(other_sides[1]):
        other_sides.reverse()
    for pair in (sides, other_sides):  # 2 = x is x = 2
        if len(pair) == 2 and NAME.fullmatch(flat(pair[1])) and not NAME.fullmatch(flat(pair[0])):
            pair.reverse()
    first, other_first = sides[0], other_sides[0]
    named = bool(NAME.fullmatch(flat(first)))
    if len(sides) > 1 and len(other_sides) > 1:
        if flat(first) == flat(other_first):
            other_sides = other_sides[1:]
        elif (named and NAME.fullmatch(flat(other_first))) or len(sides) + len(other_sides) > 4:
            return False
        elif named and number(sides[1]) is not None and "0" not in other_sides:
            return False  # 2x=14 is not solved
        else:
            return ["equation", gold, answer]
    elif len(sides) > 1:
        if not named and not inside(first, "()") and re.search(r"(?<!\\)\b[a-zA-Z]", first):
            return False
    elif _called(other_first):
        other_sides = other_sides[1:]
    *before, last = other_sides  # each step must be right, the last worked out too
    return _all([same(sides[-1], side, True) for side in before] + [same(sides[-1], last, undone)])


def _words(gold: str, answer: str, undone: bool) -> Claim | None:
    texts = gold, answer
    words = any(wordy(text) or ":" in text for text in texts)
    formulas = all(map(_FORMULA.fullmatch, texts))  # of letters that may be a product
    if (not words or formulas) and (undone or not any(map(_DATE.fullmatch, texts))):
        return None
    if not re.search(r"[\\^_]", gold + answer):  # else a letter may be a name
        gold, answer = (re.sub("^(?:an?|the) ", "", text.casefold()) for text in texts)
    return gold.replace(" ", "") == answer.replace(" ", "")


def _matrix(gold: str, answer: str, undone: bool) -> Claim | None:
    rows, other_rows = _entries(gold), _entries(answer)
    if rows is None or other_rows is None or not re.search("matrix", gold + answer):
        return None
    if "matrix" not in gold or "matrix" not in answer:  # a column beside (1,2,3)
        if any(len(m) > 1 < len(m[0]) for m in (rows, other_rows)):
            return False
        rows, other_rows = ([[entry] for row in m for entry in row] for m in (rows, other_rows))
    if [len(row) for row in rows] != [len(row) for row in other_rows]:
        return False
    return _ordered(
        [entry for row in rows for entry in row], [entry for row in other_rows for entry in row]
    )


def _entries(text: str) -> list[list[str]] | None:
    """The rows of a matrix, or of a tuple as a column."""
    if match := re.fullmatch(r"\\begin\{matrix\}((?:(?!\\begin).)*)\\end\{matrix\}", text):
        return [parts(row, "&") for row in match[1].split("\\\\") if row.strip()]
    kind, items = _items(text)
    return [[item] for item in items] if kind == "tuple" else None


def _work(gold: str, answer: str, undone: bool) -> Claim | None:
    if undone:
        return None
    if number(gold) is not None or left_to_do(answer) - left_to_do(gold):
        return False
    return None


class Rule(NamedTuple):
    """One way to settle two texts. right, wrong: a gold, an answer that is it, one that is not."""

    name: str
    claim: Callable[[str, str, bool], Claim | None]
    right: tuple[str, str]
    wrong: tuple[str, str]


# fmt: off
RULES = (
    Rule("the same text", _identical, (r"a_{n}", r"a_n"), ("a_{n}", "a_m")),
    Rule("numbers, worked out", _numbers, ("0.5", r"\frac12"), ("24", "48/2")),
    Rule("units", _unit, ("5", "5 cm"), ("5 minutes", "5 dollars")),
    Rule("intervals, inequalities", _region, ("(0,1]", r"0<x\le1"), ("[0,1)", "(0,1)")),
    Rule("joined by words", _joined, ("1,-2", r"1 \text{ or } -2"), ("3", "3 or 4")),
    Rule("matrices", _matrix, (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),
         (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}2&1\end{pmatrix}")),
    Rule("lists, sets, tuples", _list, (r"\{1,2\}", "2,1"), ("(1,2)", "(2,1)")),
    Rule("equal to", _chain, ("7", "n=4+3=7"), ("f(0)=1", "f(0)=2")),
    Rule("words", _words, ("Monday", "monday"), ("even", "odd")),
    Rule("work left to do", _work, (r"2+\sqrt{3}", r"\sqrt3+2"), (r"2+\sqrt{3}", r"1+1+\sqrt{3}")),
)
# fmt: on
