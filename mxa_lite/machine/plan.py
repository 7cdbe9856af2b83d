"""Will a recipe fit a GPU: memory from model shapes and the recipe alone, no weights, no network.

    total = weights + adapters + optimizer + dequantized + overhead + max(update, generation)
    update = activations + logits            generation = kv_cache + forward + vllm

weights      linear layers of the blocks: NF4 with double quantisation (half a byte, a byte per
             64, 4 bytes per 64 * 256), or the dtype; embeddings and head in the dtype
adapters     r * (in + out) per adapted layer, fp32, one per role
optimizer    fp32 gradients of the learning role(s); two fp32 moments (8-bit: two bytes) of all
activations  T tokens, T = the largest micro-batch (a trajectory is never split): the input of
             every block (gradient checkpointing; that Unsloth moves some to the CPU is not counted)
             and everything inside one block; without checkpointing everything inside all blocks
logits       the vocabulary in the dtype and four fp32 copies, for every completion token of the
             micro-batch, or one piece of them; Unsloth's loss holds a chunk, in two copies
merged       copies of the adapted layers in the dtype, one an adapter (rollout.weights=merged)
vllm         the base once more, in the dtype (engine=vllm); its graphs are not counted
kv_cache     2 * layers * kv_heads * head_dim * dtype, for every token of a generation batch; under
             Unsloth for 512 tokens a row more, the step in which its caches grow
forward      the larger of two, beyond the cache. A token: seven fp32 copies of the vocabulary per
             row (logits and noise), and keys and values of one block once more, repeated for every
             head where heads share them. The prefill of the longest prompts, which runs before the
             cache is full: what one block needs; Unsloth then copies the prompts' keys and values
dequantized  the largest 4-bit layer in the dtype, and a float for each of its blocks of 64
overhead     CUDA context, kernels' workspaces, fragmentation: a constant, not measured by us
"""

from __future__ import annotations

from math import isfinite, prod
from operator import attrgetter
from typing import Any

from mxa_lite.errors import InputError
from mxa_lite.machine.hours import card_of, estimate_hours
from mxa_lite.recipe.file import override
from mxa_lite.recipe.keys import Recipe
from mxa_lite.recipe.shapes import NF4_BYTES, SHAPES, Shape, shape_of
from mxa_lite.tree import ROLES

GIB = 2**30
OVERHEAD = int(1.2 * GIB)
LOGIT_CHUNK = 1024  # tokens
PIECE = 1 << 25  # logits; a test holds it to that of `learn.logprobs`, which loads torch
GROWTH = 512  # tokens by which Unsloth's caches grow
TIGHT = 0.9  # of a card: beyond it fragments and other programs may be too much
BATCHES = ("generation_tokens", "train.tokens_per_micro_batch")
SMALLER = "a smaller model"  # than any that is known here


