"""Rows of local JSONL, Parquet and CSV files, and the account of rows that are left out."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pickle
import re
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any

from mxa_lite.errors import InputError
from mxa_lite.recipe.keys import DATA_SUFFIXES
from mxa_lite.tree import Question

Row = dict[str, Any]
Rows = Iterable[tuple[int, Row | None]]  # numbered from 1; None for what is no row
MOST = 60_000  # rows that are taken of a file
_FORM = (AttributeError, LookupError, RecursionError, SyntaxError, TypeError, ValueError)
_PACKED = (EOFError, pickle.UnpicklingError, zlib.error)
# Four words in a row, or a list that was written as text.
_PROSE = re.compile(r"""(?<![\\{\w])[A-Za-z]{2,}(?: [A-Za-z'-]+){3}|^[\[{(]\s*['"]""")


class BadRow(Exception):
    """A row without a usable question; the message is the reason, the same for alike rows."""


def question_id(text: str) -> str:
    """The id of a question: a hash of its text, blind to spaces and capitals."""
    return hashlib.sha256(" ".join(text.split()).casefold().encode()).hexdigest()[:16]


def read(path: str) -> Iterator[tuple[int, Row | None]]:
    """The rows of a file; in JSONL and CSV their numbers are the lines.

    Raises InputError for a file that is missing, of another kind, or damaged.
    """
    return ((number, _parsed(row)) for number, row in _unparsed(path))


def sample(path: str) -> tuple[Rows, list[str]]:
    """The rows of a file, and a note where it has more than MOST: these are then taken by a hash of
    each, so which ones depends neither on their order nor on a seed, and only they are parsed.

    Raises InputError as `read` does.
    """
    chosen: list[tuple[int, int, Row | str | None]] = []
    total, highest = 0, 1 << 32
    for number, row in _unparsed(path):
        total += 1
        hashed = zlib.crc32(str(row).encode("utf-8", "replace"))
        if hashed <= highest:
            chosen.append((hashed, number, row))
        if len(chosen) > 2 * MOST:
            chosen = sorted(chosen, key=itemgetter(0, 1))[:MOST]
            highest = chosen[-1][0]
    chosen = sorted(sorted(chosen, key=itemgetter(0, 1))[:MOST], key=itemgetter(1))
    notes = [f"{path}: {MOST:,} of {total:,} rows, chosen by hash; task.limit=N takes the first N"]
    return ((number, _parsed(row)) for _, number, row in chosen), notes * (total > MOST)


def _unparsed(path: str) -> Iterator[tuple[int, Row | str | None]]:
    """Numbered rows, those of JSONL as their lines."""
    path = os.path.expanduser(path)
    if not path.lower().endswith(DATA_SUFFIXES):
        raise InputError(f"{path}: the name of a data file ends in {', '.join(DATA_SUFFIXES)}")
    try:
        if path.lower().endswith(".parquet"):
            import pyarrow.parquet  # type: ignore[import-untyped]

            batches = pyarrow.parquet.ParquetFile(path).iter_batches()
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
            return
        with open(path, newline="", encoding="utf-8-sig") as file:
            if path.lower().endswith(".csv"):
                csv.field_size_limit(sys.maxsize)
                table = csv.DictReader(file)
                yield from ((table.line_num, row) for row in table)
            elif path.lower().endswith(".json") and file.read(1000).lstrip()[:1] == "[":
                file.seek(0)
                rows = enumerate(json.load(file), 1)
                yield from ((n, row if isinstance(row, dict) else None) for n, row in rows)
            else:
                file.seek(0)
                yield from enumerate(file, 1)
    except (OSError, RecursionError, ValueError, csv.Error) as error:  # not text, damaged, too deep
        raise InputError(f"{path} cannot be read: {error}") from error


def _parsed(row: Row | str | None) -> Row | None:
    if isinstance(row, str):
        try:
            row = json.loads(row)
        except (ValueError, RecursionError):
            return None
    return row if isinstance(row, dict) else None


def collect(
    rows: Rows, convert: Callable[[Row], Question], label: str, limit: int | None = None
) -> tuple[list[Question], list[str]]:
    """Usable questions, and notes: rows left out (malformed, empty, doubled, over-long), and
    answers that hardly any reply will match.

    label: how messages name the source. limit: no further row is read than for so many questions.
    Raises InputError when no row is usable.
    """
    questions: dict[str, Question] = {}
    left_out: dict[str, list[int]] = defaultdict(list)
    for number, row in rows:
        try:
            if row is None:
                raise BadRow("is not a JSON object")
            if None in row:  # of CSV: a comma without quotes, so the cells behind it are others'
                raise BadRow("has more cells than the header")
            question = convert(row)
            if question.id in questions:
                raise BadRow("repeats an earlier question")
            questions[question.id] = question
            if len(questions) == limit:
                break
        except BadRow as error:
            left_out[str(error)].append(number)
        except KeyError as error:
            columns = ", ".join(sorted(map(str, row or ()))[:9])
            left_out[f"has no {error} (its columns: {columns}; see task.columns)"].append(number)
        except (*_FORM, *_PACKED):
            left_out["has values of another form"].append(number)
    reasons = "; ".join(
        f"{', '.join(map(str, lines[:5]))}{', …' if len(lines) > 5 else ''} {reason}"
        for reason, lines in left_out.items()
    )
    if not questions:
        raise InputError(f"{label} has no usable row: row {reasons or 'count is 0'}")
    bad = sum(map(len, left_out.values()))
    notes = (
        [f"{label}: {bad} of {bad + len(questions)} rows left out: row {reasons}"] if bad else []
    )
    unmatched = [q.gold for q in questions.values() if q.gold and _PROSE.search(q.gold)]
    if unmatched:
        notes.append(
            f"{label}: {len(unmatched)} of {len(questions)} answers are sentences or lists in text,"
            f" which hardly any reply will match, such as {unmatched[0][:60]!r}"
        )
    return list(questions.values()), notes
