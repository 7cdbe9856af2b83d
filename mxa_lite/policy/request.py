"""A call as an engine takes and returns it. Without torch, so that canned replies need none."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Request:
    """One call to make. key: anything printable; equal keys draw equal noise. agent: who asks."""

    messages: list[dict[str, str]]
    role: str
    key: tuple[Any, ...]
    temperature: float
    max_tokens: int
    agent: str = ""


@dataclass
class Completion:
    """One call made. logps: (T,) log-prob of each completion token at the request's temperature
    (at 1 for greedy ones). completion_ids hold the end token unless `truncated`. error: why there
    is none; the script that asked ends."""

    text: str
    prompt_ids: list[int]
    completion_ids: list[int]
    logps: list[float]
    truncated: bool
    prompt_cut: bool
    error: str | None = None


def seed_of(key: tuple[Any, ...]) -> int:
    """A 63-bit seed from a key, the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1
