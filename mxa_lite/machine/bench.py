"""`mxa-lite bench`: where a step's time goes on this machine, as ratios that machines share.

What is compared runs in turn, A B A B, in one process; medians, unless it says otherwise.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

import torch

from mxa_lite.machine.anchors import TURNS, FixedDesigns, busy, rollouts, timed, updates
from mxa_lite.policy.policy import Policy
from mxa_lite.recipe import file as recipe_file
from mxa_lite.recipe.keys import Recipe
from mxa_lite.rollout.opened import THREADS, load_policy, sampler_for
from mxa_lite.sandbox.box import Ended, Job, Limits, Sandbox

SHAPE = ("train.questions=4", "rollout.designs=4", "rollout.executions=4")  # B, M, N
ONE_CALL = 'answer(Agent("a", "b")(question))'


def bench(sets: tuple[str, ...], say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """The measurements of `mxa-lite bench`; `sets` change the recipe (a model, a budget)."""
    recipe = recipe_file.load("arithmetic", (*SHAPE, *sets))
    policy = load_policy(recipe)
    result: dict[str, Any] = {"machine": machine(policy, recipe)}
    say(f"model {recipe.model.name}, {result['machine']['threads']} threads; sandbox")
    result["sandbox_ms"] = sandbox_ms()
    with sampler_for(recipe, policy) as plain:
        sampler = FixedDesigns(plain.engine, plain.sandbox, plain.grader, recipe)
        say("rollouts")
        trees, result["decode_limit"], seconds = rollouts(sampler)
        say("updates")
        result |= updates(recipe, policy, trees, seconds)
        say("a small, a large and a very large rollout")
        result["scaling"] = scaling(sampler)
        say("beside a spinning process")
        result["busy"] = busy(recipe, sampler)
    return result


MEANING = {
    "sandbox_ms": "ms from start to end of a script of one call; vs_python: / `python -c pass`",
    "decode_limit": "tokens/s / what matrix and memory rate allow; row_steps: computed / kept",
    "step_vs_trl": "stock generate, lengths known, + TRL's update without padding / our step",
    "update_efficiency": "real tokens/s of an update on whole rows / TRL's without padding",
    "prefix_sharing": "an update on whole rows / with each shared prompt computed once",
    "scaling": "seconds per execution by executions, and the last two's ratio",
    "busy": "a step, and its update, beside a spinning process / alone; seconds alone",
}


def described(result: dict[str, Any]) -> list[str]:
    """The measurements as lines for a person."""
    lines = [" ".join(f"{key} {value}" for key, value in result["machine"].items())]
    for name, meaning in MEANING.items():
        values = result[name] if isinstance(result[name], dict) else {"": result[name]}
        numbers = "  ".join(f"{key} {value:.3g}".strip() for key, value in values.items())
        lines += [f"{name:18s} {numbers}", f"{'':18s}   {meaning}"]
    return lines


def machine(policy: Policy, recipe: Recipe) -> dict[str, Any]:
    """What the numbers were measured on."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name(0) if cuda else "cpu",
        "threads": THREADS if policy.threads else torch.get_num_threads(),
        "model": recipe.model.name,
        "engine": recipe.engine,
        "loader": policy.loader,
    }


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


def scaling(sampler: FixedDesigns) -> dict[str, float]:
    """Seconds per execution of rollouts of a quarter, four times and sixteen times a step's
    executions: of 16, 256 and 1,024. And the last two's ratio."""
    costs: dict[str, float] = {}
    for turns, factor, designs in ((TURNS, 1, 1), (TURNS, 4, 0), (1, 16, 0)):
        seconds: list[float] = []
        for turn in range(turns):
            with timed(seconds):
                trees = sampler.some(f"{factor} {turn}", factor, designs)
        count = sum(len(d.executions) for tree in trees for d in tree.designs)
        costs[str(count)] = median(seconds) / count
    *_, middle, most = costs.values()
    return costs | {"ratio": most / middle}
