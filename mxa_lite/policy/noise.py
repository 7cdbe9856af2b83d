"""Sampling: one uniform number per call and position, and the token it stands for.

The numbers are SplitMix64's, whose n-th output is a function of the seed and of n alone; so all of
a batch are made in one go, and are the same to the last bit on every device and in every batch.
Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

GAMMA = 0x9E3779B97F4A7C15
SMALL = 8  # batches below this size are not worth splitting


def _signed(number: int) -> int:
    """The same 64 bits as a signed integer, which is what tensors hold."""
    return number - (1 << 64) if number >= 1 << 63 else number


def splitmix64(seeds: list[int], count: int, device: torch.device) -> torch.Tensor:
    """(seeds, count) 64-bit integers: the first `count` of each seed's stream."""

    def mixed(z: torch.Tensor, shift: int) -> torch.Tensor:
        return z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))  # as of an unsigned integer

    steps = torch.arange(1, count + 1, device=device) * _signed(GAMMA)
    z = torch.tensor(seeds, device=device)[:, None] + steps
    z = mixed(z, 30) * _signed(0xBF58476D1CE4E5B9)
    z = mixed(z, 27) * _signed(0x94D049BB133111EB)
    return mixed(z, 31)


class Draws(LogitsProcessor):
    """Draws each row's next token at its temperature by the row's own numbers.

    A number u in [0, 1) stands for the first token at which the probabilities, added up in the
    order of the vocabulary, exceed u (https://en.wikipedia.org/wiki/Inverse_transform_sampling).
    logps: a tensor (rows,) for each position since `start`, the log-prob of what was drawn.
    """

    def __init__(
        self, seeds: list[int], temperatures: list[float], count: int, device: torch.device
    ) -> None:
        high = (splitmix64(seeds, count, device) >> 16) & ((1 << 48) - 1)
        self.uniforms = high.double() / (1 << 48)
        self.temperatures = torch.tensor(temperatures, device=device)[:, None]
        self.position = 0
        self.filled = torch.arange(len(seeds), device=device)
        self.logps: list[torch.Tensor] = []

    def keep(self, rows: list[int]) -> None:
        self.uniforms, self.temperatures = self.uniforms[rows], self.temperatures[rows]

    def start(self, rows: int) -> None:
        """Begin a batch of `rows`, those beyond our own being copies of the first."""
        self.logps = []
        self.filled = torch.arange(rows, device=self.uniforms.device)
        self.filled[len(self.uniforms) :] = 0

    def draw(self, scores: torch.Tensor) -> torch.Tensor:
        """(rows,) tokens for logits (rows, vocabulary)."""
        temperatures = self.temperatures[self.filled]
        greedy = temperatures == 0
        scaled = scores.float() / torch.where(greedy, 1.0, temperatures)
        logps = scaled.log_softmax(-1)
        sums = logps.exp().double().cumsum(-1)
        uniforms = self.uniforms[self.filled, self.position, None] * sums[:, -1:]
        drawn = torch.searchsorted(sums, uniforms, right=True).clamp(max=sums.shape[-1] - 1)
        drawn = torch.where(greedy, scaled.argmax(-1, keepdim=True), drawn)
        self.logps.append(logps.gather(-1, drawn)[:, 0])
        self.position += 1
        return drawn[:, 0]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of which stock greedy search takes the token drawn."""
        return torch.zeros_like(scores).scatter_(1, self.draw(scores)[:, None], 1.0)


class HalfEnded(StoppingCriteria):
    """Stops a batch when at most half of its rows still go on, since ended rows cost as much."""

    def __init__(self, rows: int, ends: list[int], device: torch.device) -> None:
        self.rows = rows
        self.ends = torch.tensor(ends, device=device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=device)

    def stop(self, tokens: torch.Tensor) -> bool:
        """Whether to stop after these tokens (rows,), the newest."""
        self.ended |= torch.isin(tokens[: self.rows], self.ends)
        going = self.rows - int(self.ended.sum())
        return going == 0 or (self.rows >= SMALL and going <= self.rows // 2)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        stop = self.stop(input_ids[:, -1])
        return torch.full((len(input_ids),), stop, device=input_ids.device)
