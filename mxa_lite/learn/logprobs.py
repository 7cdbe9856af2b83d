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

from mxa_lite.learn.prefixes import Packs, forest

PIECE = 1 << 25  # logits computed at once; 128 MiB in float32
# What some families do to the logits after the head; theirs are taken whole.
AFTER_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling")
WINDOWS = ("sliding_window", "window_size")  # tokens back that a layer attends to
PACK = 2  # tokens of a pack per width of the model: attention then costs a third of the rest


def token_logps(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    keep: int,
    temperature: float,
    packs: Packs = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs, with gradient, and entropies, without: (rows, keep) each, of the last `keep`
    tokens of `input_ids` (rows, T), at a temperature.

    packs: of rows whose shared prefixes are computed once (`learn.prefixes`); none: whole rows.
    """
    base = getattr(model, "module", model).get_base_model()
    head = base.get_output_embeddings()
    if packs:
        inputs, states, targets, places = forest(input_ids, attention_mask, keep, packs)
        if base.config._attn_implementation == "eager":  # which adds its mask to the scores
            unseen = (~inputs["attention_mask"]).to(base.dtype)
            inputs["attention_mask"] = unseen * torch.finfo(base.dtype).min
    else:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        inputs["position_ids"] = (attention_mask.cumsum(1) - 1).clamp(min=0)
        indices = torch.arange(input_ids.numel(), device=input_ids.device).view_as(input_ids)
        states, targets = indices[:, -keep - 1 : -1].flatten(), input_ids[:, -keep:].flatten()
        places = torch.arange(len(targets), device=input_ids.device).view(-1, keep)

    vocabulary = head.weight.shape[0]
    step = max(1, PIECE // vocabulary)
    at_once = len(targets) <= step or any(getattr(base.config, name, None) for name in AFTER_HEAD)
    with _head_on(head, states, at_once):
        out = model(**inputs, use_cache=False).logits[0]

    def piece(hidden: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _scored(head(hidden), ids, temperature)

    if at_once:
        logps, entropies = _scored(out, targets, temperature)
    else:
        pieces = [
            checkpoint(piece, hidden, ids, use_reentrant=False)
            for hidden, ids in zip(out.split(step), targets.split(step), strict=True)
        ]
        logps, entropies = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    # By index_select: the backward pass of [...] adds what threads bring in an order of chance.
    logps, entropies = (x.index_select(0, places.flatten()) for x in (logps, entropies))
    return logps.view_as(places), entropies.view_as(places)


def pack_tokens_of(model: Any, longest: int) -> tuple[int, str]:
    """(tokens of a pack, reason): 0 where the model cannot compute rows up to `longest` as trees.

    Tried out on made-up rows, since a model may take the mask and not obey it: the log-probs must
    be those of whole rows, from which those after another beginning are far.
    """
    config = model.get_base_model().config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    windows = [getattr(config, name, None) or longest for name in WINDOWS]
    if kinds - {"sliding_attention"} or min(windows) < longest:
        return 0, f"whole rows: {config.model_type} does not attend to all tokens before one"
    start, first, second, other_start = torch.arange(1, 29, device=model.device).split((6, 8, 8, 6))
    pairs = ((start, first), (start, second), (other_start, second))
    rows = torch.stack([torch.cat(pair) for pair in pairs])
    mask = torch.ones_like(rows)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            plain, _ = token_logps(model, rows, mask, 8, 1.0)
            shared, _ = token_logps(model, rows[:2], mask[:2], 8, 1.0, [(2, 20)])
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return 0, f"whole rows: {config.model_type} takes no mask of trees ({error!r:.80})"
    finally:
        model.train(training)
    if not (shared - plain[:2]).abs().mean() < 0.1 * (plain[2] - plain[1]).abs().mean():
        return 0, f"whole rows: {config.model_type} gives trees other log-probs"
    pack = PACK * config.hidden_size
    return pack, f"prompts are computed once, in packs of {pack} tokens"


@contextmanager
def _head_on(head: torch.nn.Module, states: torch.Tensor, with_head: bool) -> Iterator[None]:
    """Meanwhile the model's logits are those of `states` alone (1, n, vocabulary), or unless
    `with_head` their hidden states, so that its own forward, and what wraps it, runs as always.

    states (n,): indices into all tokens.
    """
    forward = head.forward

    def of_states(hidden: torch.Tensor) -> torch.Tensor:
        selected = hidden.flatten(0, 1).index_select(0, states)[None]
        return forward(selected) if with_head else selected

    head.forward = of_states
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
