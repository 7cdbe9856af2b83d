"""`mxa-lite bench`: where a step's time goes on this machine, as ratios that machines share.

What is compared runs in turn, A B A B, in one process, and medians are taken unless it says
otherwise. The designs are hand-written, so that models which write no script can be measured too.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

import torch
from transformers import TrainerCallback

from mxa_lite.learn.batching import MicroBatch, micro_batches, trajectories
from mxa_lite.learn.step import Step
from mxa_lite.learn.trainer import RoleTrainer, counted
from mxa_lite.machine.memory import held, peak
from mxa_lite.mas.patterns import SYSTEMS
from mxa_lite.policy.generate import Engine
from mxa_lite.policy.policy import Policy
from mxa_lite.recipe import file as recipe_file
from mxa_lite.recipe.keys import Recipe
from mxa_lite.rollout.opened import load_policy, sampler_for
from mxa_lite.rollout.sampler import Sampler, Shape
from mxa_lite.runfolder import RunFolder
from mxa_lite.sandbox.box import Ended, Job, Limits, Sandbox
from mxa_lite.tasks import load as tasks
from mxa_lite.tree import Call, Design, Tree

SHAPE = ("train.questions=4", "rollout.designs=4", "rollout.executions=4")  # B, M, N
PATTERNS = ("single", "vote", "reflect", "debate")  # a vote has three members
ONE_CALL = 'answer(Agent("a", "b")(question))'
BOTH = ("designer", "executor")
Quiet = Callable[[str], None]


def bench(sets: tuple[str, ...], say: Quiet = lambda text: None) -> dict[str, Any]:
    """The measurements of `mxa-lite bench`; `sets` change the recipe (a model, a budget)."""
    recipe = recipe_file.load("arithmetic", (*SHAPE, *sets))
    policy = load_policy(recipe)
    result: dict[str, Any] = {"machine": machine(policy, recipe)}
    say(f"model {recipe.model.name}, {result['machine']['threads']} threads; sandbox")
    result["sandbox_ms"] = sandbox_ms()
    with sampler_for(recipe, policy) as made:
        sampler = FixedDesigns(made.engine, made.sandbox, made.grader, recipe)
        say("rollouts")
        result |= rollout_ratios(sampler)
        say("a small and a large step")
        result["scaling"] = scaling(sampler)
        trees = sampler.some("update")
        say("updates")
        result |= update_ratios(recipe, policy, trees)
        say("one adapter and two")
        result["role_overhead"] = role_overhead(recipe, trees)
        say("whole steps")
        result["step_seconds"] = step_seconds(recipe, sampler)
    return result


MEANING = {
    "sandbox_ms": "ms from start to end of a script of one call; vs_python: / `python -c pass`",
    "rollout_efficiency": "tokens/s of a rollout / plain generate on the same calls, lengths known",
    "batching_gain": "tokens/s of a rollout / the same with one call at a time",
    "tokens_per_second": "completion tokens of a rollout, by engine; a run keeps to its recipe's",
    "scaling": "seconds per execution of a rollout, and large / small",
    "update_efficiency": "real tokens/s of an update / TRL's on one rectangle without padding",
    "padding_waste": "share of padding in the update's tokens",
    "role_overhead": "an update with two adapters / with one for both roles",
    "step_seconds": "seconds of a training step by phase",
}


def described(result: dict[str, Any]) -> list[str]:
    """The measurements as lines for a person."""
    lines = [" ".join(f"{key} {value}" for key, value in result["machine"].items())]
    for name, meaning in MEANING.items():
        found = result[name] if isinstance(result[name], dict) else {"": result[name]}
        numbers = "  ".join(f"{key} {value:.3g}".strip() for key, value in found.items())
        lines += [f"{name:18s} {numbers}", f"{'':18s}   {meaning}"]
    return lines


def machine(policy: Policy, recipe: Recipe) -> dict[str, Any]:
    """What the numbers were measured on."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name(0) if cuda else "cpu",
        "threads": policy.threads or torch.get_num_threads(),
        "model": recipe.model.name,
        "engine": recipe.engine,
        "loader": policy.loader,
    }


class FixedDesigns(Sampler):
    """The sampler with hand-written scripts in place of those the designer wrote."""

    def some(self, tag: str, factor: int = 1, designs: int = 0) -> list[Tree]:
        """The trees of `factor` times B questions; every trajectory gets a gradient."""
        recipe = self.recipe
        found = tasks.load(recipe.task, recipe.seed).train[: recipe.train.questions * factor]
        self._patterns = cycle(PATTERNS)
        shape = Shape(designs or recipe.rollout.designs, recipe.rollout.executions)
        trees = self.rollout(found, shape, tag)
        for number, trajectory in enumerate(trajectories(trees, BOTH)):
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


