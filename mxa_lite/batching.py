"""Trajectories of a step as micro-batches: one role and one temperature each, padded tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mxa_lite.tree import Call, Tree

SPAN = 16  # completions of like length, to this many tokens, are sorted by their prompts


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
    rows: int  # real rows; those after them are filling

    @property
    def padded(self) -> int:
        """Tokens with the padding."""
        return self.inputs["prompt_ids"].numel() + self.inputs["completion_ids"].numel()


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


def pack(calls: Sequence[Call], tokens: int) -> list[list[Call]]:
    """Calls in micro-batches of at most `tokens` padded tokens (one call always fits).

    Calls lie sorted by completion, then by prompt length, and are cut where padding plus a fixed
    cost of each micro-batch, `tokens` / 32, is least. The largest micro-batch comes first, so that
    a step which does not fit in memory fails at once.
    """
    order = sorted(calls, key=lambda c: (-(len(c.completion_ids) // SPAN), -len(c.prompt_ids)))
    fixed = tokens // 32
    cost, cut = [0], [0]  # of the first n calls: least cost, and where their last batch begins
    for end in range(1, len(order) + 1):
        found: list[tuple[int, int]] = []
        prompt = completion = 0
        for start in range(end - 1, -1, -1):
            prompt = max(prompt, len(order[start].prompt_ids))
            completion = max(completion, len(order[start].completion_ids))
            padded = (end - start) * (prompt + completion)
            if padded > tokens and found:
                break
            found.append((cost[start] + padded + fixed, start))
        best, start = min(found)
        cost.append(best)
        cut.append(start)
    batches, end = [], len(order)
    while end:
        batches.append(order[cut[end] : end])
        end = cut[end]
    return sorted(batches, key=lambda batch: -padded_tokens(batch))


def padded_tokens(calls: Sequence[Call]) -> int:
    """Tokens of the rectangle that holds these calls."""
    width = max(len(c.prompt_ids) for c in calls) + max(len(c.completion_ids) for c in calls)
    return len(calls) * width


Totals = dict[str, tuple[float, float]]


def micro_batches(
    found: Sequence[Trajectory],
    tokens: int,
    pad: int,
    device: torch.device,
    totals: Totals | None = None,
) -> list[MicroBatch]:
    """Micro-batches of a step, role after role. totals: of all processes, where there are more.

    Rows whose advantage is exactly 0 give no gradient (there is no KL or entropy term): they count
    in every mean but are not computed.
    """
    totals = role_totals(found) if totals is None else totals
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
            scale = len(some) / rows
            batches.append(MicroBatch(role, temperature, inputs, scale, sampled, real, len(some)))
    return batches


def role_totals(found: Sequence[Trajectory]) -> Totals:
    """Role -> (loss tokens, rows), both weighted by the calls' loss weights."""
    return {
        role: (
            sum(t.call.weight * len(t.call.completion_ids) for t in found if t.role == role),
            sum(t.call.weight for t in found if t.role == role),
        )
        for role in {t.role for t in found}
    }


def summed(parts: Iterable[Totals]) -> Totals:
    """The totals of several processes, added up."""
    found: Totals = {}
    for part in parts:
        for role, (tokens, rows) in part.items():
            before = found.get(role, (0.0, 0.0))
            found[role] = (before[0] + tokens, before[1] + rows)
    return found


def levelled(
    batches: Sequence[MicroBatch], rows: dict[str, list[int]], pad: int, device: torch.device
) -> list[MicroBatch]:
    """Micro-batches of exactly `rows` rows each, role after role, since processes go in step.

    Rows that are missing are filled up by ones of two tokens whose advantage and weight are 0.
    """
    found = []
    for role, counts in sorted(rows.items()):
        mine = iter([batch for batch in batches if batch.role == role])
        for count in counts:
            batch = next(mine, None) or _empty(role, pad, device)
            found.append(_filled(batch, count, pad))
    return found


def _empty(role: str, pad: int, device: torch.device) -> MicroBatch:
    one = torch.full((1, 1), pad, device=device)
    inputs = {
        "prompt_ids": one,
        "prompt_mask": torch.ones_like(one),
        "completion_ids": one,
        "completion_mask": torch.ones_like(one),
        "advantages": torch.zeros(1, device=device),
        "num_items_in_batch": torch.tensor(1.0, device=device),
    }
    return MicroBatch(role, 1.0, inputs, 0.0, torch.zeros(1, 1, device=device), 0, 0)


def _filled(batch: MicroBatch, count: int, pad: int) -> MicroBatch:
    rows = len(batch.inputs["advantages"])
    inputs = dict(batch.inputs)
    for name, column in (("prompt", -1), ("completion", 0)):
        ids, mask = inputs[f"{name}_ids"], inputs[f"{name}_mask"]
        inputs[f"{name}_ids"] = torch.cat([ids, ids.new_full((count - rows, ids.shape[1]), pad)])
        more = mask.new_zeros(count - rows, mask.shape[1])
        more[:, column] = 1
        inputs[f"{name}_mask"] = torch.cat([mask, more])
    zeros = batch.inputs["advantages"].new_zeros(count - rows)
    inputs["advantages"] = torch.cat([batch.inputs["advantages"], zeros])
    more = batch.sampled.new_zeros(count - rows, batch.sampled.shape[1])
    sampled = torch.cat([batch.sampled, more])
    return replace(batch, inputs=inputs, scale=batch.scale * count / rows, sampled=sampled)


def _tensors(
    calls: Sequence[Call], pad: int, device: torch.device
) -> tuple[dict[str, Any], torch.Tensor]:
    prompt = max(len(c.prompt_ids) for c in calls)
    completion = max(len(c.completion_ids) for c in calls)
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
