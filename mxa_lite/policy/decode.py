"""Decoding single tokens: a cache written in place, and the step of models built like Llama.

Transformers' cache concatenates all keys and values at every token, and its modules cost more than
the arithmetic of a small model: 2,408 kernels a token for four layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Attention with rotary positions, then a gated MLP, each after an RMS norm and added up.
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3")
GROWTH = 16  # tokens by which the buffers of a cache grow
FIXED_ROPE = ("default", "linear", "llama3")  # the same at every length


class InPlaceLayer(DynamicLayer):
    """Keys and values in buffers (rows, heads, capacity, size), of which `length` are written.

    They grow by a few tokens at a time, because whole buffers are read twice as fast as the first
    part of each row of larger ones. What is not written yet is zero: of a masked NaN sums are NaN.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.buffers = [keys, values]
        self._written(keys.shape[2])

    def _written(self, length: int) -> None:
        self.length = length
        self.keys, self.values = (buffer[:, :, :length] for buffer in self.buffers)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append states (rows, heads, tokens, size); all keys and values so far."""
        start, end = self.length, self.length + key_states.shape[2]
        if (more := end - self.buffers[0].shape[2]) > 0:
            rows, heads, _, size = self.buffers[0].shape
            zeros = self.buffers[0].new_zeros(rows, heads, -(-more // GROWTH) * GROWTH, size)
            self.buffers = [torch.cat([buffer, zeros], 2) for buffer in self.buffers]
        self._written(end)
        self.keys[:, :, start:] = key_states
        self.values[:, :, start:] = value_states
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Only these rows, in this order."""
        self.buffers = [buffer[indices] for buffer in self.buffers]
        self._written(self.length)


def is_plain(cache: DynamicCache) -> bool:
    """Whether every layer keeps all its keys and values: no sliding window, no recurrent state."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def repeated(cache: DynamicCache, tokens: int, rows: int) -> DynamicCache:
    """The last tokens of the cache of a single row, for `rows` equal ones."""
    copies = DynamicCache()
    for number, layer in enumerate(cache.layers):
        states = (s[:, :, -tokens:].expand(rows, -1, -1, -1) for s in (layer.keys, layer.values))
        copies.update(*states, number)
    return copies


def can_drop_rows(cache: DynamicCache) -> bool:
    """Whether rows can leave the cache: not those of a layer with a recurrent state."""
    return all(hasattr(layer, "batch_select_indices") for layer in cache.layers)


def in_place(
    parts: list[tuple[DynamicCache, list[int], list[int]]], rows: int, width: int, head: int = 0
) -> DynamicCache:
    """One cache of `rows` rows from caches of fewer tokens: the first `head` stay the first, the
    others become the last of `width`.

    parts: (cache, which of its rows, the rows here that they become).
    """
    first = parts[0][0]
    cache = DynamicCache()
    for number, layer in enumerate(first.layers):
        _, heads, _, size = layer.keys.shape
        buffers = []
        for name in ("keys", "values"):
            buffer = layer.keys.new_zeros(rows, heads, width, size)
            for source, source_rows, target_rows in parts:
                states = getattr(source.layers[number], name)
                states = states[source_rows]
                buffer[target_rows, :, :head] = states[:, :, :head]
                buffer[target_rows, :, width - states.shape[2] + head :] = states[:, :, head:]
            buffers.append(buffer)
        cache.layers.append(InPlaceLayer(*buffers))
    return cache


@dataclass
class Block:
    """The weights of one layer; equal inputs are multiplied with one matrix."""

    norm: torch.Tensor
    qkv: tuple[torch.Tensor, torch.Tensor | None]
    out: Any
    norm_mlp: torch.Tensor
    gate_up: tuple[torch.Tensor, torch.Tensor | None]
    down: Any
    head_norms: tuple[torch.Tensor, torch.Tensor] | None  # Qwen3's, of queries and keys


def _fused(*linears: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One weight and bias in place of several; the modules keep views of it."""
    weight = torch.cat([linear.weight.data for linear in linears])
    start = 0
    for linear in linears:
        rows = linear.weight.shape[0]
        linear.weight.data = weight[start : start + rows]
        start += rows
    has_bias = linears[0].bias is not None
    return weight, torch.cat([linear.bias.data for linear in linears]) if has_bias else None


class Decoder:
    """One token for each row of a batch, with the weights of a model built like Llama.

    Its results differ from the model's own forward by rounding only.
    """

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether the model is built so that `step` computes it."""
        config = model.config
        return (
            config.model_type in LLAMA_LIKE
            and config.hidden_act == "silu"
            and config.rope_parameters["rope_type"] in FIXED_ROPE
            and is_plain(DynamicCache(config=config))
        )

    def __init__(self, model: Any, max_length: int) -> None:
        config = model.config
        self.eps = config.rms_norm_eps
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.size = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.blocks = []
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            norms = None
            if hasattr(attention, "q_norm"):
                norms = attention.q_norm.weight, attention.k_norm.weight
            self.blocks.append(
                Block(
                    layer.input_layernorm.weight,
                    _fused(attention.q_proj, attention.k_proj, attention.v_proj),
                    attention.o_proj,
                    layer.post_attention_layernorm.weight,
                    _fused(mlp.gate_proj, mlp.up_proj),
                    mlp.down_proj,
                    norms,
                )
            )
        self.dtype = model.dtype
        self.embedding, self.norm = model.model.embed_tokens.weight, model.model.norm.weight
        self.head = model.lm_head
        positions = torch.arange(max_length, device=self.norm.device)[None]
        cos, sin = model.model.rotary_emb(self.norm, positions)
        half = self.size // 2
        self.cos = cos[0, :, None]
        self.sin = torch.cat([-sin[0, :, None, :half], sin[0, :, None, half:]], -1)

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, weight.shape, weight, self.eps)

    def step(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Logits (rows, vocabulary) after the tokens `ids` (rows,), which join the cache.

        positions: (rows,). mask: (rows, 1, 1, any width), added to scores: 0 where a token is seen,
        the newest among them, else -inf.
        """
        rows, half = len(ids), self.size // 2
        cos, sin = self.cos[positions], self.sin[positions]
        x = functional.embedding(ids, self.embedding)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            states = functional.linear(self._normed(x, block.norm), *block.qkv)
            heads = states.view(rows, -1, self.size)
            turned, values = heads[:, : -self.groups], heads[:, -self.groups :]
            if block.head_norms:
                queries, keys = turned[:, : self.heads], turned[:, self.heads :]
                normed = [
                    self._normed(x, weight)
                    for x, weight in zip((queries, keys), block.head_norms, strict=True)
                ]
                turned = torch.cat(normed, 1)
            turned = turned * cos + turned.roll(half, -1) * sin
            layer.update(turned[:, self.heads :, None], values[:, :, None])
            queries = turned[:, : self.heads].view(rows, self.groups, -1, self.size)
            all_keys, all_values = layer.buffers
            scores = (queries * self.size**-0.5) @ all_keys.transpose(2, 3)
            weights = (scores + mask[..., : all_keys.shape[2]]).softmax(-1)
            x = x + block.out((weights @ all_values).view(rows, -1))
            gate, up = functional.linear(self._normed(x, block.norm_mlp), *block.gate_up).chunk(
                2, -1
            )
            x = x + block.down(functional.silu(gate) * up)
        logits: torch.Tensor = self.head(self._normed(x, self.norm))
        return logits
