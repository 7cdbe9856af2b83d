"""`engine: continuous`: Transformers' continuous batching in place of waves.

A call joins the running batch when it is made and its reply goes back as soon as it is done, so no
script waits for the slowest of a wave. The draws come from one stream in the order in which calls
happen to arrive: a run in this mode does not repeat.
Source: https://huggingface.co/docs/transformers/continuous_batching
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from mxa_lite.errors import RunError
from mxa_lite.policy.generate import Completion, Engine, Request
from mxa_lite.policy.models import Policy

PATIENCE = 0.02  # seconds that scripts are waited for before finished calls are looked at
BLOCK = 32  # tokens of one block of the paged cache
GREEDY = 1e-4  # temperature that stands for 0 here


class ContinuousEngine(Engine):
    """Calls of one role at a time; the model runs in a thread of its own until `finish`."""

    patience: float | None = PATIENCE

    def __init__(self, policy: Policy, max_length: int, generation_tokens: int) -> None:
        super().__init__(policy, max_length, generation_tokens)
        self._manager: Any = None
        self._role = ""
        self._prompts: dict[int, tuple[list[int], bool]] = {}

    def _start(self, role: str) -> None:
        self.policy.generating()
        self.policy.activate(role)
        self._role = role
        self._manager = self.policy.model.get_base_model().init_continuous_batching(
            generation_config=GenerationConfig(
                do_sample=True,
                temperature=1.0 - 1e-6,  # exactly 1 would leave out the processor calls may set
                top_k=0,
                top_p=1.0,
                eos_token_id=self.ends,
                pad_token_id=self.policy.tokenizer.pad_token_id,
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                block_size=BLOCK,
                num_blocks=max(2 * self.max_length, self.generation_tokens) // BLOCK,
                max_batch_tokens=max(self.max_length, 2048),
                return_logprobs=True,
                per_request_processors=True,
                use_async_batching=False,
            ),
        )
        self._manager.start()

    def submit(self, request: Request, order: tuple[Any, ...] = ()) -> int:
        """Hand the call to the model's thread. Raises ValueError for a second role meanwhile."""
        if self._manager is None:
            self._start(request.role)
        if request.role != self._role:
            raise ValueError("one role at a time: call finish() before the other role's calls")
        ticket = super().submit(request, order)
        prompt = self.encode(request.messages, self.max_length - request.max_tokens)
        self._prompts[ticket] = prompt
        self._manager.add_request(
            prompt[0],
            request_id=str(ticket),
            max_new_tokens=request.max_tokens,
            temperature=request.temperature or GREEDY,
        )
        return ticket

    def collect(self, idle: bool) -> list[tuple[int, Completion]]:
        """What is done by now; at least one call when everybody waits (`idle`)."""
        found: list[tuple[int, Completion]] = []
        while self._pending:
            made = self._manager.get_result(timeout=PATIENCE if idle and not found else 1e-3)
            if made is None:
                if not self._manager.is_running():
                    raise RunError("engine: continuous stopped by itself; use engine=waves")
                if found or not idle:
                    break
                continue
            if made.error:
                raise RunError(f"engine: continuous: {made.error}")
            ticket = int(made.request_id)
            if self._pending.pop(ticket, None) is not None:  # else its script has ended
                found.append((ticket, self._completion(ticket, made)))
        return found

    def _completion(self, ticket: int, made: Any) -> Completion:
        ids, cut = self._prompts.pop(ticket)
        tokens = list(made.generated_tokens)
        self.stats.prompt_tokens += len(ids)
        self.stats.completion_tokens += len(tokens)
        return Completion(
            text=self.policy.tokenizer.decode(tokens, skip_special_tokens=True),
            prompt_ids=ids,
            completion_ids=tokens,
            logps=list(made.logprobs),
            truncated=tokens[-1] not in self.ends,
            prompt_cut=cut,
        )

    def finish(self) -> None:
        """End the model's thread; attention is as it was before."""
        super().finish()
        self._prompts = {}
        if self._manager is not None:
            self._manager.stop(block=True, hard_stop=True)
            self._manager = None

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in their order."""
        done: dict[int, Completion] = {}
        for role in dict.fromkeys(r.role for r in requests):
            mine = [i for i, r in enumerate(requests) if r.role == role]
            try:
                tickets = {self.submit(requests[i]): i for i in mine}
                while any(i not in done for i in mine):
                    done |= {tickets[ticket]: made for ticket, made in self.collect(True)}
            finally:
                self.finish()
        return [done[i] for i in range(len(requests))]
