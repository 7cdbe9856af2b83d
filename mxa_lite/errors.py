"""The two ways a command can fail; every module raises these, `cli` turns them into exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class InputError(Exception):
    """The user's input is wrong: exit 2 with this one message, nothing written."""


class RunError(Exception):
    """Something failed while running: exit 1 with this message, what was saved stays."""


def read_text(path: Path) -> str:
    """The file's text, else InputError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{path} cannot be read: {reason}") from None


def json_lines(path: Path) -> Iterator[Any]:
    """The dict of each line, else InputError with its number."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        yield json_object(line, f"{path} line {number}")


def json_object(text: str, where: str) -> Any:
    """The dict that a file of a run, or a line of one, holds, else InputError."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise InputError(f"{where}: damaged: not a JSON object")
    return parsed
