"""In float16 the gradients are scaled up; where they overflow no weight moves, the scale halves."""

from __future__ import annotations

from typing import Any

import torch

from mxa_lite.learn import distributed

FIRST = 2.0**12  # torch's own is 2**16, and each scale too high costs a step


def lower_first_scale(accelerator: Any) -> None:
    if accelerator.scaler is not None:
        accelerator.scaler = torch.amp.GradScaler(accelerator.device.type, init_scale=FIRST)


def scale_numbers(accelerator: Any) -> tuple[int, float | None]:
    """(step_skipped, scale) of the update that was just tried, as in `UpdateNumbers`."""
    if accelerator.scaler is None:
        return 0, None
    skipped = accelerator.optimizer_step_was_skipped and distributed.MAIN  # all skip, one counts
    return int(skipped), accelerator.scaler.get_scale()
