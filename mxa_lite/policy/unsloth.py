"""Unsloth's loader and modes, on its GPU and its CPU backend; the only file that imports it.

Import this before trl, transformers and peft (`unsloth_first` does).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxa_lite.errors import InputError
from mxa_lite.stdio import stdout_for_json

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

    from mxa_lite.recipe.keys import Recipe

# Unsloth writes patched sources there, and puts the folder first on sys.path: so neither the
# working directory, its default, nor a temporary folder that others can write to.
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mxa-lite"
os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(_CACHE / "unsloth_compiled_cache"))

# It prints to stdout when it is imported and when it loads; that belongs on stderr.
with stdout_for_json(True):
    from unsloth import FastLanguageModel


def load(
    recipe: Recipe, folder: str, dtype: torch.dtype, first_adapter: str, config: LoraConfig
) -> tuple[Any, Any]:
    """The base with one fresh adapter of this config called `first_adapter`, and its tokenizer.

    folder: a local folder or a Hub id. Raises InputError when the model does not load.
    """
    from transformers import set_seed

    lora = recipe.lora
    with stdout_for_json(True):
        try:
            base, tokenizer = FastLanguageModel.from_pretrained(
                folder,
                max_seq_length=recipe.model.max_length,
                dtype=dtype,
                load_in_4bit=recipe.model.quantization == "4bit",
                # Else it takes a repository of its own in place of a known name, quantized in
                # another way: neither what `plan` counts nor the base that `export` merges into.
                use_exact_model_name=True,
                # Else it may keep the embeddings on the CPU, where inputs would then have to be.
                offload_embedding=False,
                random_state=recipe.seed,
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"model.name: {folder} does not load: {reason}") from error
        model = FastLanguageModel.get_peft_model(
            base,
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.targets,
            use_gradient_checkpointing="unsloth",
            random_state=recipe.seed,
        )
    # It calls its adapter "default" and takes no other name, so ours is put beside it and it goes.
    set_seed(recipe.seed)
    model.add_adapter(first_adapter, config)
    model.set_adapter(first_adapter)
    model.delete_adapter("default")
    return model, tokenizer


def for_inference(model: Any) -> None:
    """Unsloth's generation mode: no checkpointing, key-value cache on."""
    FastLanguageModel.for_inference(model)


def for_training(model: Any) -> None:
    """Unsloth's training mode, with the checkpointing that `load` set up."""
    FastLanguageModel.for_training(model)
