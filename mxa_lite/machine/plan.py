"""Will a recipe fit a GPU: memory from model shapes and the recipe alone, no weights, no network.

    total = weights + adapters + optimizer + dequantized + overhead + max(update, generation)
    update = activations + logits            generation = kv_cache + forward

weights      linear layers of the blocks: NF4 with double quantisation (half a byte, a byte per
             64, 4 bytes per 64 * 256), or the dtype; embeddings and head in the dtype
adapters     r * (in + out) per adapted layer, fp32, one per role
optimizer    fp32 gradients of the learning role(s); two fp32 moments (8-bit: two bytes) of all
activations  T tokens, T = the largest micro-batch (a trajectory is never split): the input of
             every block (gradient checkpointing; that Unsloth moves some to the CPU is not counted)
             and everything inside one block; without checkpointing everything inside all blocks
logits       the vocabulary in the dtype and four fp32 copies, for every completion token of the
             micro-batch, or one piece of them; Unsloth's loss holds a chunk, in two copies
kv_cache     2 * layers * kv_heads * head_dim * dtype, for every token of a generation batch
forward      the larger of two, beyond the cache. A token: seven fp32 copies of the vocabulary per
             row (logits and noise), and keys and values of one block once more, repeated for every
             head where heads share them. The prefill of the longest prompts, which runs before the
             cache is full: what one block needs; Unsloth then copies the prompts' keys and values
dequantized  the largest 4-bit layer in the dtype
overhead     CUDA context, kernels' workspaces, fragmentation: a constant, not measured by us
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import isfinite, prod
from operator import attrgetter
from pathlib import Path
from typing import Any

from mxa_lite import embedded
from mxa_lite.errors import InputError
from mxa_lite.recipe.checks import is_path
from mxa_lite.recipe.file import override
from mxa_lite.recipe.keys import Recipe

GIB = 2**30
OVERHEAD = int(1.2 * GIB)
LOGIT_CHUNK = 1024  # tokens
PIECE = 1 << 25  # logits; a test holds it to that of `learn.logprobs`, which loads torch
SMALLER = "a smaller model"  # than any that is known here
NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama-like decoder, as its config.json names them."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool

    def linears(self) -> dict[str, tuple[int, int]]:
        """(in, out) of the linear layers of one block."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        h, i = self.hidden, self.intermediate
        return {
            "q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h),
            "gate_proj": (h, i), "up_proj": (h, i), "down_proj": (i, h),
        }  # fmt: skip


# From the models' config.json; every Hub model that a shipped recipe names is here.
SHAPES = {
    "Qwen/Qwen3-0.6B": Shape(1024, 3072, 28, 16, 8, 128, 151_936, True),
    "Qwen/Qwen3-1.7B": Shape(2048, 6144, 28, 16, 8, 128, 151_936, True),
    "HuggingFaceTB/SmolLM2-135M-Instruct": Shape(576, 1536, 30, 9, 3, 64, 49_152, True),
    "Qwen/Qwen3-4B": Shape(2560, 9728, 36, 32, 8, 128, 151_936, True),
    "Qwen/Qwen3-8B": Shape(4096, 12_288, 36, 32, 8, 128, 151_936, False),
}


