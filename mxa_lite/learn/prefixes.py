"""Rows that begin alike, computed once: a micro-batch as packs of prefix trees.

The calls of one question share most of their prompts, and a token's state depends on nothing but
the tokens before it in its row. So each shared beginning is computed once: the rows become a tree,
written down depth-first, and many rows fit one sequence, a pack.

    rows    a b c          index  0 1 2 3 4
            a b d          token  a b c d e
            a e            depth  0 1 2 2 1    position ids
                           end    5 4 3 4 5    where the subtree below a token ends

Depth-first, what stands below token j is exactly the indices j to end(j) - 1. Token i must see the
tokens of its own row up to itself, which are itself and its ancestors: the j with j <= i < end(j).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, islice

import torch

Packs = Sequence[tuple[int, int]]  # (rows, tokens) of each


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first tokens are the same."""
    length = min(len(a), len(b))
    return next((n for n in range(length) if a[n] != b[n]), length)


def packed(rows: Sequence[list[int]], limit: int) -> list[tuple[list[int], int]]:
    """(indices of rows, tokens) of packs of at most `limit` tokens (one row always fits), the
    largest first. Rows in the order of their tokens, which is depth-first, fill pack after pack.
    """
    packs: list[tuple[list[int], int]] = []
    for row in sorted(range(len(rows)), key=rows.__getitem__):
        pack, tokens = packs[-1] if packs else ([], limit)
        added = len(rows[row]) - (common(rows[pack[-1]], rows[row]) if pack else 0)
        if tokens + added > limit:
            packs.append(([row], len(rows[row])))
        else:
            packs[-1] = ([*pack, row], tokens + added)
    return sorted(packs, key=lambda pack: -pack[1])


def rectangles(
    rows: Sequence[list[int]], tokens: int, limit: int
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """(indices of rows, their packs) of each micro-batch of at most `tokens` tokens, padding
    included, the largest first; packs as in `packed`."""
    batches: list[tuple[list[int], list[tuple[int, int]]]] = []
    for indices, size in packed(rows, limit):
        if not batches or (len(batches[-1][1]) + 1) * batches[-1][1][0][1] > tokens:
            batches.append(([], []))
        batches[-1][0].extend(indices)
        batches[-1][1].append((len(indices), size))
    return batches


def visible(end: torch.Tensor) -> torch.Tensor:
    """(packs, 1, width, width): whether token i (row) sees token j (column); end (packs, width)."""
    j = torch.arange(end.shape[1], device=end.device)
    i = j[:, None]
    return ((j <= i) & (i < end[:, None, :]))[:, None]


def forest(
    ids: torch.Tensor, mask: torch.Tensor, keep: int, packs: Packs
) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
    """(inputs, states, targets, places) of rows (rows, T), prompts padded left and the last `keep`
    right, in the order of `packed`. Rows beyond the packs are filling.

    inputs: what the model reads, (packs, width), padded with tokens that see themselves; a row's
    last token predicts nothing and is left out. states, targets (n,): the token, an index into all
    of them, from whose state each different completion token is predicted. places (rows, keep):
    which of these n a completion token is.
    """
    numbered = iter(enumerate(zip(ids.tolist(), mask.tolist(), strict=True)))
    width = max(size for _, size in packs)
    table: list[list[list[int]]] = []
    places = [[0] * keep for _ in ids]
    numbers: dict[tuple[int, int], int] = {}  # (state, target) -> which of the n
    for count, size in packs:
        tokens: list[int] = []
        depth: list[int] = []
        end = [size] * size + list(range(size + 1, width + 1))
        before: list[int] = []
        path: list[int] = []  # where the tokens of the row before stand
        for index, (padded, real) in islice(numbered, count):
            row = list(compress(padded, real))
            completion = row[-sum(real[-keep:]) :]
            shared = common(before, row[:-1])
            for place in path[shared:]:
                end[place] = len(tokens)
            path[shared:] = range(len(tokens), len(tokens) + len(row) - 1 - shared)
            tokens += row[shared:-1]
            depth += range(shared, len(row) - 1)
            before = row[:-1]
            states = [len(table) * width + place for place in path[-len(completion) :]]
            for k, pair in enumerate(zip(states, completion, strict=True)):
                places[index][k] = numbers.setdefault(pair, len(numbers))
        table.append([tokens + [0] * (width - size), depth + [0] * (width - size), end])
    flat, depths, ends = torch.tensor(table, device=ids.device).unbind(1)
    inputs = {"input_ids": flat, "attention_mask": visible(ends), "position_ids": depths}
    where, targets = torch.tensor(list(numbers), device=ids.device).unbind(1)
    return inputs, where, targets, torch.tensor(places, device=ids.device)
