"""The base model in 4 bit, its tokenizer, and one fresh LoRA adapter per role (or one shared)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
)

from mxa_lite import embedded
from mxa_lite.errors import InputError
from mxa_lite.policy import accelerator, choose_loader
from mxa_lite.policy.lora import lora_config
from mxa_lite.policy.merged import Merged
from mxa_lite.policy.policy import ROLES, Policy
from mxa_lite.recipe.keys import Model, Recipe

COPIES = 1 << 30  # bytes of merged weights that nobody needs to be asked for


def choose_dtype(model: Model) -> tuple[torch.dtype, str]:
    """(dtype, reason): what matrix products are computed in, chosen once."""
    if model.dtype != "auto":
        return getattr(torch, model.dtype), "the recipe asks for it"
    if not accelerator():
        return torch.float32, "CPU: rows stay equal to 1e-6 whatever batch they are in"
    # torch counts a card that only emulates it too, which is slow, and Unsloth then loads float16.
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16, "the GPU computes in bfloat16"
    return torch.float16, "the GPU has no bfloat16"


def autocast(model: Model) -> dict[str, bool]:
    """The trainers' `bf16` and `fp16`: mixed precision in the dtype the base computes in."""
    dtype, _ = choose_dtype(model)
    return {
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16 and accelerator(),  # its gradient scaler needs a GPU
    }


def choose_weights(recipe: Recipe, model: Any, loader: str) -> tuple[str, str]:
    """("merged" or "adapter", reason): what rollouts are generated with.

    model: with its adapters. Raises InputError when copies are asked for under Unsloth.
    """
    if recipe.rollout.weights != "auto":
        if recipe.rollout.weights == "merged" and loader == "unsloth":
            raise InputError("rollout.weights is merged, which needs model.loader=plain")
        return recipe.rollout.weights, "the recipe asks for it"
    if loader == "unsloth":
        return "adapter", "Unsloth generates with its own kernels"
    base = model.get_base_model()
    if base.dtype != torch.float32:
        return "adapter", f"an adapter is rounded away in {str(base.dtype).removeprefix('torch.')}"
    layers = [m for m in base.modules() if isinstance(m, BaseTunerLayer)]
    parameters = sum(layer.in_features * layer.out_features for layer in layers)
    size = 4 * parameters * len(model.peft_config)
    if size > COPIES:
        return "adapter", f"copies of the base would take {size / 2**30:.1f} GiB"
    return "merged", f"copies of the base take {size / 2**20:.0f} MiB"


def folder_of(model: Model) -> str:
    """The embedded model's folder, a local folder, or the Hub id as given."""
    if model.name == "embedded":
        return str(embedded.FOLDER)
    local = Path(model.name).expanduser()
    return str(local) if local.is_dir() else model.name


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a completion: those the model's generation config names, and eos."""
    ends = getattr(model.generation_config, "eos_token_id", None) or []
    return list(
        dict.fromkeys([*([ends] if isinstance(ends, int) else ends), tokenizer.eos_token_id])
    )


def set_pad(tokenizer: Any, ends: Iterable[int] = ()) -> str | None:
    """Give the tokenizer a pad token that is neither eos nor part of a prompt; says what it took.

    Unsloth's loss rebuilds masks from `token != pad`, so a pad that occurs in text loses tokens.
    ends: further tokens that end a completion. Qwen3 pads with one of its two.
    """
    used = {tokenizer.eos_token_id, tokenizer.bos_token_id, *ends}
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in used:
        return None
    template = str(tokenizer.chat_template or "")
    spare = [
        token
        for token in reversed(tokenizer.all_special_tokens)
        if tokenizer.convert_tokens_to_ids(token) not in used and token not in template
    ]
    added = [
        str(token)
        for index, token in sorted(tokenizer.added_tokens_decoder.items(), reverse=True)
        if index not in used and token.special and str(token) not in template
    ]
    if not (candidates := spare + added):
        raise InputError("the tokenizer has no spare special token to pad with; add one to it")
    tokenizer.pad_token = candidates[0]
    return (
        f"padding with {candidates[0]}, since the model's pad token was missing or can end a reply"
    )


def _plain_base(model: Model, dtype: torch.dtype) -> tuple[Any, Any]:
    name = folder_of(model)
    quantization = None
    if model.quantization == "4bit":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        base = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=dtype,
            quantization_config=quantization,
            device_map={"": int(os.environ.get("LOCAL_RANK", "0"))} if accelerator() else None,
        )
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"model.name: {name} does not load: {reason}") from error
    return base, tokenizer


def keep_differentiable(model: Any) -> None:
    """Stop bitsandbytes from repacking 4-bit weights on CPU.

    In eval mode on a CPU with AVX512-BF16 it repacks them for a kernel that computes in bfloat16
    and has no backward; the packed form then stays in training, and every gradient that should
    pass through the layer is silently lost (seen in 0.50.2).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load(recipe: Recipe) -> Policy:
    """Load the base in NF4 (or whole) and put fresh adapters on it, seeded by the recipe."""
    loader, why_loader = choose_loader(recipe.model)
    dtype, why_dtype = choose_dtype(recipe.model)
    notes = [
        f"model {recipe.model.name} in {recipe.model.quantization}",
        f"loader {loader}: {why_loader}",
        f"dtype {str(dtype).removeprefix('torch.')}: {why_dtype}",
    ]
    shared = recipe.model.adapters == "shared"
    adapters: dict[str, str] = {role: "shared" if shared else role for role in ROLES}
    first, *others = dict.fromkeys(adapters.values())
    torch.manual_seed(recipe.seed)
    if loader == "unsloth":
        from mxa_lite.policy import unsloth

        model, tokenizer = unsloth.load(recipe, folder_of(recipe.model), dtype, first)
    else:
        base, tokenizer = _plain_base(recipe.model, dtype)
        try:
            model = get_peft_model(base, lora_config(recipe.lora), adapter_name=first)
        except ValueError as error:  # no layer of that name
            raise InputError(f"lora.targets: {' '.join(str(error).split())[:300]}") from error
        if accelerator():
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
    keep_differentiable(model)
    if tokenizer.chat_template is None:
        raise InputError(f"model.name: {recipe.model.name} has no chat template; use a chat model")
    for name in others:
        model.add_adapter(name, lora_config(recipe.lora))
    ends = end_tokens(model, tokenizer)
    if note := set_pad(tokenizer, ends):
        notes.append(note)
    # The folder may set anything here: penalties, beams, a static cache. Nothing of it is used.
    model.generation_config = model.get_base_model().generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    tokenizer.padding_side = "left"
    weights, why_weights = choose_weights(recipe, model, loader)
    notes.append(f"rollout.weights {weights}: {why_weights}")
    policy = Policy(
        model, tokenizer, adapters, loader, ends, notes, dict(recipe.model.chat_template)
    )
    if weights == "merged":
        policy.merged = Merged(model, recipe.model.max_length)
    model.set_requires_grad(list(policy.names), True)
    policy.activate("executor")
    return policy
