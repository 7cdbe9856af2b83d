"""Batched generation: many waiting calls in, completions with their log-probs out.

What a call says depends on the recipe and not on who shares its batch; `noise.py` says how.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache, LogitsProcessorList, StoppingCriteriaList

from mxa_lite.errors import RunError
from mxa_lite.policy.noise import GumbelNoise, HalfEnded
from mxa_lite.policy.policy import Policy, out_of_memory
from mxa_lite.policy.request import Completion, Request, seed_of

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # batch sizes generated in
STEP = 16  # prompts are padded to a multiple of this, and at least to it


@dataclass
class EngineStats:
    """What the engine did since `reset`. Shapes are (rows, tokens): of the prompts that were read,
    equal ones once, and of the batches that were generated."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    out_of_memory: int = 0
    read: list[tuple[int, int]] = field(default_factory=list)
    batches: list[tuple[int, int]] = field(default_factory=list)


def bucket(size: int, sizes: Sequence[int] = ROWS) -> int:
    """The smallest allowed size that holds `size`; multiples of the largest beyond it."""
    for allowed in sizes:
        if size <= allowed:
            return allowed
    return -(-size // sizes[-1]) * sizes[-1]


@dataclass
class Rows:
    """Texts under way: ids and mask (rows, T), and the cache of all but the last token."""

    ids: torch.Tensor
    mask: torch.Tensor
    cache: Any

    def keep(self, rows: list[int]) -> None:
        """Only these rows, in this order (one may come twice), filled up to a fixed batch size."""
        filled = rows + rows[:1] * (bucket(len(rows)) - len(rows)) if rows else []
        chosen = torch.tensor(filled, dtype=torch.long, device=self.ids.device)
        self.ids, self.mask = self.ids[chosen], self.mask[chosen]
        if self.cache is not None and filled:
            self.cache.batch_select_indices(chosen)


class Engine:
    """Generates for both roles of a policy. Batches by role, sorted by length, in fixed buckets.

    generation_tokens bounds rows x (prompt + completion) of one batch, and so its KV cache.
    """

    def __init__(self, policy: Policy, max_length: int, generation_tokens: int) -> None:
        self.policy = policy
        self.max_length = max_length
        self.generation_tokens = generation_tokens
        self.stats = EngineStats()
        self.reuse = policy.loader == "plain"  # Unsloth's generate keeps its own cache
        config = policy.model.generation_config
        ends = config.eos_token_id if config is not None else None
        self.ends = [ends] if isinstance(ends, int) else list(ends or [])
        if policy.tokenizer.eos_token_id not in self.ends:
            self.ends.append(policy.tokenizer.eos_token_id)

    def reset(self) -> EngineStats:
        """The statistics so far; counting starts again."""
        done, self.stats = self.stats, EngineStats()
        return done

    def encode(
        self, messages: list[dict[str, str]], max_prompt: int, add_generation_prompt: bool = True
    ) -> tuple[list[int], bool]:
        """Prompt ids and whether the middle was cut: a long prompt keeps its system part and its
        tail. A prompt that ends with an assistant message is a reply to go on with."""
        tokenizer, template = self.policy.tokenizer, self.policy.template

        def ids_of(some: list[dict[str, str]], generation: bool) -> list[int]:
            begun = generation and some[-1]["role"] == "assistant"
            text = tokenizer.apply_chat_template(
                some,
                tokenize=False,
                add_generation_prompt=generation and not begun,
                continue_final_message=begun,
                **template,
            )
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])

        ids = ids_of(messages, add_generation_prompt)
        if len(ids) <= max_prompt:
            return ids, False
        system = messages[0]["role"] == "system"
        head = min(len(ids_of(messages[:1], False)) if system else 0, max_prompt // 2)
        return ids[:head] + ids[len(ids) - (max_prompt - head) :], True

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in their order."""
        if not requests:
            return []
        prompts = [self.encode(r.messages, self.max_length - r.max_tokens) for r in requests]
        done: list[Completion | None] = [None] * len(requests)
        self.policy.generating()
        for role in dict.fromkeys(r.role for r in requests):
            self.policy.activate(role)
            mine = [i for i, r in enumerate(requests) if r.role == role]
            for batch in self._batches(mine, requests, prompts):
                for i, completion in self._attempt(batch, requests, prompts):
                    done[i] = completion
        return [completion for completion in done if completion is not None]

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
            mine = [i for i in mine if i not in set(same[:rows])]

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
        noise = GumbelNoise(
            [seed_of(requests[i].key) for i in batch],
            [requests[i].temperature for i in batch],
            self.policy.device,
        )
        limit = requests[batch[0]].max_tokens
        rows = self._read([prompts[i][0] for i in batch], limit)
        tokens: dict[int, list[int]] = {i: [] for i in batch}
        logps: dict[int, list[float]] = {i: [] for i in batch}
        left = list(batch)
        while left:
            new, seen = self._go_on(rows, noise, len(left), limit - len(tokens[left[0]]))
            for row, i in enumerate(left):
                end = next((t for t, x in enumerate(new[row]) if x in self.ends), len(new[row]))
                tokens[i] += new[row][: end + 1]
                logps[i] += seen[row][: end + 1]
            going = [
                row
                for row, i in enumerate(left)
                if tokens[i][-1] not in self.ends and len(tokens[i]) < limit
            ]
            noise.keep(going)
            rows.keep(going)
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
        """The batch's rows, padded left, all but their last token in the cache; `new` follow."""
        unique = list(dict.fromkeys(map(tuple, prompts)))
        count, width = bucket(len(unique)), self._padded(max(map(len, unique)), new)
        ids = torch.full((count, width), self.policy.tokenizer.pad_token_id)
        mask = torch.zeros(count, width, dtype=torch.long)
        for row in range(count):  # spare rows repeat the first
            prompt = unique[row if row < len(unique) else 0]
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        ids, mask, cache = ids.to(self.policy.device), mask.to(self.policy.device), None
        if self.reuse:
            cache = DynamicCache(config=self.policy.model.config)
            with self.policy.all_threads():
                self.policy.model(
                    input_ids=ids[:, :-1],
                    attention_mask=mask[:, :-1],
                    position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, :-1],
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
        self.stats.read.append((count, width))
        rows = Rows(ids, mask, cache)
        rows.keep([unique.index(tuple(prompt)) for prompt in prompts])
        return rows

    def _go_on(
        self, rows: Rows, noise: GumbelNoise, count: int, limit: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """New tokens and log-probs of the first `count` rows, until enough of them have ended."""
        total, width = rows.ids.shape
        noise.start(total)
        stop = [HalfEnded(count, self.ends)] if self.reuse else []
        out = self.policy.model.generate(
            input_ids=rows.ids,
            attention_mask=rows.mask,
            past_key_values=rows.cache,
            max_new_tokens=limit,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
            eos_token_id=self.ends,
            pad_token_id=self.policy.tokenizer.pad_token_id,
            logits_processor=LogitsProcessorList([noise]),
            stopping_criteria=StoppingCriteriaList(stop),
            return_dict_in_generate=True,
        )
        self.stats.batches.append((total, width))
        fresh = out.sequences[:, width:]
        rows.ids, rows.cache = out.sequences, out.past_key_values if self.reuse else None
        rows.mask = torch.cat([rows.mask, torch.ones_like(fresh)], 1)
        return fresh[:count].tolist(), torch.stack(noise.logps, 1).tolist()
