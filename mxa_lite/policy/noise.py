"""What stock `generate` is given so that every call draws from a generator of its own.

Gumbel noise is added per row, seeded by the call's key; the largest is then a draw from the softmax
(https://en.wikipedia.org/wiki/Gumbel_distribution#Gumbel_reparametrization_tricks).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

NOISE = 1 << 14  # random numbers drawn at once per row, at most
SMALL = 8  # batches below this size are not worth splitting


class GumbelNoise(LogitsProcessor):
    """Temperature and per-row noise, then the log-prob of the token that argmax will take."""

    def __init__(self, seeds: list[int], temperatures: list[float], device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.temperatures = torch.tensor(temperatures, device=device)[:, None]
        self.logps: list[torch.Tensor] = []
        self.chunk = torch.empty(len(seeds), 0, 0, device=device)
        self.used = self.spare = 0

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only, each where its own noise stands."""
        self.generators = [self.generators[row] for row in rows]
        self.temperatures = self.temperatures[rows]
        self.chunk = self.chunk[rows]

    def start(self, rows: int) -> None:
        """Begin a batch of `rows`, those beyond our own being copies of the first."""
        self.logps = []
        self.spare = rows - len(self.generators)

    def _noise(self, vocabulary: int) -> torch.Tensor:
        """(rows, vocabulary) uniform numbers; drawn in chunks whose size the vocabulary decides."""
        if self.used == self.chunk.shape[1]:
            steps = max(1, NOISE // vocabulary)
            drawn = [
                torch.rand(steps, vocabulary, generator=g, device=self.chunk.device)
                for g in self.generators
            ]
            self.chunk, self.used = torch.stack(drawn), 0
        self.used += 1
        return self._filled(self.chunk[:, self.used - 1])

    def _filled(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([rows, rows[:1].expand(self.spare, -1)]) if self.spare else rows

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        temperatures = self._filled(self.temperatures)
        scaled = scores.float() / torch.where(temperatures == 0, 1.0, temperatures)
        uniform = self._noise(scores.shape[-1]).clamp(min=1e-20)
        gumbel = -torch.log(-torch.log(uniform).clamp(max=-1e-20))
        noisy = torch.where(temperatures == 0, scaled, scaled + gumbel)
        chosen = noisy.argmax(-1, keepdim=True)
        self.logps.append((scaled.gather(-1, chosen) - scaled.logsumexp(-1, keepdim=True))[:, 0])
        return noisy


class HalfEnded(StoppingCriteria):
    """Stops a batch when at most half of its rows still go on, since ended rows cost as much."""

    def __init__(self, rows: int, ends: list[int]) -> None:
        self.rows = rows
        self.ends = torch.tensor(ends)
        self.ended = torch.zeros(rows, dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        last = input_ids[: self.rows, -1:].cpu()
        self.ended |= (last == self.ends).any(1)
        going = self.rows - int(self.ended.sum())
        stop = self.rows >= SMALL and going <= self.rows // 2
        return torch.full((len(input_ids),), stop, device=input_ids.device)
