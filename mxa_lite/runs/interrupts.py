"""Ctrl-C in a run."""

from __future__ import annotations

import signal
from types import FrameType

import click


class Interrupts:
    """Ctrl-C asks the run to stop at the next safe point; a second one stops it at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before = signal.getsignal(signal.SIGINT)

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        click.echo("\nstopping; a checkpoint is saved first (Ctrl-C again: at once)", err=True)
