"""Will a recipe fit a GPU: memory from model shapes and the recipe alone, no weights, no network.

    total = weights + adapters + optimizer + overhead + max(update, generation)
    update = activations + logits            generation = kv_cache + sampling

weights      linear layers of the blocks: NF4 with double quantisation (half a byte, a byte per
             64, 4 bytes per 64 * 256), or the dtype; embeddings and head in the dtype
adapters     r * (in + out) per adapted layer, fp32, one per role
optimizer    fp32 gradients of the learning role(s); two fp32 moments (8-bit: two bytes) of all
activations  T tokens, T = the largest micro-batch (a trajectory is never split): the input of
             every block (gradient checkpointing) and everything inside one block; without
             checkpointing everything inside all blocks
logits       the vocabulary in the dtype and four fp32 copies, for every completion token of the
             micro-batch; Unsloth's loss holds one chunk of them, in two copies
kv_cache     2 * layers * kv_heads * head_dim * dtype, for every token of a generation batch
sampling     three fp32 copies of the vocabulary per row, or what the prefill of the longest
             prompts needs beyond the cache: it runs before the cache is full
overhead     CUDA context, kernels' workspaces, fragmentation: a constant, not measured by us
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from mxa_lite import embedded
from mxa_lite.errors import InputError
from mxa_lite.recipe import Recipe, is_path
from mxa_lite.recipe_file import override

GIB = 2**30
OVERHEAD = int(1.2 * GIB)
LOGIT_CHUNK = 1024  # tokens
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
    "Qwen/Qwen3-4B": Shape(2560, 9728, 36, 32, 8, 128, 151_936, True),
    "Qwen/Qwen3-8B": Shape(4096, 12_288, 36, 32, 8, 128, 151_936, False),
    "HuggingFaceTB/SmolLM2-135M-Instruct": Shape(576, 1536, 30, 9, 3, 64, 49_152, True),
}


def shape_from_config(path: Path) -> Shape:
    """The shape a config.json describes, else InputError."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        heads = config["num_attention_heads"]
        return Shape(
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocab=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not the config of a decoder this kit can plan: {error}"
        ) from None


def shape_of(name: str) -> Shape:
    """The shape of model.name, else InputError."""
    if name == "embedded":
        return shape_from_config(embedded.FOLDER / "config.json")
    if is_path(name):
        return shape_from_config(Path(name).expanduser() / "config.json")
    if name in SHAPES:
        return SHAPES[name]
    known = ", ".join(["embedded", *SHAPES])
    raise InputError(f'plan: the shape of "{name}" is not known; known: {known}, or a local folder')


def _lora_parameters(shape: Shape, recipe: Recipe) -> int:
    targets = recipe.lora.targets
    adapted = [
        size for name, size in shape.linears().items() if targets == "all-linear" or name in targets
    ]
    one = shape.layers * recipe.lora.r * sum(fan_in + fan_out for fan_in, fan_out in adapted)
    return one * (1 if recipe.model.adapters == "shared" else 2)


def _block_bytes(shape: Shape, b: int) -> int:
    """What autograd keeps of one block, per token: norms, projections, rotary, MLP, LoRA inputs."""
    h, i = shape.hidden, shape.intermediate
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    kept = b * (5 * h + 2 * q + 2 * kv + 4 * i)
    casts = 4 * (4 * h + q + i) if b < 4 else 0  # norms in fp32; PEFT casts LoRA's inputs to it
    return kept + casts


