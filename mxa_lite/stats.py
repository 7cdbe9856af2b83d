"""Means with intervals. Every value is one question's own mean, so questions are what is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


def interval(values_Q: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): 95 % percentile bootstrap over questions; all 0 for no questions.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    if not len(values_Q):
        return 0.0, 0.0, 0.0
    values = np.asarray(values_Q, dtype=float)
    draws = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def paired(a_Q: Sequence[float], b_Q: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """(mean of b - a, low, high) over the same questions in the same order."""
    return interval([b - a for a, b in zip(a_Q, b_Q, strict=True)], seed)
