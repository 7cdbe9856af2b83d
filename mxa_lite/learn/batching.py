"""Trajectories of a step as micro-batches: one role and one temperature each, padded tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.nn.utils.rnn import pad_sequence

from mxa_lite.learn.prefixes import Packs, rectangles
from mxa_lite.tree import Call, Tree

SPAN = 16  # completions of like length, to this many tokens, are sorted by their prompts

Totals = dict[str, tuple[float, float]]  # role -> (loss tokens, rows), weighted


@dataclass(frozen=True)
class Trajectory:
    """What a role is trained on: one completion with its prompt."""

    role: str
    call: Call


@dataclass(frozen=True)
class MicroBatch:
    """Calls of one role and one temperature. `tensors` makes their tensors when their turn comes,
    so that a step's memory does not grow with its micro-batches.

    items: loss tokens of the role in the whole step. scale: factor that makes a mean over these
    rows a part of the mean over the role's rows. rows: of the tensors; those beyond the calls are
    filling, one prompt and one completion token of padding with advantage 0. packs: of calls
    whose shared prefixes are computed once (`learn.prefixes`); none: whole rows.
    """

    role: str
    temperature: float
    calls: Sequence[Call]
    items: float
    scale: float
    rows: int
    packs: Packs = ()

    @property
    def tokens(self) -> int:
        """Tokens that are computed, prompt and completion, without the padding."""
        if self.packs:
            return sum(size for _, size in self.packs)
        return sum(len(c.prompt_ids) + len(c.completion_ids) for c in self.calls)

    @property
    def padded(self) -> int:
        if self.packs:
            return len(self.packs) * max(size for _, size in self.packs)
        return self.rows * sum(_widths(self.calls))

    def tensors(self, pad: int, device: torch.device) -> dict[str, torch.Tensor]:
        """What TRL's loss reads.

        prompt_ids, prompt_mask (rows, P) left-padded; completion_ids, completion_mask (rows, T)
        right-padded; advantages (rows,) times their loss weight; old_per_token_logps (rows, T), the
        log-probs as sampled, against which the ratio of eq. 2 and 3 is taken; num_items_in_batch
        0-d.
        """
        filling = Call("", "", 0, [], prompt_ids=[pad], completion_ids=[pad], logps=[0.0])
        calls = [*self.calls, *[filling] * (self.rows - len(self.calls))]
        prompts = [torch.tensor(c.prompt_ids) for c in calls]
        completions = [torch.tensor(c.completion_ids) for c in calls]
        left = partial(pad_sequence, batch_first=True, padding_side="left")
        right = partial(pad_sequence, batch_first=True)
        inputs = {
            "prompt_ids": left(prompts, padding_value=pad),
            "prompt_mask": left([torch.ones_like(ids) for ids in prompts]),
            "completion_ids": right(completions, padding_value=pad),
            "completion_mask": right([torch.ones_like(ids) for ids in completions]),
            "advantages": torch.tensor([c.advantage * c.weight for c in calls]),
            "old_per_token_logps": right([torch.tensor(c.logps) for c in calls]),
            "num_items_in_batch": torch.tensor(self.items),
        }
        return {name: tensor.to(device) for name, tensor in inputs.items()}


def _widths(calls: Sequence[Call]) -> tuple[int, int]:
    """Tokens of the longest prompt and of the longest completion."""
    prompt = max((len(c.prompt_ids) for c in calls), default=1)
    return prompt, max((len(c.completion_ids) for c in calls), default=1)


def trajectories(trees: Iterable[Tree], roles: Sequence[str]) -> list[Trajectory]:
    """All trajectories of the learning roles; calls at temperature 0 are not trained on."""
    candidates = []
    for tree in trees:
        for design in tree.designs:
            if "designer" in roles:
                candidates.append(Trajectory("designer", design.call))
            if "executor" in roles:
                calls = (c for execution in design.executions for c in execution.calls)
                candidates += [Trajectory("executor", c) for c in calls]
    return [t for t in candidates if t.call.temperature > 0 and t.call.completion_ids]


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
        options: list[tuple[int, int]] = []
        prompt = completion = 0
        for start in range(end - 1, -1, -1):
            prompt = max(prompt, len(order[start].prompt_ids))
            completion = max(completion, len(order[start].completion_ids))
            padded = (end - start) * (prompt + completion)
            if padded > tokens and options:
                break
            options.append((cost[start] + padded + fixed, start))
        least, start = min(options)
        cost.append(least)
        cut.append(start)
    batches, end = [], len(order)
    while end:
        batches.append(order[cut[end] : end])
        end = cut[end]
    return sorted(batches, key=lambda batch: -padded_tokens(batch))


def padded_tokens(calls: Sequence[Call]) -> int:
    """Tokens of the rectangle that holds these calls."""
    return len(calls) * sum(_widths(calls))


def micro_batches(
    learned: Sequence[Trajectory], tokens: int, totals: Totals | None = None, pack_tokens: int = 0
) -> list[MicroBatch]:
    """Micro-batches of a step, role after role. totals: of all processes, where there are more.

    Rows whose advantage is exactly 0 give no gradient (there is no KL or entropy term): they count
    in every mean but are not computed.
    """
    totals = role_totals(learned) if totals is None else totals
    batches = []
    for role, temperature in sorted({(t.role, t.call.temperature) for t in learned}):
        calls = [
            t.call
            for t in learned
            if (t.role, t.call.temperature) == (role, temperature) and t.call.advantage != 0
        ]
        items, rows = totals[role]
        if pack_tokens:
            inputs = [[*c.prompt_ids, *c.completion_ids[:-1]] for c in calls]
            grouped = rectangles(inputs, tokens, min(tokens, pack_tokens))
            chosen = [([calls[i] for i in indices], packs) for indices, packs in grouped]
        else:
            chosen = [(batch, []) for batch in pack(calls, tokens)]
        for batch, packs in chosen:
            n = len(batch)
            batches.append(MicroBatch(role, temperature, batch, items, n / rows, n, packs))
    return batches


def role_totals(learned: Sequence[Trajectory]) -> Totals:
    """Role -> (loss tokens, rows), both weighted by the calls' loss weights."""
    return {
        role: (
            sum(t.call.weight * len(t.call.completion_ids) for t in learned if t.role == role),
            sum(t.call.weight for t in learned if t.role == role),
        )
        for role in {t.role for t in learned}
    }


def levelled(batches: Sequence[MicroBatch], rows: dict[str, list[int]]) -> list[MicroBatch]:
    """Micro-batches of exactly `rows` rows each, role after role, since processes go in step."""
    filled = []
    for role, counts in sorted(rows.items()):
        remaining = iter([batch for batch in batches if batch.role == role])
        for count in counts:
            batch = next(remaining, MicroBatch(role, 1.0, [], 1.0, 0.0, count))
            scale = batch.scale * count / batch.rows  # a mean over the filling too
            filled.append(replace(batch, rows=count, scale=scale))
    return filled
