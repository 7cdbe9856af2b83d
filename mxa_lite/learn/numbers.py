"""What one optimizer update measured, and how those of several updates or processes add up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mxa_lite.records import Sums, UpdateNumbers

if TYPE_CHECKING:  # torch is not needed to add up
    from mxa_lite.learn.batching import MicroBatch


def counted(batches: Sequence[MicroBatch] = (), trajectories: int = 0) -> UpdateNumbers:
    """The numbers of an update before it is computed."""
    return {
        "micro_batches": len(batches),
        "trajectories": trajectories,
        "trained_rows": sum(len(batch.calls) for batch in batches),
        "trained_tokens": sum(batch.tokens for batch in batches),
        "padded_tokens": sum(batch.padded for batch in batches),
        "out_of_memory": 0,
        "step_skipped": 0,
        "clipped": {},
        "logp_gap": {},
        "entropy": {},
        "lr": 0.0,
        "loss": None,
        "grad_norm": None,
        "scale": None,
    }


COUNTS = [key for key, value in counted().items() if type(value) is int]
MEANS = ("clipped", "logp_gap", "entropy")  # per token and role


def finite(value: float | None) -> float | None:
    """The number, or None for NaN and infinities, which JSON has no word for."""
    return None if value is None or not math.isfinite(value) else float(value)


def summed_by_role(sums: Iterable[Sums]) -> Sums:
    total: Sums = {}
    for addend in sums:
        for role, (value, count) in addend.items():
            before = total.get(role, (0.0, 0.0))
            total[role] = (before[0] + value, before[1] + count)
    return dict(sorted(total.items()))


def merged(parts: Sequence[UpdateNumbers], *, updates: int = 1) -> UpdateNumbers:
    """The numbers of several processes, or of a step's updates, as one line.

    updates: how many of the parts are updates after each other, whose losses and gradient norms are
    averaged; processes share theirs.
    """
    total = parts[0].copy()
    total["scale"] = parts[-1]["scale"]
    for key in COUNTS:
        total[key] = sum(entry[key] for entry in parts)  # type: ignore[literal-required]
    for key in MEANS:
        total[key] = summed_by_role(entry[key] for entry in parts)  # type: ignore[literal-required]
    if updates > 1:
        for key in ("loss", "grad_norm"):
            values = [entry[key] for entry in parts]  # type: ignore[literal-required]
            known = [value for value in values if value is not None]
            mean = math.fsum(known) / len(known) if len(known) == len(values) else None
            total[key] = mean  # type: ignore[literal-required]
    return total
