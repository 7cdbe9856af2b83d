"""Batched generation: many waiting calls in, completions with their log-probs out.

What a call says depends on the recipe and not on who shares its batch; `noise.py` says how.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch.nn import functional
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
)

from mxa_lite.errors import RunError
from mxa_lite.policy.decode import (
    GROWTH,
    Decoder,
    can_drop_rows,
    in_place,
    is_plain,
    repeated,
)
from mxa_lite.policy.noise import Draws, HalfEnded
from mxa_lite.policy.policy import Policy, out_of_memory
from mxa_lite.policy.request import Completion, Request, seed_of

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # batch sizes generated in
READ = 256  # tokens of padding that cost as much as a forward pass of its own
STEP = 16  # prompts are padded to a multiple of this, and at least to it
T = TypeVar("T")


@dataclass
class EngineStats:
    """What the engine did since `reset`. Shapes are (rows, tokens): of the prompts that were read,
    equal ones once, and of the batches that were generated. row_steps: tokens computed in these,
    those of ended rows among them, and of spare ones under Unsloth."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    row_steps: int = 0
    out_of_memory: int = 0
    read: list[tuple[int, int]] = field(default_factory=list)
    batches: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Rows:
    """Texts under way: ids and mask (rows, T), and the cache of all but the last token, if any."""

    ids: torch.Tensor
    mask: torch.Tensor
    cache: Any

    def keep(self, rows: list[int]) -> None:
        """Only these rows, in this order; one may come twice."""
        chosen = torch.tensor(rows, dtype=torch.long, device=self.ids.device)
        self.ids, self.mask = self.ids[chosen], self.mask[chosen]
        if self.cache is not None and rows:
            self.cache.batch_select_indices(chosen)


