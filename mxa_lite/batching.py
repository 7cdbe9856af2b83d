"""Trajectories of a step as micro-batches: one role and one temperature each, padded tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mxa_lite.tree import Call, Tree

STEP = 8  # widths are padded to a multiple of this, so that a CPU compiles few shapes


@dataclass(frozen=True)
class Trajectory:
    """What a role is trained on: one completion with its prompt."""

    role: str
    call: Call


@dataclass
class MicroBatch:
    """Rows of one role and one temperature, with what TRL's loss reads in `inputs`.

    inputs: prompt_ids, prompt_mask (rows, P) left-padded; completion_ids, completion_mask
    (rows, T) right-padded; advantages (rows,) times their loss weight; num_items_in_batch 0-d:
    loss tokens of the role in the whole step. scale: factor that makes a mean over these rows a
    part of the mean over the role's rows. sampled: (rows, T) log-probs as sampled.
    """

    role: str
    temperature: float
    inputs: dict[str, torch.Tensor]
    scale: float
    sampled: torch.Tensor
    tokens: int  # real tokens, prompt and completion


def trajectories(trees: Iterable[Tree], roles: Sequence[str]) -> list[Trajectory]:
    """All trajectories of the learning roles; calls at temperature 0 are not trained on."""
    found = []
    for tree in trees:
        for design in tree.designs:
            if "designer" in roles:
                found.append(Trajectory("designer", design.call))
            if "executor" in roles:
                calls = (c for execution in design.executions for c in execution.calls)
                found += [Trajectory("executor", c) for c in calls]
    return [t for t in found if t.call.temperature > 0 and t.call.completion_ids]


def _up(size: int) -> int:
    return -(-size // STEP) * STEP


def pack(calls: Sequence[Call], tokens: int) -> Iterator[list[Call]]:
    """Calls in micro-batches of at most `tokens` padded tokens (one call always fits), the longest
    first, so that a step which does not fit in memory fails at once."""
    batch: list[Call] = []
    prompt = completion = 0
    longest = sorted(calls, key=lambda c: (-_up(len(c.prompt_ids)), -len(c.completion_ids)))
    for call in longest:
        p = max(prompt, _up(len(call.prompt_ids)))
        t = max(completion, _up(len(call.completion_ids)))
        if batch and (len(batch) + 1) * (p + t) > tokens:
            yield batch
            batch, p, t = [], _up(len(call.prompt_ids)), _up(len(call.completion_ids))
        batch.append(call)
        prompt, completion = p, t
    if batch:
        yield batch


def micro_batches(
    found: Sequence[Trajectory],
    tokens: int,
    pad: int,
    device: torch.device,
) -> list[MicroBatch]:
    """Micro-batches of a step.

    Rows whose advantage is exactly 0 give no gradient (there is no KL or entropy term): they count
    in every mean but are not computed.
    """
    totals = role_totals(found)
    batches = []
    for role, temperature in sorted({(t.role, t.call.temperature) for t in found}):
        calls = [
            t.call
            for t in found
            if (t.role, t.call.temperature) == (role, temperature) and t.call.advantage != 0
        ]
        items, rows = totals[role]
        for some in pack(calls, tokens):
            inputs, sampled = _tensors(some, pad, device)
            inputs["num_items_in_batch"] = torch.tensor(items, device=device)
            real = sum(len(c.prompt_ids) + len(c.completion_ids) for c in some)
            batches.append(MicroBatch(role, temperature, inputs, len(some) / rows, sampled, real))
    return batches


def role_totals(found: Sequence[Trajectory]) -> dict[str, tuple[float, float]]:
    """Role -> (loss tokens, rows), both weighted by the calls' loss weights."""
    return {
        role: (
            sum(t.call.weight * len(t.call.completion_ids) for t in found if t.role == role),
            sum(t.call.weight for t in found if t.role == role),
        )
        for role in {t.role for t in found}
    }


def _tensors(
    calls: Sequence[Call], pad: int, device: torch.device
) -> tuple[dict[str, Any], torch.Tensor]:
    prompt = _up(max(len(c.prompt_ids) for c in calls))
    completion = _up(max(len(c.completion_ids) for c in calls))
    prompt_ids = torch.full((len(calls), prompt), pad)
    completion_ids = torch.full((len(calls), completion), pad)
    prompt_mask, completion_mask = torch.zeros_like(prompt_ids), torch.zeros_like(completion_ids)
    sampled = torch.zeros(len(calls), completion)
    for i, c in enumerate(calls):
        p, t = len(c.prompt_ids), len(c.completion_ids)
        prompt_ids[i, prompt - p :] = torch.tensor(c.prompt_ids)
        prompt_mask[i, prompt - p :] = 1
        completion_ids[i, :t] = torch.tensor(c.completion_ids)
        completion_mask[i, :t] = 1
        sampled[i, :t] = torch.tensor(c.logps)
    inputs = {
        "prompt_ids": prompt_ids.to(device),
        "prompt_mask": prompt_mask.to(device),
        "completion_ids": completion_ids.to(device),
        "completion_mask": completion_mask.to(device),
        "advantages": torch.tensor([c.advantage * c.weight for c in calls], device=device),
    }
    return inputs, sampled.to(device)
