"""Means with intervals. Every value is one question's own mean, so questions are what is drawn.

Suffixes: `_Q` one entry per question, `_SQ` one row per seed (training run) of such entries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

RESAMPLES = 2000
Interval = tuple[float, float, float]


def interval(values_Q: Sequence[float]) -> Interval:
    """(mean, low, high): 95 % percentile bootstrap over questions; all 0 for no questions.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    return two_level([values_Q]) if len(values_Q) else (0.0, 0.0, 0.0)


def paired(a_Q: Sequence[float], b_Q: Sequence[float]) -> Interval:
    """(mean of b - a, low, high) over the same questions in the same order."""
    return interval([b - a for a, b in zip(a_Q, b_Q, strict=True)])


def _means(values: np.ndarray, seeds: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """The mean of every resample. Shapes: (S, Q), (R, S), (R, Q) -> (R,)."""
    return values[seeds[:, :, None], questions[:, None, :]].mean(axis=(1, 2))


def two_level(
    values_SQ: Sequence[Sequence[float]],
    minus_SQ: Sequence[Sequence[float]] | None = None,
    same_seeds: bool = False,
) -> Interval:
    """(mean, low, high): bootstrap that draws seeds, and questions, anew in every resample.

    All seeds answered the same questions, so one draw of questions serves them all. minus_SQ: the
    mean of the difference to it; same questions, and its seeds are drawn apart unless
    `same_seeds`, which says that row i of both is one seed. With few seeds the interval is rough.
    Source: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8.
    """
    values = np.asarray(values_SQ, dtype=float)
    rng = np.random.default_rng(0)
    questions = rng.integers(0, values.shape[1], (RESAMPLES, values.shape[1]))
    seeds = rng.integers(0, len(values), (RESAMPLES, len(values)))
    means = _means(values, seeds, questions)
    centre = values.mean()
    if minus_SQ is not None:
        minus = np.asarray(minus_SQ, dtype=float)
        if minus.shape[1] != values.shape[1] or (same_seeds and len(minus) != len(values)):
            raise ValueError(f"shapes {values.shape} and {minus.shape} do not pair")
        if not same_seeds:
            seeds = rng.integers(0, len(minus), (RESAMPLES, len(minus)))
        means = means - _means(minus, seeds, questions)
        centre -= minus.mean()
    low, high = np.percentile(means, [2.5, 97.5])
    return float(centre), float(low), float(high)


def shares(names: Iterable[str]) -> dict[str, float]:
    """How often each name comes among all of them, by name."""
    counts = Counter(names)
    return {name: counts[name] / counts.total() for name in sorted(counts)}


def total_variation(a: dict[str, float], b: dict[str, float]) -> float:
    """Half the summed difference of two tables of shares: 0 equal, 1 nothing in common."""
    return sum(abs(a.get(key, 0.0) - b.get(key, 0.0)) for key in a | b) / 2  # sets vary in order
