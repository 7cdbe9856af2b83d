"""Bytes of tensors: what is held, and the peak while something runs; allocations, not the RSS."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def held(tensors: Any) -> int:
    """Bytes of the distinct storages of some tensors, with the scales of 4-bit ones."""
    storages = {}
    for tensor in tensors:
        state = getattr(tensor, "quant_state", None)
        scales = [] if state is None else [state.absmax, state.state2.absmax]
        for t in [tensor, *scales]:
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
    return sum(storages.values())


def peak(work: Callable[[], Any]) -> int:
    """Most bytes allocated at once while `work` runs, beyond what lay there before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))