def sandbox_ms(times: int = 60, burst: int = 64) -> dict[str, float]:
    """Milliseconds of a script that makes one call, answered at once."""

    def run(box: Sandbox, count: int) -> list[float]:
        """Runs scripts together; the seconds until each had ended."""
        begun = time.perf_counter()
        ended: list[float] = []
        for _ in range(count):
            box.start(Job(ONE_CALL, "q", "math", 0))
        while len(ended) < count:
            for event in box.poll(None):
                if isinstance(event, Ended):
                    ended.append(time.perf_counter() - begun)
                else:
                    box.reply(event.job, event.id, r"\boxed{1}")
        return ended

    single: list[float] = []
    bursts: list[float] = []
    lives: list[float] = []
    python: list[float] = []
    with Sandbox(Limits()) as box:
        for number in range(times + 1):
            with timed(single):
                run(box, 1)
            if number % 6 == 0:
                with timed(python):
                    subprocess.run([sys.executable, "-c", "pass"], check=True)
        for _ in range(5):
            with timed(bursts):
                ended = run(box, burst)
            lives += ended
    del single[0]
    return {
        "median": 1e3 * median(single),
        "p99": 1e3 * quantiles(single, n=100)[98],
        "burst_ms": 1e3 * median(bursts) / burst,
        "burst_p99": 1e3 * quantiles(lives, n=100)[98],
        "vs_python": median(single) / median(python),
    }


def rollout_ratios(sampler: FixedDesigns) -> dict[str, Any]:
    """Completion tokens per second of a rollout, divided by those of other ways; plain `generate`
    with all threads or as many as the engine decodes with, whichever is faster."""
    engine = sampler.engine
    sampler.some("warm")
    rates: dict[str, list[float]] = {"rollout": [], "plain": []}
    for turn in range(3):
        engine.reset()
        seconds: list[float] = []
        with timed(seconds):
            trees = sampler.some(f"speed {turn}")
        stats = engine.reset()
        rates["rollout"].append(stats.completion_tokens / seconds[0])
        rows = max(rows for rows, _ in stats.batches)
        with engine.policy.all_threads():
            threaded = plain_rate(sampler, trees, rows)
        rates["plain"].append(max(threaded, plain_rate(sampler, trees, rows)))
    sampler.engine = Engine(engine.policy, engine.max_length, 1)  # one call at a time
    taken: list[float] = []
    with timed(taken):
        sampler.some("speed 2")
    alone = sampler.engine.reset().completion_tokens / taken[0]
    sampler.engine = engine
    pairs = zip(rates["rollout"], rates["plain"], strict=True)
    return {
        "rollout_efficiency": median(ours / plain for ours, plain in pairs),
        "batching_gain": rates["rollout"][-1] / alone,
        "tokens_per_second": {sampler.recipe.engine: median(rates["rollout"])},
    }


def plain_rate(sampler: Sampler, trees: list[Tree], rows: int) -> float:
    """Completion tokens per second of stock `generate` on the same prompts, the lengths known
    beforehand: sorted and packed by them, `rows` at a time, no sandbox and no waiting."""
    policy = sampler.engine.policy
    policy.generating()
    seconds: list[float] = []
    tokens = 0
    for role in BOTH:
        policy.activate(role)
        calls = [t.call for t in trajectories(trees, [role])]
        calls.sort(key=lambda c: (len(c.completion_ids), len(c.prompt_ids)))
        for start in range(0, len(calls), rows):
            some = calls[start : start + rows]
            width = max(len(c.prompt_ids) for c in some)
            longest = max(len(c.completion_ids) for c in some)
            ids = torch.full((len(some), width), policy.tokenizer.pad_token_id)
            mask = torch.zeros_like(ids)
            for row, call in enumerate(some):
                ids[row, width - len(call.prompt_ids) :] = torch.tensor(call.prompt_ids)
                mask[row, width - len(call.prompt_ids) :] = 1
            with timed(seconds), torch.inference_mode():
                policy.model.generate(
                    input_ids=ids.to(policy.device),
                    attention_mask=mask.to(policy.device),
                    max_new_tokens=longest,
                    min_new_tokens=longest,
                    do_sample=True,
                    top_k=0,
                    pad_token_id=policy.tokenizer.pad_token_id,
                )
            tokens += sum(len(c.completion_ids) for c in some)
    return tokens / sum(seconds)


