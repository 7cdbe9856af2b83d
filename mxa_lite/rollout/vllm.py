"""`engine: vllm`: completions from vLLM, over a whole copy of the base that takes both adapters.

The only file that imports vLLM. Its import takes seconds and must find these variables.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft.utils.integrations import dequantize_module_weight

from mxa_lite.errors import InputError
from mxa_lite.policy import accelerator
from mxa_lite.policy.generate import Engine
from mxa_lite.policy.merged import adapter_weights
from mxa_lite.policy.policy import Policy
from mxa_lite.policy.request import Completion, Request, seed_of
from mxa_lite.recipe.checks import GET_VLLM
from mxa_lite.recipe.keys import Recipe
from mxa_lite.recipe.shapes import Shape

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # no process of its own, and the same order each time
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the kit chooses its threads
    "VLLM_NO_USAGE_STATS": "1",  # nothing is sent home
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for --json
    "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
}

try:
    from vllm import LLM, RequestOutput, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.lora.request import LoRARequest
except ImportError as error:  # it, or what it needs
    raise InputError(f"engine is vllm, which does not import ({error}): {GET_VLLM}") from error


@contextlib.contextmanager
def served(policy: Policy, recipe: Recipe) -> Iterator[Vllm]:
    """The engine. Raises InputError for a base or adapters that vLLM does not take."""
    if policy.loader == "unsloth" or os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("engine is vllm, which needs model.loader=plain and one process")
    with (
        TemporaryDirectory(prefix="mxa-vllm-") as folder,
        contextlib.closing(Vllm(policy, recipe, Path(folder))) as engine,
    ):
        yield engine


class Vllm(Engine):
    """An `Engine` whose `generate` asks vLLM."""

    def __init__(self, policy: Policy, recipe: Recipe, folder: Path) -> None:
        super().__init__(policy, recipe.model.max_length, recipe.generation_tokens)
        self._folder, self._asleep = folder, False
        self._adapters: dict[str, tuple[LoRARequest, list[torch.Tensor]]] = {}
        base, gpu = policy.model.get_base_model(), accelerator()
        dtype = str(base.dtype).removeprefix("torch.")
        size = write_base(base, folder / "base")
        tokens = max(self.generation_tokens, self.max_length) + 128  # a block is kept free
        free, whole = torch.cuda.mem_get_info() if gpu else (1, 2)
        # It sets variables for processes of its own, LD_PRELOAD among them, which ours would take
        # over, and switches `torch.set_num_threads` off.
        environment, set_threads = dict(os.environ), torch.set_num_threads
        try:
            shape = Shape.of(base.config.get_text_config().to_dict())
            cache = tokens * shape.kv_bytes(base.dtype.itemsize)
            self._llm = LLM(
                model=str(folder / "base"),
                skip_tokenizer_init=True,
                generation_config="vllm",  # not what the folder sets
                dtype=dtype,
                seed=recipe.seed,
                max_model_len=self.max_length,
                kv_cache_memory_bytes=cache,
                gpu_memory_utilization=0.95 * free / whole,  # it does not start with less free
                enable_lora=True,
                max_loras=len(policy.names),
                max_lora_rank=max(8, 1 << (recipe.lora.r - 1).bit_length()),
                logprobs_mode="processed_logprobs",  # at the temperature
                enable_sleep_mode=gpu,
                enforce_eager=not gpu,  # to compile takes a CPU minutes
                use_tqdm_on_load=False,
            )
            for role in policy.adapters:
                self._adapter(role)
        except (ValueError, KeyError, RuntimeError, AssertionError) as error:  # all that it raises
            reason = f"{recipe.model.name} so: {' '.join(str(error).split())[:300]}"
            raise InputError(f"engine: vllm does not take {reason}") from error
        finally:
            torch.set_num_threads = set_threads
            os.environ.clear()
            os.environ |= environment
        policy.before_learning = self._sleep if gpu else policy.before_learning
        needed = f"{(size + cache) / 2**30:.2f} GiB"
        self.note = f"; engine vllm: {needed} for a copy of the base in {dtype} and its cache"

    def close(self) -> None:
        self._asleep = True  # for good
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()
        cleanup_dist_env_and_memory()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in their order. Equal keys draw equal tokens in any batch."""
        if not requests:
            return []
        prompts = [self.encode(r.messages, self.max_length - r.max_tokens) for r in requests]
        if self._asleep:
            torch.cuda.empty_cache()
            self._llm.wake_up()
            self._asleep = False
        adapters = {role: self._adapter(role) for role in dict.fromkeys(r.role for r in requests)}
        drawn = [
            SamplingParams(
                temperature=r.temperature,
                max_tokens=r.max_tokens,
                seed=seed_of(r.key),
                stop_token_ids=self.ends,
                ignore_eos=True,  # it is among the ends where it is one
                logprobs=0,  # of the tokens drawn alone
                detokenize=False,
            )
            for r in requests
        ]
        with torch.compiler.set_stance("default" if accelerator() else "force_eager"):
            outputs = self._llm.generate(
                [{"prompt_token_ids": ids} for ids, _ in prompts],
                drawn,
                lora_request=[adapters[r.role] for r in requests],
                use_tqdm=False,
            )
        done = list(map(self._completion, prompts, outputs))
        completion_tokens = sum(len(c.completion_ids) for c in done)
        self.stats.prompt_tokens += sum(len(ids) for ids, _ in prompts)
        self.stats.completion_tokens += completion_tokens
        self.stats.row_steps += completion_tokens  # rows leave when they end
        self.stats.batches.append((len(requests), max(len(ids) for ids, _ in prompts)))
        return done

    def _completion(self, prompt: tuple[list[int], bool], answer: RequestOutput) -> Completion:
        ids = list(answer.outputs[0].token_ids)
        logps = [seen[i].logprob for i, seen in zip(ids, answer.outputs[0].logprobs, strict=True)]
        text = self.policy.tokenizer.decode(ids, skip_special_tokens=True)
        return Completion(text, prompt[0], ids, logps, ids[-1] not in self.ends, prompt[1])

    def _adapter(self, role: str) -> LoRARequest:
        """Handed over when its weights have moved, by a new name: prompts are cached by it."""
        name = self.policy.adapters[role]
        weights = adapter_weights(self.policy.model, name)
        old, seen = self._adapters.get(name, (None, []))
        if old and all(map(torch.equal, weights, seen)):
            return old
        number = 1 + max((a.lora_int_id for a, _ in self._adapters.values()), default=0)
        self.policy.save(self._folder, [name])
        fresh = LoRARequest(f"{name}-{number}", number, str(self._folder / name))
        if old:
            self._llm.llm_engine.remove_lora(old.lora_int_id)
        self._llm.llm_engine.add_lora(fresh)
        self._adapters[name] = fresh, [weight.clone() for weight in weights]
        return fresh

    def _sleep(self) -> None:
        """Weights to the CPU's memory, keys and values away: an update needs the room."""
        if not self._asleep:
            self._llm.sleep(level=1)
        self._asleep = True


def write_base(base: Any, folder: Path) -> int:
    """The base of a model with adapters, dequantised, as a folder of its own; its bytes."""
    config, weights = copy.deepcopy(base.config), {}
    for name, module in base.named_modules():
        for key, weight in module.named_parameters(recurse=False) if ".lora_" not in name else ():
            full = dequantize_module_weight(module) if key == "weight" else weight
            place = f"{name}.{key}".replace(".base_layer.", ".")
            weights[place] = full.detach().to("cpu", base.dtype)
    vars(config).pop("quantization_config", None)
    with torch.device("meta"):
        copied = type(base)(config)
    copied.load_state_dict(weights, assign=True)
    copied.tie_weights()
    copied.save_pretrained(folder)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
