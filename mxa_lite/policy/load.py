"""The base model in 4 bit, its tokenizer, and one fresh LoRA adapter per role (or one shared)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
)

from mxa_lite import embedded
from mxa_lite.errors import InputError
from mxa_lite.policy import accelerator, choose_loader
from mxa_lite.policy.merged import Merged
from mxa_lite.policy.policy import Policy
from mxa_lite.policy.template import Template, probe
from mxa_lite.recipe.keys import Lora, Model, Recipe
from mxa_lite.tree import ROLES

DAMAGED = (OSError, ValueError, KeyError, RuntimeError, EOFError, SafetensorError, UnpicklingError)
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
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
    if recipe.engine == "vllm":
        return "adapter", "vLLM adds it up itself"
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


def end_tokens(model: Any, template: Template) -> list[int]:
    """Tokens that end a completion: those of the model's generation config, eos, and what ends a
    turn in the template."""
    ends = getattr(model.generation_config, "eos_token_id", None) or []
    tokens = [
        *([ends] if isinstance(ends, int) else ends),
        template.tokenizer.eos_token_id,
        template.turn_end,
    ]
    return list(dict.fromkeys(token for token in tokens if token is not None))


def set_pad(tokenizer: Any, ends: Iterable[int] = (), rows: int = 2**31) -> str | None:
    """Give the tokenizer a pad token that is neither eos nor part of a prompt; says what it took.

    Unsloth's loss rebuilds masks from `token != pad`, so a pad that occurs in text loses tokens.
    ends: further tokens that end a completion. Qwen3 pads with one of its two. rows: of the
    embedding, within which the pad must be.
    """
    template = str(tokenizer.chat_template or "")
    used = {tokenizer.eos_token_id, tokenizer.bos_token_id, *ends}

    def free(index: int | None) -> bool:
        if index is None or index in used or index >= rows:
            return False
        return tokenizer.convert_ids_to_tokens(index) not in template

    if free(tokenizer.pad_token_id):
        return None
    spare = [tokenizer.convert_tokens_to_ids(t) for t in reversed(tokenizer.all_special_tokens)]
    added = [
        index
        for index, token in sorted(tokenizer.added_tokens_decoder.items(), reverse=True)
        if token.special
    ]
    candidates = [index for index in spare + added if free(index)]
    if not candidates:
        raise InputError("the tokenizer has no spare special token to pad with; add one to it")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(candidates[0])
    return (
        f"padding with {tokenizer.pad_token}, since the model's pad token was missing, can end a"
        " reply, occurs in prompts or has no embedding"
    )


def _config(model: Model) -> Any:
    """The model's config, without dropout. Raises InputError for what the kit cannot train."""
    name = folder_of(model)
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise _unloadable(name, error) from error
    for key, value in vars(config).items():
        if "drop" in key and isinstance(value, float):
            setattr(config, key, 0.0)  # else an update sees other log-probs than were sampled
        if key in EXPERTS and isinstance(value, int) and value > 1:
            raise InputError(
                f"model.name: {name} is a mixture of experts ({key} {value}), which adapters of"
                " linear layers do not reach; take a dense model"
            )
    method = (getattr(config, "quantization_config", None) or {}).get("quant_method")
    if method and (method != "bitsandbytes" or model.quantization != "4bit"):
        raise InputError(
            f"model.name: {name} is quantized by {method}; take the 16-bit model, which"
            " model.quantization: 4bit quantizes when it loads"
        )
    longest = getattr(config, "max_position_embeddings", None)
    if longest and model.max_length > longest:
        raise InputError(
            f"model.max_length is {model.max_length}, but {name} knows {longest} positions; set"
            f" model.max_length={longest} or less"
        )
    return config


def _unloadable(name: str, error: BaseException) -> InputError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return InputError(f"model.name: {name} does not load: {reason}")


def _plain_base(model: Model, dtype: torch.dtype) -> tuple[Any, Any]:
    name, config = folder_of(model), _config(model)
    quantization = None
    if model.quantization == "4bit" and not hasattr(config, "quantization_config"):
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        base, loading_info = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=dtype,
            quantization_config=quantization,
            device_map={"": int(os.environ.get("LOCAL_RANK", "0"))} if accelerator() else None,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # named below
        )
    except DAMAGED as error:
        raise _unloadable(name, error) from error
    wrong = {key[0] for key in loading_info["mismatched_keys"]} | _misshapen(base)
    if lacking := sorted({*loading_info["missing_keys"], *wrong}):
        raise InputError(
            f"model.name: {name} lacks {len(lacking)} weights, or has them in another shape,"
            f" {lacking[0]} among them; fetch it again"
        )
    return base, tokenizer


def _misshapen(base: Any) -> set[str]:
    """Weights whose size is not the config's, which a quantized model takes without a word."""
    with torch.device("meta"):
        right = type(base)(base.config)
    sizes = {name: weight.numel() for name, weight in right.named_parameters()}
    return {
        name
        for name, weight in base.named_parameters()
        if name in sizes and sizes[name] != getattr(weight, "quant_state", weight).shape.numel()
    }


def lora_config(lora: Lora) -> LoraConfig:
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        task_type="CAUSAL_LM",
    )


def adapted(base: Any, lora: Lora, name: str) -> Any:
    """The base with a first adapter. Raises InputError when lora.targets names what cannot be."""
    try:
        model = get_peft_model(base, lora_config(lora), adapter_name=name)
    except ValueError as error:  # no layer of that name, or none that can have an adapter
        raise InputError(f"lora.targets: {' '.join(str(error).split())[:300]}") from error
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    if base.config.tie_word_embeddings and any(isinstance(end, BaseTunerLayer) for end in ends):
        raise InputError(
            "lora.targets: names an embedding whose weights the model also uses at its other end;"
            " leave embed_tokens and lm_head out"
        )
    return model


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

        model, tokenizer = unsloth.load(
            recipe, folder_of(recipe.model), dtype, first, lora_config(recipe.lora)
        )
    else:
        base, tokenizer = _plain_base(recipe.model, dtype)
        model = adapted(base, recipe.lora, first)
        if accelerator():
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
    keep_differentiable(model)
    for name in others:
        model.add_adapter(name, lora_config(recipe.lora))
    template = probe(tokenizer, recipe.model.chat_template)
    notes += template.notes
    ends = end_tokens(model, template)
    if note := set_pad(tokenizer, ends, model.get_input_embeddings().weight.shape[0]):
        notes.append(note)
    # The folder may set anything here: penalties, beams, a static cache. Nothing of it is used.
    model.generation_config = model.get_base_model().generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    tokenizer.padding_side = "left"
    weights, why_weights = choose_weights(recipe, model, loader)
    notes.append(f"rollout.weights {weights}: {why_weights}")
    policy = Policy(model, tokenizer, adapters, loader, ends, template, notes)
    if weights == "merged":
        policy.merged = Merged(model, recipe.model.max_length)
    model.set_requires_grad(list(policy.names), True)
    policy.activate("executor")
    return policy
