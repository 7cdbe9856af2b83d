"""What may be printed where: stdout kept clean for JSON, text made safe for a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stdout_for_json(as_json: bool) -> Iterator[None]:
    """With `as_json`, everything that prints to stdout meanwhile goes to stderr instead.

    The file descriptor itself is moved, so that libraries written in C are covered too.
    """
    if not as_json:
        yield
        return
    sys.stdout.flush()
    saved_stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved_stdout, 1)
        os.close(saved_stdout)


def printable(text: str) -> str:
    """Text that is safe on a terminal: control characters, escapes included, are spelled out."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
