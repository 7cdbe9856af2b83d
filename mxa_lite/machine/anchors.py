"""What `bench` measures of the model, and what it is held against: the machine's own limit, TRL's
step, a busy machine. The designs are hand-written, so that models which write no script can be
measured too.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from transformers import TrainerCallback

from mxa_lite.learn.batching import MicroBatch, trajectories
from mxa_lite.learn.numbers import counted
from mxa_lite.learn.step import Step
from mxa_lite.learn.trainer import RoleTrainer
from mxa_lite.mas.patterns import SYSTEMS
from mxa_lite.policy.generate import Engine, EngineStats
from mxa_lite.policy.policy import Policy
from mxa_lite.recipe.keys import Recipe
from mxa_lite.recipe.shapes import Shape
from mxa_lite.rollout import sampler as rollout
from mxa_lite.tasks import load as tasks
from mxa_lite.tree import ROLES, Call, Design, Tree

TURNS = 3
PATTERNS = ("single", "vote", "reflect", "debate")  # a vote has three members


class FixedDesigns(rollout.Sampler):
    """The sampler with hand-written scripts in place of those the designer wrote."""

    def some(self, tag: str, factor: int = 1, designs: int = 0) -> list[Tree]:
        """The trees of `factor` times B questions; every trajectory gets a gradient."""
        recipe = self.recipe
        questions = tasks.load(recipe.task, recipe.seed).train[: recipe.train.questions * factor]
        self._patterns = cycle(PATTERNS)
        shape = rollout.Shape(designs or recipe.rollout.designs, recipe.rollout.executions)
        trees = self.rollout(questions, shape, tag)
        for number, trajectory in enumerate(trajectories(trees, ROLES)):
            trajectory.call.advantage = 1.0 if number % 2 else -1.0
        return trees

    def checked(self, call: Call) -> Design:
        pattern = next(self._patterns)
        return Design(call, SYSTEMS[pattern], pattern)


@contextmanager
def timed(into: list[float]) -> Iterator[None]:
    """Append the seconds the block took."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    yield
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    into.append(time.perf_counter() - started)


class _UpdateClock(TrainerCallback):
    """Seconds of each update, from its trees to the moved weights."""

    def __init__(self) -> None:
        self.begun, self.seconds = 0.0, list[float]()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.begun)


def update(
    kind: type[RoleTrainer], recipe: Recipe, policy: Policy, trees: list[Tree], *roles: str
) -> float:
    """Seconds of a second optimizer step, from the trees to the moved weights."""
    clock = _UpdateClock()

    def take(number: int) -> Step:
        clock.begun = time.perf_counter()
        return Step.of(number, trees, roles)

    train = recipe.train.model_copy(update={"steps": 2, "save_every": 1000})
    short = recipe.model_copy(update={"train": train})
    with tempfile.TemporaryDirectory() as folder:
        kind(short, policy, Path(folder), take, clock).train()
    return clock.seconds[-1]


def rollouts(sampler: FixedDesigns) -> tuple[list[Tree], dict[str, float], dict[str, float]]:
    """(trees, decode_limit, seconds of a rollout and of stock `generate` on the same calls)."""
    policy = sampler.engine.policy
    sampler.some("warm")
    seconds: dict[str, list[float]] = {"kit": [], "generate": [], "decoding": []}
    for _ in range(TURNS):
        sampler.engine.reset()
        sampler.clock.seconds.clear()
        with timed(seconds["kit"]):
            trees = sampler.some("speed")
        clock, stats = sampler.clock.seconds, sampler.engine.reset()
        seconds["decoding"].append(clock["design"] + clock["execute_model"])
        rows = max(rows for rows, _ in stats.batches)
        with policy.all_threads():
            threaded = generate_seconds(sampler.engine, trees, rows)
        seconds["generate"].append(min(threaded, generate_seconds(sampler.engine, trees, rows)))
    middle = {name: median(turns) for name, turns in seconds.items()}
    reached = stats.completion_tokens / middle.pop("decoding")
    return trees, decode_limit(policy, trees, stats, reached), middle


def decode_limit(
    policy: Policy, trees: list[Tree], stats: EngineStats, reached: float
) -> dict[str, float]:
    """Tokens/s reached and possible, their ratio, the machine's rates, tokens a token kept.

    A token takes 2 operations a weight, and 4 a number of the keys that it attends to; a step reads
    all weights and each row's keys and values. Reading the prompts counts against the kit.
    """
    shape = Shape.of(policy.model.config.get_text_config().to_dict())
    calls = [t.call for t in trajectories(trees, ROLES)]
    context = fmean(len(c.prompt_ids) + len(c.completion_ids) / 2 for c in calls)
    rows = fmean(rows for rows, _ in stats.batches)
    weights = shape.linear_parameters() + shape.vocab * shape.hidden
    item = policy.model.dtype.itemsize
    operations = 2 * weights + 4 * shape.layers * shape.heads * shape.head_dim * context
    read = weights * item / rows + shape.kv_bytes(item) * context
    matrix, memory = machine_rates(policy)
    limit = 1 / max(operations / matrix, read / memory)
    rates = {"matrix_gflops": matrix / 1e9, "memory_gb": memory / 1e9}
    rates["row_steps"] = stats.row_steps / stats.completion_tokens
    return {"share": reached / limit, "tokens_per_second": reached, "limit": limit} | rates


