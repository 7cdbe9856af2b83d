"""Several processes, as `accelerate launch` or `torchrun` starts them; one for each GPU.

The questions of a step are shared out and groups stay whole. The first process alone evaluates and
writes; the others wait for it. Everything that is sent goes through accelerate.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

RANK = int(os.environ.get("RANK", "0"))
SIZE = int(os.environ.get("WORLD_SIZE", "1"))
MAIN = RANK == 0
_PATIENCE = timedelta(days=2)  # the others wait through the whole evaluation

T = TypeVar("T")


def join() -> None:
    """Meet the other processes, on this one's own GPU; to be called before a model is loaded."""
    if SIZE > 1:
        PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)


def wait() -> None:
    """Go on when every process has come here."""
    if SIZE > 1:
        PartialState().wait_for_everyone()


def gathered(value: T) -> list[T]:
    """Every process's value, in the order of their ranks."""
    return list(gather_object([value])) if SIZE > 1 else [value]
