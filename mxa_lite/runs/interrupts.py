"""Ctrl-C in a run, and what a closing terminal or a scheduler sends in its place."""

from __future__ import annotations

import contextlib
import signal
from types import FrameType
from typing import Any

import click


class Interrupts:
    """A signal asks the run to stop when its step is whole; a second one stops it at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        with contextlib.suppress(OSError):  # the terminal may be gone
            click.echo("\nstopping after this step; a second Ctrl-C: at once", err=True)
