"""What tests share: one thread, and the embedded recipe in a small shape."""

from __future__ import annotations

import os

# Before torch is imported: one thread is the fastest for the tiny model (`opened.set_threads`).
os.environ.setdefault("OMP_NUM_THREADS", "1")

from mxa_lite.recipe import file as recipe_file
from mxa_lite.recipe.keys import Recipe


def small(*sets: str) -> Recipe:
    """The embedded recipe in a small shape, with `--set` overrides."""
    return recipe_file.load(
        "arithmetic",
        (
            "rollout.max_completion_tokens={designer: 64, executor: 24}",
            "train.questions=2",
            "rollout.designs=2",
            "rollout.executions=2",
            "train.warmup_steps=0",
            "train.learning_rate=1e-3",
            "cold_start={method: none}",
            *sets,
        ),
    )
