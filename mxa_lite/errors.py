"""The two ways a command can fail; every module raises these, `cli` turns them into exit codes."""

from __future__ import annotations

from pathlib import Path


class InputError(Exception):
    """The user's input is wrong: exit 2 with this one message, nothing written."""


class RunError(Exception):
    """Something failed while running: exit 1 with this message, what was saved stays."""


def read_text(path: Path) -> str:
    """The file's text, else InputError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{path}: cannot be read: {reason}") from None