class Engine:
    """Generates for both roles of a policy. Batches by role, sorted by length.

    generation_tokens bounds rows x (prompt + completion) of one batch, and so its KV cache.
    """

    def __init__(self, policy: Policy, max_length: int, generation_tokens: int) -> None:
        self.policy = policy
        self.max_length = max_length
        self.generation_tokens = generation_tokens
        self.stats = EngineStats()
        self.note = ""
        self.reuse = policy.loader == "plain"  # Unsloth's generate keeps its own cache
        self.ends = policy.ends
        self._speaker: tuple[Any, Decoder | None]

    def reset(self) -> EngineStats:
        """The statistics so far; counting starts again."""
        done, self.stats = self.stats, EngineStats()
        return done

    def encode(
        self, messages: list[dict[str, str]], max_prompt: int, add_generation_prompt: bool = True
    ) -> tuple[list[int], bool]:
        """Prompt ids, at most `max_prompt`, and whether text was cut, as `Template.encode` says."""
        return self.policy.template.encode(messages, max_prompt, add_generation_prompt)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in their order; equal greedy ones are made once."""
        if not requests:
            return []
        prompts = [self.encode(r.messages, self.max_length - r.max_tokens) for r in requests]
        equal: dict[Any, list[int]] = {}
        for i, r in enumerate(requests):
            key = (r.role, r.max_tokens, tuple(prompts[i][0])) if r.temperature == 0 else i
            equal.setdefault(key, []).append(i)
        done: dict[int, Completion] = {}
        self.policy.generating()
        for role in dict.fromkeys(r.role for r in requests):
            self._speaker = self.policy.speaker(role)
            mine = [first for first, *_ in equal.values() if requests[first].role == role]
            for batch in self._batches(mine, requests, prompts):
                done.update(self._attempt(batch, requests, prompts))
        done |= {i: done[first] for first, *others in equal.values() for i in others}
        return [done[i] for i in range(len(requests))]

    def _batches(
        self, mine: list[int], requests: Sequence[Request], prompts: list[tuple[list[int], bool]]
    ) -> Iterator[list[int]]:
        """Indices in batches of similar prompt length, each within the token bound."""
        mine = sorted(mine, key=lambda i: (-requests[i].max_tokens, -len(prompts[i][0]), i))
        while mine:
            first = mine[0]
            new = requests[first].max_tokens
            tokens = self._padded(len(prompts[first][0]), new) + new
            most = max(1, self.generation_tokens // tokens)
            rows = max((r for r in ROWS if r <= most), default=1)
            same = [i for i in mine if requests[i].max_tokens == requests[first].max_tokens]
            yield same[:rows]
            taken = set(same[:rows])
            mine = [i for i in mine if i not in taken]

    def _filled(self, rows: list[T]) -> list[T]:
        """With copies of the first up to one of ROWS, where Unsloth has a CUDA graph for each."""
        size = len(rows) if self.reuse else next(size for size in ROWS if size >= len(rows))
        return rows + rows[:1] * (size - len(rows))

    def _padded(self, length: int, new: int) -> int:
        """Width of a prompt's batch, which leaves room for `new` tokens within `max_length`."""
        return min(-(-length // STEP) * STEP, max(self.max_length - new, length))

    def _attempt(
        self, batch: list[int], requests: Sequence[Request], prompts: list[tuple[list[int], bool]]
    ) -> list[tuple[int, Completion]]:
        """A batch; when memory runs out, its halves."""
        try:
            return self._batch(batch, requests, prompts)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                raise RunError(
                    "out of memory in generating a single completion; lower"
                    " rollout.max_completion_tokens or model.max_length"
                ) from None
        torch.cuda.empty_cache()
        self.stats.out_of_memory += 1
        half = len(batch) // 2
        return self._attempt(batch[:half], requests, prompts) + self._attempt(
            batch[half:], requests, prompts
        )

    @torch.inference_mode()
    def _batch(
        self, batch: list[int], requests: Sequence[Request], prompts: list[tuple[list[int], bool]]
    ) -> list[tuple[int, Completion]]:
        """Generate one batch. Equal prompts are read once; whenever half of the rows have ended,
        the others go on without them."""
        limit = requests[batch[0]].max_tokens
        draws = Draws(
            [seed_of(requests[i].key) for i in batch],
            [requests[i].temperature for i in batch],
            limit,
            self.policy.device,
        )
        rows = self._read([prompts[i][0] for i in batch], limit)
        tokens: dict[int, list[int]] = {i: [] for i in batch}
        logps: dict[int, list[float]] = {i: [] for i in batch}
        left = list(batch)
        while left:
            new, seen = self._go_on(rows, draws, len(left), limit - len(tokens[left[0]]))
            for row, i in enumerate(left):
                end = next((t for t, x in enumerate(new[row]) if x in self.ends), len(new[row]))
                tokens[i] += new[row][: end + 1]
                logps[i] += seen[row][: end + 1]
            going = [
                row
                for row, i in enumerate(left)
                if tokens[i][-1] not in self.ends and len(tokens[i]) < limit
            ]
            draws.keep(going)
            rows.keep(self._filled(going))
            left = [left[row] for row in going]
        self.stats.prompt_tokens += sum(len(prompts[i][0]) for i in batch)
        self.stats.completion_tokens += sum(map(len, tokens.values()))
        decode = self.policy.tokenizer.decode
        return [
            (
                i,
                Completion(
                    text=decode(tokens[i], skip_special_tokens=True),
                    prompt_ids=prompts[i][0],
                    completion_ids=tokens[i],
                    logps=logps[i],
                    truncated=tokens[i][-1] not in self.ends,
                    prompt_cut=prompts[i][1],
                ),
            )
            for i in batch
        ]

    def _read(self, prompts: list[list[int]], new: int) -> Rows:
        """The batch's rows, padded left, all but their last token in the cache; `new` follow.

        Equal prompts are read once, and short ones apart from long ones.
        """
        filled = self._filled(prompts)
        count, width = len(filled), self._padded(max(map(len, prompts)), new)
        ids, mask = self.padded_left(filled, width)
        model, _ = self._speaker
        layout = DynamicCache(config=model.config)
        unique = list(dict.fromkeys(map(tuple, prompts)))
        if not self.reuse or not can_drop_rows(layout):
            return Rows(ids, mask, None)
        if not is_plain(layout):  # with a sliding window texts of one length must stay together
            longest = max(unique, key=len)
            unique = [longest, *(prompt for prompt in unique if prompt is not longest)]
            cache = self._cached(model, unique, new)
            place = {prompt: row for row, prompt in enumerate(unique)}
            cache.batch_select_indices(
                torch.tensor([place[tuple(p)] for p in filled]).to(ids.device)
            )
            return Rows(ids, mask, cache)
        # A beginning that all share is read once; it then stands before the padding.
        head = beginning(unique)
        shared = self._cached(model, [unique[0][: head + 1]], new) if head else None
        if head:
            ids[:, :head], mask[:, :head] = ids.new_tensor(prompts[0][:head]), 1
            for row, prompt in enumerate(filled):
                mask[row, head : width - (len(prompt) - head)] = 0
        parts = []
        for group in similar(unique):
            place = {prompt: row for row, prompt in enumerate(group)}
            target = [row for row, prompt in enumerate(filled) if tuple(prompt) in place]
            taken = [place[tuple(filled[row])] for row in target]
            rests = [prompt[head:] for prompt in group]
            parts.append((self._cached(model, rests, new, shared, head), taken, target))
        return Rows(ids, mask, in_place(parts, count, width - 1, head))

    def padded_left(
        self, prompts: Sequence[Sequence[int]], width: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask (prompts, width)."""
        ids = torch.full((len(prompts), width), self.policy.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        return ids.to(self.policy.device), mask.to(self.policy.device)

    def _cached(
        self,
        model: Any,
        prompts: list[tuple[int, ...]],
        new: int,
        shared: DynamicCache | None = None,
        head: int = 0,
    ) -> DynamicCache:
        """The cache of all but the last token of these prompts, the longest first. shared: a cache
        whose last `head` tokens stand before each of them."""
        count, width = len(prompts), self._padded(head + len(prompts[0]), new) - head
        ids, mask = self.padded_left(prompts, width)
        mask = functional.pad(mask, (head, 0), value=1)
        cache = repeated(shared, head, count) if shared else DynamicCache(config=model.config)
        with self.policy.all_threads():
            model(
                input_ids=ids[:, :-1],
                attention_mask=mask[:, :-1],
                position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, head:-1],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self.stats.read.append((count, width))
        return cache

    def _go_on(
        self, rows: Rows, draws: Draws, count: int, limit: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """New tokens and log-probs of the first `count` rows, until enough of them have ended."""
        total, width = rows.ids.shape
        draws.start(total)
        stop = HalfEnded(count, self.ends, self.policy.device)
        model, decoder = self._speaker
        if decoder is not None and rows.cache is not None:
            wide = total >= self.policy.wide
            with self.policy.all_threads() if wide else contextlib.nullcontext():
                fresh = _decoded(decoder, rows, draws, stop, limit)
        else:
            out = model.generate(
                input_ids=rows.ids,
                attention_mask=rows.mask,
                past_key_values=rows.cache,
                generation_config=GenerationConfig(
                    max_new_tokens=limit,
                    do_sample=False,  # `draws` has drawn
                    eos_token_id=self.ends,
                    pad_token_id=self.policy.tokenizer.pad_token_id,
                ),
                logits_processor=LogitsProcessorList([draws]),
                stopping_criteria=StoppingCriteriaList([stop]),
                return_dict_in_generate=True,
            )
            fresh = out.sequences[:, width:]
        self.stats.batches.append((total, width))
        self.stats.row_steps += total * fresh.shape[1]
        rows.ids = torch.cat([rows.ids, fresh], 1)
        rows.mask = torch.cat([rows.mask, torch.ones_like(fresh)], 1)
        logps = torch.stack(draws.logps, 1)
        if bool(logps.isnan().any()):  # asked once a batch: at each token a GPU would wait for it
            raise RunError("the model's logits are no numbers; try model.dtype=float32")
        return fresh[:count].tolist(), logps.tolist()


def beginning(prompts: list[tuple[int, ...]]) -> int:
    """How many tokens at the beginning of all prompts are worth reading apart: a multiple of STEP,
    so that padding stays as it is, or 0."""
    first, last = min(prompts), max(prompts)
    same = next((t for t, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    head = same // STEP * STEP
    return head if head * (len(prompts) - 1) > READ else 0


def similar(prompts: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Prompts in groups to be read apart, the longest first; a new one begins where that saves the
    shorter ones much padding."""
    ordered = sorted(prompts, key=len, reverse=True)
    groups: list[list[tuple[int, ...]]] = []
    for left, prompt in zip(range(len(ordered), 0, -1), ordered, strict=True):
        width = len(groups[-1][0]) if groups else 0
        saved = left * (width - len(prompt))
        if not groups or saved > max(READ, left * width * 0.2):
            groups.append([])
        groups[-1].append(prompt)
    return groups


def _decoded(
    decoder: Decoder, rows: Rows, draws: Draws, stop: HalfEnded, limit: int
) -> torch.Tensor:
    """(rows, T) tokens after those of `rows`, T at most `limit`."""
    width = rows.ids.shape[1]
    seen = functional.pad(rows.mask, (0, limit + GROWTH))[:, None, None].to(decoder.dtype)
    mask = torch.where(seen == 0, -torch.inf, 0.0)
    newest, positions = rows.ids[:, -1], rows.mask.sum(1) - 1
    tokens: list[torch.Tensor] = []
    while len(tokens) < limit:
        newest = draws.draw(decoder.step(newest, positions, mask, rows.cache))
        mask[..., width + len(tokens)] = 0
        tokens.append(newest)
        positions = positions + 1
        if stop.stop(newest):
            break
    return torch.stack(tokens, 1)