def estimate(shape: Shape, recipe: Recipe, b: int = 2, gpu: bool = True) -> dict[str, int]:
    """Bytes per part, by the module's formula. b: bytes of the dtype; gpu: with checkpointing."""
    h, i, layers, sizes = shape.hidden, shape.intermediate, shape.layers, shape.linears()
    q, kv = sizes["q_proj"][1], sizes["k_proj"][1]
    rollout, train, targets = recipe.rollout, recipe.train, recipe.lora.targets
    lengths = rollout.max_completion_tokens.designer, rollout.max_completion_tokens.executor

    linear = shape.linear_parameters()
    table = shape.vocab * h * (1 if shape.tied else 2)
    adapted = [size for name, size in sizes.items() if targets == "all-linear" or name in targets]
    lora = layers * recipe.lora.r * sum(map(sum, adapted))  # of one adapter
    adapters = 1 if recipe.model.adapters == "shared" else 2
    alone = recipe.schedule.mode in ("stagewise", "designer_only", "executor_only")
    learning = 1 if alone else adapters  # an own function may have both learn at once
    moments = {"adamw_torch": 8, "sgd": 0}.get(train.optim, 2)

    tokens = max(train.tokens_per_micro_batch, recipe.model.max_length)
    block = b * (5 * h + 2 * q + 2 * kv + 4 * i)  # norms, projections, rotary, MLP
    if b < 4:
        block += 4 * (4 * h + q + i)  # norms in fp32; PEFT casts LoRA's inputs to it
    longest = max(lengths)
    logit_tokens = max(longest, train.tokens_per_micro_batch // longest * longest)
    copies = b + 4 * 4
    unsloth = gpu and recipe.model.loader != "plain" and recipe.engine == "waves"
    if unsloth:
        logit_tokens, copies = min(LOGIT_CHUNK, logit_tokens), b + 2 * 4
    else:
        logit_tokens = min(logit_tokens, max(1, PIECE // shape.vocab))

    cache = max(recipe.generation_tokens, recipe.model.max_length)
    shortest = min(lengths)
    executions = train.questions * rollout.designs * rollout.executions
    rows = min(max(1, cache // shortest), executions)
    per_token = shape.kv_bytes(b)
    reserved = cache + GROWTH * rows * unsloth
    token = rows * shape.vocab * 4 * 7 + cache * b * (kv if q == kv else 2 * q + kv)
    prompts = cache * (1 - shortest / recipe.model.max_length)  # at most, the rest is reserved
    prefill = prompts * (per_token + b * (3 * i + 7 * h) + (4 * i if b < 4 else 0))
    if unsloth:
        prefill = max(prefill, prompts * 2 * per_token)
    quantized = recipe.model.quantization == "4bit"
    weight = NF4_BYTES if quantized else b
    copied = layers * sum(map(prod, adapted)) * adapters * (rollout.weights == "merged")
    return {
        "weights": int(linear * weight) + table * b,
        "vllm": (linear + table) * b * (recipe.engine == "vllm"),
        "merged": copied * b,
        "adapters": 4 * lora * adapters,
        "optimizer": lora * (4 * learning + moments * adapters),
        "activations": tokens * (layers * h * b + block if gpu else layers * block),
        "logits": logit_tokens * shape.vocab * copies,
        "kv_cache": reserved * per_token,
        "forward": max(token, int(prefill) - reserved * per_token),
        "dequantized": int((b + 4 / 64) * max(map(prod, sizes.values()))) if quantized else 0,
        "overhead": OVERHEAD if gpu else 0,
    }


def total(parts: dict[str, int]) -> int:
    """The peak in bytes: what always lies there, and the larger of the two phases."""
    update = parts["activations"] + parts["logits"]
    generation = parts["kv_cache"] + parts["forward"] + parts["vllm"]  # it sleeps in an update
    return sum(parts.values()) - min(update, generation)


def _steps(recipe: Recipe) -> tuple[list[dict[str, int]], list[dict[str, int]]]:
    """One step down: of each batch, or else of the lengths, which changes what is learned."""
    halves = {key: attrgetter(key)(recipe) // 2 for key in BATCHES}
    half = recipe.model.max_length // 2
    roles = [f"rollout.max_completion_tokens.{role}" for role in ROLES]
    caps = dict.fromkeys(BATCHES, half) | dict.fromkeys(roles, half // 2)
    over = {key: cap for key, cap in caps.items() if attrgetter(key)(recipe) > cap}
    return (  # no batch is smaller than its longest row
        [{key: n} for key, n in halves.items() if n >= recipe.model.max_length],
        [{"model.max_length": half, **over}] if half >= 1024 else [],
    )


def _advice(shape: Shape, recipe: Recipe, limit: float) -> list[str]:
    """`key=value` settings, the one that saves most first, until it fits or nothing is left."""
    chosen: dict[str, Any] = {}

    def size(settings: dict[str, int]) -> int:
        return total(estimate(shape, override(recipe, settings)))

    while (now := size({})) > limit:
        batches, lengths = _steps(recipe)
        best = min([s for s in batches if size(s) < now] or lengths, key=size, default=None)
        if best is None:  # another model, with batches of single rows
            least = dict.fromkeys(BATCHES, recipe.model.max_length)
            least = {key: n for key, n in least.items() if attrgetter(key)(recipe) > n}
            recipe, chosen = override(recipe, least), chosen | least
            fitting = {n: total(estimate(other, recipe)) for n, other in SHAPES.items()}
            fitting = {name: needed for name, needed in fitting.items() if needed <= limit}
            family = recipe.model.name.partition("-")[0]
            fitting = {n: x for n, x in fitting.items() if n.startswith(family)} or fitting
            chosen["model.name"] = max(fitting, key=fitting.__getitem__, default=SMALLER)
            break
        recipe = override(recipe, best)
        chosen |= best
    return [f"{key}={value}" for key, value in chosen.items()]


def plan(
    recipe: Recipe,
    vram_gb: float | None = None,
    card_name: str | None = None,
    gb_per_s: float | None = None,
) -> dict[str, Any]:
    """{"fits", "tight", "vram_gb", "total_gb", "parts" in GB, "lower_first", "hours": {"low",
    "high"}, "card", "rests_on"}; a GB is 2**30 bytes, as cards count.

    lower_first: `--set` texts, knobs of memory alone before those that change what is learned.
    hours are those of the named card, else of the largest known one of no more memory; gb_per_s:
    its bandwidth instead. Raises InputError when the model's shape is not known, or vram_gb is not
    finite.
    """
    if vram_gb is not None and not isfinite(vram_gb):
        raise InputError(f"--vram: must be a finite number of GB, not {vram_gb}")
    card, shape = card_of(card_name, vram_gb, gb_per_s), shape_of(recipe.model.name)
    parts, limit = estimate(shape, recipe), card.vram_gb * GIB
    size = total(parts)
    return {
        "fits": size <= limit,
        "tight": TIGHT * limit < size <= limit,
        "vram_gb": card.vram_gb,
        "total_gb": round(size / GIB, 2),
        "parts": {name: round(value / GIB, 3) for name, value in parts.items()},
        "lower_first": _advice(shape, recipe, limit),
        **estimate_hours(recipe, shape, card),
    }


def describe(result: dict[str, Any]) -> str:
    """The plan as lines for a person."""
    rows = result["parts"] | {"peak": result["total_gb"]}
    lines = [f"{name:<12} {size:8.2f} GB" for name, size in rows.items()]
    fits = ("fits, but is tight in" if result["tight"] else "fits") if result["fits"] else ""
    lines[-1] += f": {fits or 'does not fit'} {result['vram_gb']:g} GB (it holds"
    lines.append("activations + logits or kv_cache + forward + vllm, the larger, and the rest)")
    if result["lower_first"]:
        lines.append("lower first: " + "  ".join(f"--set {s}" for s in result["lower_first"]))
        lines[-1] = lines[-1].replace(f"--set model.name={SMALLER}", f"and take {SMALLER}")
    (low, high), (fast, slow) = result["hours"].values(), result["rests_on"].values()
    lines.append(
        f"hours: {low} to {high} on {result['card']}, by machine/hours.yaml, never measured:"
    )
    lines += [f"{key:<16} {fast[key]:>12,.10g} {slow[key]:>12,.10g}" for key in fast]
    return "\n".join(lines)