def estimate(shape: Shape, recipe: Recipe, b: int = 2, gpu: bool = True) -> dict[str, int]:
    """Bytes per part, by the module's formula. b: bytes of the dtype; gpu: with checkpointing."""
    linear = shape.layers * sum(i * o for i, o in shape.linears().values())
    table = shape.vocab * shape.hidden * (1 if shape.tied else 2)
    per_weight = NF4_BYTES if recipe.model.quantization == "4bit" else b
    lora = _lora_parameters(shape, recipe)
    both = recipe.schedule.mode == "coupled" or recipe.model.adapters == "shared"
    moments = {"adamw_torch": 8, "sgd": 0}.get(recipe.train.optim, 2)
    lengths = recipe.rollout.max_completion_tokens
    longest = max(lengths.designer, lengths.executor)
    budget = recipe.train.tokens_per_micro_batch
    tokens = max(budget, recipe.model.max_length)
    block = _block_bytes(shape, b)
    saved = shape.layers * shape.hidden * b
    logit_tokens = max(longest, budget // longest * longest)
    copies = b + 4 * 4
    if gpu and recipe.model.loader != "plain":
        logit_tokens, copies = min(LOGIT_CHUNK, logit_tokens), b + 2 * 4
    cache = max(recipe.generation_tokens, recipe.model.max_length)
    executions = recipe.train.questions * recipe.rollout.designs * recipe.rollout.executions
    shortest = min(lengths.designer, lengths.executor)
    rows = min(max(1, cache // shortest), executions)
    per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * b
    prompts = cache * (1 - shortest / recipe.model.max_length)  # at most, the rest is reserved
    inside = b * (3 * shape.intermediate + 7 * shape.hidden) + (4 * shape.intermediate) * (b < 4)
    prefill = int(prompts * (per_token + inside))
    return {
        "weights": int(linear * per_weight + table * b),
        "adapters": 4 * lora,
        "optimizer": (4 if both else 2) * lora + moments * lora,
        "activations": tokens * (saved + block if gpu else shape.layers * block),
        "logits": logit_tokens * shape.vocab * copies,
        "kv_cache": cache * per_token,
        "sampling": max(rows * shape.vocab * 4 * 3, prefill - cache * per_token),
        "overhead": OVERHEAD if gpu else 0,
    }


def total(parts: dict[str, int]) -> int:
    """The peak in bytes: what always lies there, and the larger of the two phases."""
    update = parts["activations"] + parts["logits"]
    generation = parts["kv_cache"] + parts["sampling"]
    fixed = sum(parts[name] for name in ("weights", "adapters", "optimizer", "overhead"))
    return fixed + max(update, generation)


# Knobs in the order in which to try them: of memory alone, then those that change what is learned.
_FREE = ("model.quantization", "generation_tokens", "train.tokens_per_micro_batch", "train.optim")
_COSTLY = ("model.max_length", "lora.r")


def _lower(recipe: Recipe, key: str) -> dict[str, Any]:
    """The settings that take a knob one step down; empty at its end."""
    value = attrgetter(key)(recipe)
    if key == "model.quantization":
        return {key: "4bit"} if value == "none" else {}
    if key == "train.optim":
        return {key: "adamw_8bit"} if value == "adamw_torch" else {}
    half = value // 2
    if key == "lora.r":
        return {key: half} if half >= 8 else {}
    if key != "model.max_length":  # no batch is smaller than its longest row
        return {key: half} if half >= recipe.model.max_length else {}
    caps = {
        "rollout.max_completion_tokens.designer": half // 2,
        "rollout.max_completion_tokens.executor": half // 2,
        "train.tokens_per_micro_batch": half,
        "generation_tokens": half,
    }
    lowered = {name: cap for name, cap in caps.items() if attrgetter(name)(recipe) > cap}
    return {key: half, **lowered} if half >= 1024 else {}


def _advice(shape: Shape, recipe: Recipe, limit: float) -> list[str]:
    """`key=value` settings, the one that saves most first, until it fits or nothing is left."""
    lowered: dict[str, Any] = {}
    size = total(estimate(shape, recipe))
    while size > limit:
        best: tuple[int, dict[str, Any], Recipe] | None = None
        for keys in (_FREE, _COSTLY):
            for settings in (_lower(recipe, key) for key in keys):
                changed = override(recipe, settings)
                then = total(estimate(shape, changed))
                if then < size and (best is None or then < best[0]):
                    best = (then, settings, changed)
            if best:
                break
        if best is None:
            lowered["model.name"] = "a smaller model"
            break
        size, settings, recipe = best
        lowered.update(settings)
    return [f"{key}={value}" for key, value in lowered.items()]


def plan(recipe: Recipe, vram_gb: float) -> dict[str, Any]:
    """{"fits", "total_gb", "parts" in GB, "lower_first"}; a GB is 2**30 bytes, as cards count.

    lower_first: `--set` texts, knobs of memory alone before those that change what is learned.
    Raises InputError when the model's shape is not known.
    """
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
    lines = [f"{name:<12} {size:8.2f} GB" for name, size in result["parts"].items()]
    verdict = "fits" if result["fits"] else "does not fit"
    lines.append(f"peak         {result['total_gb']:8.2f} GB: {verdict} {vram_gb:g} GB")
    lines.append("(peak: the larger of activations + logits and kv_cache + sampling, and the rest)")
    if result["lower_first"]:
        lines.append("lower first: " + "  ".join(f"--set {s}" for s in result["lower_first"]))
    return "\n".join(lines)
