"""What a recipe asks for, started: the policy, the threads it computes with, a sampler over it."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import torch
import transformers

from mxa_lite.policy import accelerator
from mxa_lite.policy.generate import Engine
from mxa_lite.policy.load import load
from mxa_lite.policy.policy import Policy
from mxa_lite.recipe.keys import Recipe
from mxa_lite.rollout.chosen import choose_prompts, limits_of, sandbox_for
from mxa_lite.rollout.own_ideas import prompts_of
from mxa_lite.rollout.sampler import Sampler
from mxa_lite.tasks.grade import Grader

LIBRARIES = ("transformers", "trl", "peft", "bitsandbytes", "accelerate")
TINY = 20_000_000  # parameters
WIDE = 64  # rows
THREADS = torch.get_num_threads()  # before anybody sets them


@contextlib.contextmanager
def sampler_for(recipe: Recipe, policy: Policy) -> Iterator[Sampler]:
    """A sampler with its sandbox and grader started, as the recipe says."""
    scores = [task.score for task in (recipe.task, *recipe.task.mix) if task.score]
    with (
        engine_for(recipe, policy) as engine,
        prompts_of(recipe),
        sandbox_for(recipe) as sandbox,
        Grader(
            recipe.sandbox.require,
            ratio=recipe.credit.pass_ratio,
            limits=limits_of(recipe),
            scores=scores,
        ) as grader,
    ):
        yield Sampler(engine, sandbox, grader, recipe)


def engine_for(recipe: Recipe, policy: Policy) -> contextlib.AbstractContextManager[Engine]:
    """What answers calls. Raises InputError where vLLM is asked for and cannot."""
    if recipe.engine == "vllm":
        from mxa_lite.rollout.vllm import served  # heavy, and rarely installed

        return served(policy, recipe)
    return contextlib.nullcontext(Engine(policy, recipe.model.max_length, recipe.generation_tokens))


def load_policy(recipe: Recipe) -> Policy:
    """The policy with fresh adapters; threads set, libraries told to be quiet."""
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    policy = load(recipe)
    set_threads(recipe, policy)
    policy.notes.append("prompts {}: {}".format(*choose_prompts(recipe)))
    return policy


def set_threads(recipe: Recipe, policy: Policy) -> None:
    """`threads` of the recipe; else, on a CPU, all that are free for prompts, updates and tokens of
    a tiny model's wide batches, whose bits are the same with one, two and four.

    Seen with the embedded model, one and two threads on two idle cores: a token of 16 rows takes
    2.7 and 1.9 ms, of 256 rows 24 and 14 ms; forward and backward of 4,000 tokens 440 and 310 ms.
    Other tokens always have one thread, those of a large model all: their bits depend on it.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
        policy.notes.append(f"{recipe.threads} CPU threads: the recipe asks for it")
    elif not accelerator():
        policy.threads = free_threads
        if policy.model.num_parameters() < TINY:
            torch.set_num_threads(1)
            policy.wide = WIDE
            note = f"{THREADS} CPU threads, 1 to decode fewer than {WIDE} rows: the model is tiny"
            policy.notes.append(note)


def free_threads() -> int:
    """All threads, or a half, a quarter, ... while other programs leave fewer cores.

    Threads that wait for one without a core make an update ten times slower. Only powers of two,
    between which gradients did not change a bit (tried: 1, 2, 4, 8; with 3 and 7 they did).
    """
    count, cores = THREADS, os.cpu_count() or 1
    if count & (count - 1) or count == 1:
        return count
    others = running_beside()
    for _ in range(2):  # what runs for a moment does not count
        if others:
            time.sleep(0.001)
            others = min(others, running_beside())
    while count > max(1, cores - others):
        count //= 2
    return count


def running_beside() -> int:
    """How many threads of other programs compute or wait for a core now; 0 where Linux's /proc
    does not say it."""
    try:
        fields = Path("/proc/loadavg").read_text(encoding="ascii").split()
        running = int(fields[3].partition("/")[0])
        if running < 2:  # this thread
            return 0
        tasks = [task.read_text() for task in Path("/proc/self/task").glob("*/stat")]
    except (OSError, ValueError, IndexError):
        return 0
    own = sum(task.rpartition(")")[2].split()[0] == "R" for task in tasks)
    return max(0, running - own)
