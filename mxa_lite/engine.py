"""Batched generation: many waiting calls in, completions with their log-probs out.

Every call draws from its own generator, seeded by its key, so what a call says depends on the
recipe and not on who shares its batch: Gumbel noise is added per row inside stock `generate`, which
then takes the largest (https://en.wikipedia.org/wiki/Gumbel_distribution#Gumbel_reparametrization_tricks).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from mxa_lite.models import Policy

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # batch sizes generated in
STEP = 16  # prompts are padded to a multiple of this, and at least to it
NOISE = 1 << 14  # random numbers drawn at once per row, at most


@dataclass(frozen=True)
class Request:
    """One call to make. key: anything printable; equal keys draw equal noise."""

    messages: list[dict[str, str]]
    role: str
    key: tuple[Any, ...]
    temperature: float
    max_tokens: int


@dataclass
class Completion:
    """One call made. logps: (T,) log-prob of each completion token at the request's temperature
    (at 1 for greedy ones). completion_ids hold the end token unless `truncated`."""

    text: str
    prompt_ids: list[int]
    completion_ids: list[int]
    logps: list[float]
    truncated: bool
    prompt_cut: bool


@dataclass
class EngineStats:
    """What the engine did since `reset`; batch shapes are (rows, prompt length)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    out_of_memory: int = 0
    batches: list[tuple[int, int]] = field(default_factory=list)


def seed_of(key: tuple[Any, ...]) -> int:
    """A 63-bit seed from a key, the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


def bucket(size: int, sizes: Sequence[int] = ROWS) -> int:
    """The smallest allowed size that holds `size`; multiples of the largest beyond it."""
    for allowed in sizes:
        if size <= allowed:
            return allowed
    return -(-size // sizes[-1]) * sizes[-1]


class GumbelNoise(LogitsProcessor):
    """Temperature and per-row noise, then the log-prob of the token that argmax will take."""

    def __init__(self, seeds: list[int], temperatures: list[float], device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.scale = torch.tensor([t or 1.0 for t in temperatures], device=device)[:, None]
        self.greedy = torch.tensor([t == 0 for t in temperatures], device=device)[:, None]
        self.logps: list[torch.Tensor] = []
        self.chunk = torch.empty(len(seeds), 0, 0)
        self.used = 0

    def _noise(self, vocabulary: int, device: torch.device) -> torch.Tensor:
        """(rows, vocabulary) uniform numbers; drawn in chunks whose size the vocabulary decides."""
        if self.used == self.chunk.shape[1]:
            steps = max(1, NOISE // vocabulary)
            self.chunk = torch.stack(
                [torch.rand(steps, vocabulary, generator=g, device=device) for g in self.generators]
            )
            self.used = 0
        self.used += 1
        return self.chunk[:, self.used - 1]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scaled = scores.float() / self.scale
        uniform = self._noise(scores.shape[-1], scores.device).clamp_min_(1e-20)
        gumbel = -torch.log(-torch.log(uniform).clamp_max_(-1e-20))
        noisy = torch.where(self.greedy, scaled, scaled + gumbel)
        chosen = noisy.argmax(-1, keepdim=True)
        self.logps.append((scaled.gather(-1, chosen) - scaled.logsumexp(-1, keepdim=True))[:, 0])
        return noisy


class Engine:
    """Generates for both roles of a policy. Batches by role, sorted by length, in fixed buckets.

    generation_tokens bounds rows x (prompt + completion) of one batch, and so its KV cache.
    """

    def __init__(self, policy: Policy, max_length: int, generation_tokens: int) -> None:
        self.policy = policy
        self.max_length = max_length
        self.generation_tokens = generation_tokens
        self.stats = EngineStats()
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
        tail."""
        tokenizer, template = self.policy.tokenizer, self.policy.template

        def ids_of(some: list[dict[str, str]], generation: bool) -> list[int]:
            text = tokenizer.apply_chat_template(
                some, tokenize=False, add_generation_prompt=generation, **template
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
            tokens = self._padded(len(prompts[first][0])) + requests[first].max_tokens
            most = max(1, self.generation_tokens // tokens)
            rows = max((r for r in ROWS if r <= most), default=1)
            same = [i for i in mine if requests[i].max_tokens == requests[first].max_tokens]
            yield same[:rows]
            mine = [i for i in mine if i not in set(same[:rows])]

    def _padded(self, length: int) -> int:
        return min(-(-length // STEP) * STEP, max(self.max_length, length))

    def _attempt(
        self, batch: list[int], requests: Sequence[Request], prompts: list[tuple[list[int], bool]]
    ) -> list[tuple[int, Completion]]:
        """Generate a batch; when memory runs out, in halves."""
        try:
            return self._batch(batch, requests, prompts)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
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
        tokenizer, device = self.policy.tokenizer, self.policy.device
        rows = bucket(len(batch))
        width = self._padded(max(len(prompts[i][0]) for i in batch))
        filled = batch + batch[:1] * (rows - len(batch))  # spare rows repeat the first
        ids = torch.full((rows, width), tokenizer.pad_token_id)
        mask = torch.zeros(rows, width, dtype=torch.long)
        for row, i in enumerate(filled):
            prompt = prompts[i][0]
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        noise = GumbelNoise(
            [seed_of(requests[i].key) for i in filled],
            [requests[i].temperature for i in filled],
            device,
        )
        out = self.policy.model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=requests[batch[0]].max_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
            eos_token_id=self.ends,
            pad_token_id=tokenizer.pad_token_id,
            logits_processor=LogitsProcessorList([noise]),
        )
        logps = torch.stack(noise.logps, 1).tolist()
        texts = []
        for row, i in enumerate(batch):
            tokens = out[row, width:].tolist()
            end = next((t for t, token in enumerate(tokens) if token in self.ends), None)
            kept = tokens if end is None else tokens[: end + 1]
            text = tokenizer.decode(kept, skip_special_tokens=True)
            prompt, cut = prompts[i]
            seen = logps[row][: len(kept)]
            texts.append((i, Completion(text, prompt, kept, seen, end is None, cut)))
            self.stats.prompt_tokens += len(prompts[i][0])
            self.stats.completion_tokens += len(kept)
        self.stats.batches.append((rows, width))
        return texts
