"""A model of a shipped recipe's size with random weights: the memory it takes, how fast it decodes.

Nothing is downloaded; the tokenizer is the embedded model's.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from mxa_lite import embedded
from mxa_lite.learn.step import Step
from mxa_lite.learn.trainer import RoleTrainer
from mxa_lite.machine.anchors import timed
from mxa_lite.policy import accelerator
from mxa_lite.policy.generate import ROWS, Engine
from mxa_lite.policy.policy import Policy
from mxa_lite.policy.request import Completion, Request
from mxa_lite.recipe.file import load, override
from mxa_lite.recipe.keys import GPU_PRESETS, Recipe
from mxa_lite.recipe.shapes import KEYS, Shape
from mxa_lite.tree import Call, Design, Execution, Outcome, Question, Tree

RECIPE = "gsm8k"
GRAPHS = "UNSLOTH_DECODE_CUDA_GRAPHS"  # 1 or 0; Unsloth reads it whenever it generates
NEW, PROMPT = 64, 256  # tokens of a completion, and of a prompt that is learned from


def recipe(vram_gb: float = 0, *sets: str) -> Recipe:
    """The recipe with the largest preset for so much memory, or else the smallest."""
    sizes = [int(name.removesuffix("gb")) for name in GPU_PRESETS if name != "none"]
    size = max((n for n in sizes if n <= round(vram_gb)), default=min(sizes))
    return load(RECIPE, [f"gpu={size}gb", *sets], data_files=False)


def write_model(shape: Shape, folder: Path) -> None:
    """A Qwen3 of this shape in 16 bit."""
    sizes = dict(zip(KEYS, shape, strict=True))
    sizes["tie_word_embeddings"] = bool(shape.tied)
    config = AutoConfig.for_model("qwen3", **sizes, pad_token_id=0, eos_token_id=1)
    with torch.device("cuda" if accelerator() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(embedded.FOLDER).save_pretrained(folder)


class Memory:
    """A card's memory, of which what follows can be given less. In bytes."""

    def peak(self, work: Callable[[], int]) -> tuple[int, int, int]:
        """(held before, held at most meanwhile, what `work` returns)."""
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = work()
        return before, torch.cuda.max_memory_allocated(), result

    @contextmanager
    def at_most(self, size: float) -> Iterator[None]:
        """No more than this meanwhile."""
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(size / torch.cuda.mem_get_info()[1])
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)


class Phases:
    """The two that take memory, each as full as it gets; they return how often it ran out."""

    def __init__(self, usual: Recipe, policy: Policy) -> None:
        sets = {"train.steps": 1, "train.prefix_sharing": False}  # `plan` counts on none
        self.recipe, self.policy = override(usual, sets), policy
        self.completions: list[Completion] = []

    def generation(self) -> int:
        """A batch of prompts as long as they may be."""
        length, most = self.recipe.model.max_length, self.recipe.generation_tokens
        engine = Engine(self.policy, length, most)
        rows = max(rows for rows in ROWS if rows * length <= max(most, length))
        self.completions = engine.generate(requests(rows, length))
        return engine.stats.out_of_memory

    def update(self) -> int:
        """Two micro-batches of the ends of those prompts and what followed, in some rows each."""
        calls = [
            Call("", "", 0, [], "", c.prompt_ids[-PROMPT:], c.completion_ids, c.logps, advantage=1)
            for c in self.completions
        ]
        rows = 2 * max(2, self.recipe.train.tokens_per_micro_batch // (PROMPT + NEW))
        execution = Execution(Outcome.OK, calls=list(islice(cycle(calls), rows)))
        design = Design(Call("", "", 0, []), executions=[execution])
        step = Step.of(1, [Tree(Question("", "", ""), [design])], ("executor",))
        with tempfile.TemporaryDirectory() as folder:
            RoleTrainer(self.recipe, self.policy, Path(folder), lambda _: step).train()
        return step.numbers[0]["out_of_memory"]


def forced(phases: Phases, memory: Memory) -> tuple[int, dict[str, int]]:
    """(bytes at most, how often memory ran out in each phase when given half of what it took
    before; 0 where it had not been enough even then)."""
    peak, counts = 0, dict[str, int]()
    for phase in (phases.generation, phases.update):
        before, most, unforced = memory.peak(phase)
        with memory.at_most((before + most) / 2):
            counts[phase.__name__] = 0 if unforced else phase()
        peak = max(peak, most)
    return peak, counts


def requests(rows: int, words: int) -> list[Request]:
    """Calls of the executor, unlike from the beginning, which none is spared to read then."""
    messages = [[{"role": "user", "content": f" {row}" * words}] for row in range(rows)]
    return [Request(m, "executor", (row,), 1.0, NEW) for row, m in enumerate(messages)]


def rates(engine: Engine) -> list[float]:
    """Completion tokens a second of 8, 32 and 64 rows, each once beforehand."""
    speeds: list[float] = []
    for rows in (8, 32, 64):
        seconds: list[float] = []
        for _ in range(2):
            engine.reset()
            with timed(seconds):
                engine.generate(requests(rows, 8))
        speeds.append(engine.stats.completion_tokens / seconds[-1])
    return speeds
