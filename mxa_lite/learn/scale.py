"""In float16 the gradients are scaled up; where they overflow no weight moves, the scale halves."""

from __future__ import annotations

from typing import Any

import torch

from mxa_lite.learn import distributed

FIRST = 2.0**12  # torch's own is 2**16, and each scale too high costs a step


def lower_first_scale(accelerator: Any) -> None:
    """A lower scale to begin with, in float16."""
    if accelerator.scaler is not None:
        accelerator.scaler = torch.amp.GradScaler(accelerator.device.type, init_scale=FIRST)


def scale_numbers(accelerator: Any) -> dict[str, Any]:
    """`step_skipped` and `scale` of the update that was just tried, as in `UpdateNumbers`."""
    if accelerator.scaler is None:
        return {}
    skipped = accelerator.optimizer_step_was_skipped and distributed.MAIN  # all skip, one counts
    return {"step_skipped": int(skipped), "scale": accelerator.scaler.get_scale()}
