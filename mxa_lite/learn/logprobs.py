"""Log-probs of completions whose memory does not grow with the vocabulary.

The logits of a micro-batch are by far its largest tensor: 2,048 tokens of a vocabulary of 150,000
take 1.2 GB, and several copies of it. Only the hidden states are kept here; the head and its
softmax are computed over a piece of the tokens at a time, and once more in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

PIECE = 1 << 25  # logits computed at once; 128 MiB in float32
# What some families do to the logits after the head; theirs are taken whole.
AFTER_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def token_logps(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, kept: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs, with gradient, and entropies, without: (rows, kept) each, of the last `kept`
    tokens of `input_ids` (rows, T), at a temperature."""
    base = getattr(model, "module", model).get_base_model()
    head = base.get_output_embeddings()
    rows, vocabulary = len(input_ids), head.weight.shape[0]
    step = max(1, PIECE // vocabulary)
    whole = rows * kept <= step or any(getattr(base.config, name, None) for name in AFTER_HEAD)

    def forward() -> torch.Tensor:
        out = model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=kept + 1,
            use_cache=False,
        )
        return out.logits[:, :-1]

    targets = input_ids[:, -kept:]
    if whole:
        return _scored(forward(), targets, temperature)

    def piece(hidden: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _scored(head(hidden), ids, temperature)

    with _without(head):
        hidden = forward().flatten(0, 1)
    pieces = [
        checkpoint(piece, part, ids, use_reentrant=False)
        for part, ids in zip(hidden.split(step), targets.flatten().split(step), strict=True)
    ]
    logps, entropies = (torch.cat(parts).view(rows, kept) for parts in zip(*pieces, strict=True))
    return logps, entropies


@contextmanager
def _without(head: torch.nn.Module) -> Iterator[None]:
    """Meanwhile the model's logits are its hidden states, so that its own forward, and what wraps
    it, runs as always."""
    forward, head.forward = head.forward, lambda hidden: hidden
    try:
        yield
    finally:
        head.forward = forward


def _scored(
    logits: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropies of targets (...) under logits (..., vocabulary)."""
    logits = logits.float() / temperature
    norm = logits.logsumexp(-1)
    logps = logits.gather(-1, targets[..., None])[..., 0] - norm
    with torch.no_grad():
        entropies = norm - (logits.softmax(-1) * logits).sum(-1)
    return logps, entropies
