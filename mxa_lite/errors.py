"""The two ways a command can fail; every module raises these, `cli` turns them into exit codes."""

from __future__ import annotations


class InputError(Exception):
    """The user's input is wrong: exit 2 with this one message, nothing written."""


class RunError(Exception):
    """Something failed while running: exit 1 with this message, what was saved stays."""
