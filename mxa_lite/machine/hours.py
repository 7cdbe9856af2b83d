"""How many hours a recipe takes on a card: arithmetic over a table of guesses.

hours.yaml holds the guesses, for the fast end of the range and the slow one, and what vendors say.

    hours = decoding + prompts + updates, over the cold start, training and evaluations

decoding  completions * tokens / useful rows of a batch, times the seconds of a decode step: what it
          reads, over the bandwidth, and its kernel launches; they overlap at the fast end, and are
          added at the slow one. It reads the linear layers (of 4 bits: and writes and reads them in
          the dtype, as Unsloth does for every step), the head, keys and values, and logits
prompts   2 operations for each parameter and prompt token, read again when rows have left
updates   6 for each parameter and token of the trajectories: forward, again, and backward

With `engine: vllm` decoding reads the dtype's weights, rows hold what they have drawn and not their
limit, and `engine` is added: to start it, and to have it sleep and wake around each update.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mxa_lite.credit.schedule import learning_roles
from mxa_lite.mas.patterns import CALLS, within
from mxa_lite.recipe.keys import Recipe
from mxa_lite.recipe.shapes import NF4_BYTES, Shape
from mxa_lite.tree import ROLES

ROUTED = 3.3  # calls of the hand-written router
LOGIT_COPIES = 7  # fp32, read or written at a step
TFLOPS_PER_GB = 0.07  # of an unknown card: as of the slowest in the table


class Card(NamedTuple):
    """A card by its data sheet."""

    name: str
    vram_gb: float
    gb_per_s: float
    tflops: float


TABLES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
CARDS = {key: Card(**data) for key, data in TABLES["cards"].items()}


def _ends(table: str) -> dict[str, dict[str, float]]:
    return {
        end: {name: ends[number] for name, ends in TABLES[table].items()}
        for number, end in enumerate(("fast", "slow"))
    }


GUESSES, VLLM = _ends("guesses"), _ends("vllm")


def card_of(name: str | None, vram_gb: float | None, gb_per_s: float | None) -> Card:
    """The card of that name, else the largest of no more memory; with these data instead."""
    smaller = [c for c in CARDS.values() if vram_gb is None or c.vram_gb <= vram_gb]
    first = min(CARDS.values(), key=lambda c: c.vram_gb)
    card = CARDS[name] if name else max(smaller, key=lambda c: c.vram_gb, default=first)
    if gb_per_s is not None:
        card = Card("a card", card.vram_gb, gb_per_s, gb_per_s * TFLOPS_PER_GB)
    return card if vram_gb is None else card._replace(vram_gb=vram_gb)


def work_of(recipe: Recipe, calls: float, signal: float) -> dict[str, tuple[float, ...]]:
    """(designs, calls, trajectories that are learned from) by phase. calls: of an execution.
    signal: share of trajectories with a gradient."""
    rollout, train, held_out, start = recipe.rollout, recipe.train, recipe.eval, recipe.cold_start
    agents, calls = (1, calls) if recipe.method == "metaagent" else (0, 1.0)
    designs = train.questions * rollout.designs
    executed = designs * rollout.executions * calls
    learned = 0.0
    for number in range(1, train.steps + 1):
        roles: tuple[str, ...] = ROLES[1 - agents :]  # a user's own function may let both learn
        if agents and isinstance(recipe.schedule.mode, str):
            roles = learning_roles(recipe.schedule, number)
        learned += designs * ("designer" in roles) + executed * ("executor" in roles)

    questions, has = held_out.questions, held_out.baselines.__contains__
    tries = questions * held_out.samples
    twice = 2 * (tries + questions * held_out.greedy)  # before training and after it
    during = tries * ((train.steps - 1) // held_out.every if held_out.every else 0)
    swapped = held_out.swap and agents and recipe.model.adapters == "per_role"
    votes = questions * max(1, held_out.samples // 2) * (calls + agents)
    systems = sum(CALLS[name] for name in within(rollout.max_calls)) * held_out.fixed_samples
    measured = (twice + during + 2 * tries * swapped) * calls
    measured += twice * agents * has("single") + 2 * votes * has("self_consistency")
    measured += questions * systems * has("fixed") + tries * ROUTED * has("router")

    drawn = start.questions * rollout.designs * start.rounds * (start.method == "bootstrap")
    rounds = {"none": 0, "data": 1, "bootstrap": start.rounds}[start.method]
    warm = rounds * start.steps * start.batch_size * 2
    return {
        "cold_start": (drawn, drawn * calls, warm),
        "training": (train.steps * designs * agents, train.steps * executed, learned * signal),
        "evaluation": ((twice + during) * agents, measured, 0),
    }


def decode_step(
    shape: Shape, recipe: Recipe, card: Card, rows: float, guess: dict[str, float]
) -> dict[str, float]:
    """A decode step of so many rows: GB of weights that it reads, launches, milliseconds."""
    linear, b = shape.linear_parameters(), 2
    whole = recipe.rollout.weights == "merged" or recipe.engine == "vllm"
    quantized = recipe.model.quantization == "4bit" and not whole
    weights = linear * (NF4_BYTES + 2 * b if quantized else b) + shape.vocab * shape.hidden * b
    context_tokens = guess["prompt"] + guess["tokens"] / 2
    moved = weights + rows * (context_tokens * shape.kv_bytes(b) + shape.vocab * 4 * LOGIT_COPIES)
    reading = moved / (card.gb_per_s * 1e9 * guess["bandwidth"])
    launches = shape.layers * guess["launches"]
    launching = launches * guess["launch_us"] / 1e6 + guess["scheduling_ms"] / 1e3
    seconds = reading + launching - guess["overlap"] * min(reading, launching)
    return {"weights_gb": weights / 1e9, "launches": launches, "step_ms": seconds * 1e3}


def estimate_hours(recipe: Recipe, shape: Shape, card: Card) -> dict[str, Any]:
    """{"hours": {"low", "high"}, "card", "rests_on": what both ends are made of}."""
    ends: dict[str, dict[str, float]] = {}
    limits, operations = recipe.rollout.max_completion_tokens, 2 * shape.linear_parameters()
    vllm = recipe.engine == "vllm"
    for end, usual in GUESSES.items():
        guess = usual | (VLLM[end] if vllm else {})
        numbers: dict[str, float] = {"tokens": 0, "row_steps": 0}
        per_second = card.tflops * 1e12 * guess["flops"]
        again = guess["read"] if vllm or recipe.model.loader != "plain" else 1.0
        for phase, (designs, calls, learned) in work_of(
            recipe, guess["calls"], guess["signal"]
        ).items():
            prompt = guess["taught" if phase == "cold_start" else "prompt"]
            many, each = recipe.train.questions * recipe.rollout.designs, recipe.rollout.executions
            if phase == "evaluation":
                many, each = recipe.eval.questions * recipe.eval.samples, 1
            length = guess["prompt"] + min(guess["tokens"], limits.executor)
            seconds = learned * length * 3 * operations / per_second
            for count, limit, waiting in (
                (designs, limits.designer, many),
                (calls, limits.executor, many * each),
            ):
                drawn = min(guess["tokens"], limit)
                tokens, held = count * drawn, prompt + (drawn if vllm else limit)
                rows = max(1.0, min(recipe.generation_tokens // held, waiting, 256))
                step = decode_step(shape, recipe, card, rows, guess)
                seconds += tokens / guess["useful"] / rows * step["step_ms"] / 1e3
                seconds += count * prompt * again * operations / per_second
                numbers["tokens"] += tokens
            numbers |= step | {"rows": rows, f"{phase}_hours": seconds / 3600}
        numbers["row_steps"] = numbers["tokens"] / guess["useful"]
        if vllm:
            turns = recipe.train.steps * guess["turn_s"]
            numbers["engine_hours"] = (guess["start_s"] + turns) / 3600
        ends[end] = {key: round(value, 3) for key, value in numbers.items()}
    low, high = (sum(v for k, v in e.items() if k.endswith("_hours")) for e in ends.values())
    hours = {"low": round(low, 2), "high": round(high, 2)}
    return {"hours": hours, "card": card.name, "rests_on": ends}