def shape_from_config(path: Path) -> Shape:
    """The shape a config.json describes, else InputError."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        return Shape(
            hidden,
            config["intermediate_size"],
            config["num_hidden_layers"],
            heads,
            config.get("num_key_value_heads") or heads,
            config.get("head_dim") or hidden // heads,
            config["vocab_size"],
            bool(config.get("tie_word_embeddings", False)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"not the config of a decoder this kit can plan: {error}"
        raise InputError(f"{path}: {reason}") from None


def shape_of(name: str) -> Shape:
    """The shape of model.name, else InputError."""
    if name in SHAPES:
        return SHAPES[name]
    if name == "embedded" or is_path(name):
        folder = embedded.FOLDER if name == "embedded" else Path(name).expanduser()
        return shape_from_config(folder / "config.json")
    known = ", ".join(["embedded", *SHAPES])
    raise InputError(f'plan: the shape of "{name}" is not known; known: {known}, or a local folder')


def estimate(shape: Shape, recipe: Recipe, b: int = 2, gpu: bool = True) -> dict[str, int]:
    """Bytes per part, by the module's formula. b: bytes of the dtype; gpu: with checkpointing."""
    h, i, layers, sizes = shape.hidden, shape.intermediate, shape.layers, shape.linears()
    q, kv = sizes["q_proj"][1], sizes["k_proj"][1]
    rollout, train, targets = recipe.rollout, recipe.train, recipe.lora.targets
    lengths = rollout.max_completion_tokens.designer, rollout.max_completion_tokens.executor

    linear = layers * sum(fan_in * fan_out for fan_in, fan_out in sizes.values())
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
    unsloth = gpu and recipe.model.loader != "plain"
    if unsloth:
        logit_tokens, copies = min(LOGIT_CHUNK, logit_tokens), b + 2 * 4
    else:
        logit_tokens = min(logit_tokens, max(1, PIECE // shape.vocab))

    cache = max(recipe.generation_tokens, recipe.model.max_length)
    shortest = min(lengths)
    executions = train.questions * rollout.designs * rollout.executions
    rows = min(max(1, cache // shortest), executions)
    per_token = 2 * layers * kv * b
    token = rows * shape.vocab * 4 * 7 + cache * b * (kv if q == kv else 2 * q + kv)
    prompts = cache * (1 - shortest / recipe.model.max_length)  # at most, the rest is reserved
    prefill = prompts * (per_token + b * (3 * i + 7 * h) + (4 * i if b < 4 else 0))
    if unsloth:
        prefill = max(prefill, prompts * 2 * per_token)
    quantized = recipe.model.quantization == "4bit"
    weight = NF4_BYTES if quantized else b
    return {
        "weights": int(linear * weight) + table * b,
        "adapters": 4 * lora * adapters,
        "optimizer": lora * (4 * learning + moments * adapters),
        "activations": tokens * (layers * h * b + block if gpu else layers * block),
        "logits": logit_tokens * shape.vocab * copies,
        "kv_cache": cache * per_token,
        "forward": max(token, int(prefill) - cache * per_token),
        "dequantized": b * max(map(prod, sizes.values())) if quantized else 0,
        "overhead": OVERHEAD if gpu else 0,
    }


def total(parts: dict[str, int]) -> int:
    """The peak in bytes: what always lies there, and the larger of the two phases."""
    update = parts["activations"] + parts["logits"]
    generation = parts["kv_cache"] + parts["forward"]
    return sum(parts.values()) - min(update, generation)


def _steps(recipe: Recipe) -> tuple[list[dict[str, int]], list[dict[str, int]]]:
    """One step down: of each batch, or else of the lengths, which changes what is learned."""
    batches = ("generation_tokens", "train.tokens_per_micro_batch")
    halves = {key: attrgetter(key)(recipe) // 2 for key in batches}
    half = recipe.model.max_length // 2
    roles = [f"rollout.max_completion_tokens.{role}" for role in ("designer", "executor")]
    caps = dict.fromkeys(batches, half) | dict.fromkeys(roles, half // 2)
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
        if best is None:
            fitting = {n: total(estimate(other, recipe)) for n, other in SHAPES.items()}
            fitting = {name: needed for name, needed in fitting.items() if needed <= limit}
            chosen["model.name"] = max(fitting, key=fitting.__getitem__, default=SMALLER)
            break
        recipe = override(recipe, best)
        chosen |= best
    return [f"{key}={value}" for key, value in chosen.items()]


def plan(recipe: Recipe, vram_gb: float) -> dict[str, Any]:
    """{"fits", "total_gb", "parts" in GB, "lower_first"}; a GB is 2**30 bytes, as cards count.

    lower_first: `--set` texts, knobs of memory alone before those that change what is learned.
    Raises InputError when the model's shape is not known, or vram_gb is not finite.
    """
    if not isfinite(vram_gb):
        raise InputError(f"--vram: must be a finite number of GB, not {vram_gb}")
    shape = shape_of(recipe.model.name)
    parts = estimate(shape, recipe)
    size = total(parts)
    return {
        "fits": size <= vram_gb * GIB,
        "total_gb": round(size / GIB, 2),
        "parts": {name: round(value / GIB, 3) for name, value in parts.items()},
        "lower_first": _advice(shape, recipe, vram_gb * GIB),
    }


def describe(result: dict[str, Any], vram_gb: float) -> str:
    """The plan as lines for a person."""
    rows = result["parts"] | {"peak": result["total_gb"]}
    lines = [f"{name:<12} {size:8.2f} GB" for name, size in rows.items()]
    lines[-1] += f": {'fits' if result['fits'] else 'does not fit'} {vram_gb:g} GB (it holds"
    lines.append("activations + logits or kv_cache + forward, whichever is more, and the rest)")
    if result["lower_first"]:
        lines.append("lower first: " + "  ".join(f"--set {s}" for s in result["lower_first"]))
        lines[-1] = lines[-1].replace(f"--set model.name={SMALLER}", f"and take {SMALLER}")
    return "\n".join(lines)