def machine_rates(policy: Policy) -> tuple[float, float]:
    """(operations, bytes) a second of a large product and a large copy, with the threads that
    decode: the best of five."""
    cuda = policy.device.type == "cuda"
    dtype = policy.model.dtype if cuda else torch.float32
    long = torch.ones(1 << 25, device=policy.device, dtype=dtype)
    square, target = long[: 1 << 22].view(2048, 2048), torch.empty_like(long)
    product: list[float] = []
    copy: list[float] = []
    for _ in range(5):
        with timed(product):
            square @ square
        with timed(copy):
            target.copy_(long)
    return 2 * 2048**3 / min(product), 2 * long.nbytes / min(copy)


def generate_seconds(engine: Engine, trees: list[Tree], rows: int) -> float:
    """Seconds of stock `generate` on the same prompts, the lengths known beforehand: sorted and
    packed by them, `rows` at a time, no sandbox and no waiting."""
    policy = engine.policy
    policy.generating()
    seconds: list[float] = []
    for role in ROLES:
        policy.activate(role)
        calls = [t.call for t in trajectories(trees, [role])]
        calls.sort(key=lambda c: (len(c.completion_ids), len(c.prompt_ids)))
        for start in range(0, len(calls), rows):
            batch = calls[start : start + rows]
            width = max(len(c.prompt_ids) for c in batch)
            longest = max(len(c.completion_ids) for c in batch)
            ids, mask = engine.padded_left([c.prompt_ids for c in batch], width)
            with timed(seconds), torch.inference_mode():
                policy.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=longest,
                    min_new_tokens=longest,
                    do_sample=True,
                    top_k=0,
                    pad_token_id=policy.tokenizer.pad_token_id,
                )
    return sum(seconds)


class Rectangles(RoleTrainer):
    """TRL's own step over rectangles without padding, as many rows and real tokens as ours."""

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        self.step = self.take(self.state.global_step + 1)
        calls = [trajectory.call for trajectory in self.step.mini_batches[0]]
        prompt = round(fmean(len(c.prompt_ids) for c in calls))
        new = round(fmean(len(c.completion_ids) for c in calls))
        last = self.policy.model.config.vocab_size - 1

        def row() -> Call:
            ids = [random.randint(5, last) for _ in range(prompt + new)]
            return replace(
                calls[0], prompt_ids=ids[:prompt], completion_ids=ids[prompt:], logps=[0.0] * new
            )

        self.policy.learning()
        self.policy.activate(role := self.step.roles[0])
        rows, most = len(calls), max(1, self.tokens // (prompt + new))
        sizes = [min(most, rows - start) for start in range(0, rows, most)]
        batches = [
            MicroBatch(role, 1.0, [row() for _ in range(size)], rows * new, size / rows, size)
            for size in sizes
        ]
        self.numbers = counted(batches, rows)
        with self.policy.all_threads():
            for self._micro in batches:
                tensors = self._micro.tensors(0, self.policy.device)
                loss = super(RoleTrainer, self).training_step(model, tensors, None)
        return loss


def updates(
    recipe: Recipe, policy: Policy, trees: list[Tree], rolled_out: dict[str, float]
) -> dict[str, Any]:
    """Updates with and without shared prompts and by TRL, role by role; then whole steps.
    rolled_out: the seconds that `rollouts` found."""
    train = recipe.train.model_copy(update={"prefix_sharing": False})
    whole_rows = recipe.model_copy(update={"train": train})
    seconds: dict[str, tuple[float, ...]] = {}  # role -> shared, whole rows, TRL
    for role in ROLES:
        turns = [
            (
                update(RoleTrainer, recipe, policy, trees, role),
                update(RoleTrainer, whole_rows, policy, trees, role),
                update(Rectangles, whole_rows, policy, trees, role),
            )
            for _ in range(TURNS)
        ]
        seconds[role] = tuple(map(median, zip(*turns, strict=True)))
    shared, _, trl = map(sum, zip(*seconds.values(), strict=True))
    return {
        "step_vs_trl": (rolled_out["generate"] + trl) / (rolled_out["kit"] + shared),
        "update_efficiency": seconds["executor"][2] / seconds["executor"][1],
        "prefix_sharing": {role: whole / few for role, (few, whole, _) in seconds.items()},
    }


@contextmanager
def a_spinning_process() -> Iterator[subprocess.Popen[bytes]]:
    """Beside another program that computes all the time."""
    command = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def busy(recipe: Recipe, sampler: FixedDesigns) -> dict[str, float]:
    """Seconds of a step of both roles, and of its update, beside a spinning process / alone."""
    steps: dict[str, list[float]] = {"alone": [], "busy": []}
    learning: dict[str, list[float]] = {"alone": [], "busy": []}
    for turn in range(2 * TURNS):
        name = "busy" if turn % 2 else "alone"
        with a_spinning_process() if turn % 2 else nullcontext():
            with timed(steps[name]):
                trees = sampler.some("busy")
            seconds = update(RoleTrainer, recipe, sampler.engine.policy, trees, *ROLES)
        learning[name].append(seconds)
        steps[name][-1] += seconds
    middle = {name: (median(steps[name]), median(learning[name])) for name in steps}
    return {
        "step": middle["busy"][0] / middle["alone"][0],
        "update": middle["busy"][1] / middle["alone"][1],
        "alone_s": middle["alone"][0],
        "alone_update_s": middle["alone"][1],
    }