def scaling(sampler: FixedDesigns) -> dict[str, float]:
    """Seconds per execution of a small and of a large rollout, a 16th of it, and their ratio."""

    def cost(seconds: list[float], trees: list[Tree]) -> float:
        return median(seconds) / sum(len(d.executions) for tree in trees for d in tree.designs)

    few: list[float] = []
    many: list[float] = []
    for turn in range(3):
        with timed(few):
            small = sampler.some(f"few {turn}", designs=1)
    with timed(many):
        large = sampler.some("many", factor=4)
    found = {"small": cost(few, small), "large": cost(many, large)}
    return found | {"ratio": found["large"] / found["small"]}


class OneRectangle(RoleTrainer):
    """TRL's own step over one rectangular batch without padding, as many real tokens as ours."""

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        self.step = self.take(self.state.global_step + 1)
        (role,) = self.step.roles
        calls = [trajectory.call for trajectory in self.step.mini_batches[0]]
        prompt = round(fmean(len(c.prompt_ids) for c in calls))
        new = round(fmean(len(c.completion_ids) for c in calls))
        rows, last = len(calls), self.policy.model.config.vocab_size - 1
        ids = [[random.randint(5, last) for _ in range(prompt + new)] for _ in calls]
        same = [
            replace(calls[0], prompt_ids=i[:prompt], completion_ids=i[prompt:], logps=[0.0] * new)
            for i in ids
        ]
        self.policy.learning()
        self.policy.activate(role)
        self._micro = MicroBatch(role, 1.0, same, rows * new, 1.0, rows)
        batch = self._micro.tensors(0, self.policy.device)
        self.numbers = counted([self._micro], rows)
        with self.policy.all_threads():
            return super(RoleTrainer, self).training_step(model, batch, None)


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


def update_ratios(recipe: Recipe, policy: Policy, trees: list[Tree]) -> dict[str, float]:
    """Real tokens per second of the kit's executor update ÷ those of TRL's on a rectangle."""
    ours, stock = [], []
    for _ in range(3):
        ours.append(update(RoleTrainer, recipe, policy, trees, "executor"))
        stock.append(update(OneRectangle, recipe, policy, trees, "executor"))
    found = trajectories(trees, ("executor",))
    batches = micro_batches(found, recipe.train.tokens_per_micro_batch)
    return {
        "update_efficiency": median(b / a for a, b in zip(ours, stock, strict=True)),
        "padding_waste": 1 - sum(b.tokens for b in batches) / sum(b.padded for b in batches),
    }


def role_overhead(recipe: Recipe, trees: list[Tree]) -> dict[str, float]:
    """Time and peak memory of an update of both roles with two adapters ÷ with one for both.

    Of five turns each the fastest counts: the difference is smaller than what a busy machine adds.
    """
    rate = recipe.train.learning_rate.executor
    train = recipe.train.model_copy(
        update={"learning_rate": type(recipe.train.learning_rate)(designer=rate, executor=rate)}
    )
    found: dict[str, tuple[Recipe, Policy, list[float]]] = {}
    for adapters in ("per_role", "shared"):
        model = recipe.model.model_copy(update={"adapters": adapters})
        one = recipe.model_copy(update={"model": model, "train": train})
        found[adapters] = one, load_policy(one), []
    for _ in range(5):
        for one, policy, seconds in found.values():
            seconds.append(update(RoleTrainer, one, policy, trees, *BOTH))
    memory = {}
    for name, (one, policy, _) in found.items():
        step = partial(update, RoleTrainer, one, policy, trees, *BOTH)
        memory[name] = held(policy.model.parameters()) + peak(step)
    return {
        "time": min(found["per_role"][2]) / min(found["shared"][2]),
        "memory": memory["per_role"] / memory["shared"],
    }


def step_seconds(recipe: Recipe, sampler: FixedDesigns) -> dict[str, float]:
    """Seconds by phase of a training step of the executor: medians of three."""
    found = []
    sampler.clock.seconds.clear()
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        folder.create("")
        for turn in range(3):
            trees = sampler.some(f"step {turn}")
            seconds = dict(sampler.clock.seconds)
            sampler.clock.seconds.clear()
            seconds["update"] = update(
                RoleTrainer, recipe, sampler.engine.policy, trees, "executor"
            )
            write: list[float] = []
            with timed(write):
                folder.write_trees(turn + 1, trees)
            found.append(seconds | {"write": write[0]})
    return {phase: median(one[phase] for one in found) for phase in found[0]}
