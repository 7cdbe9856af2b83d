"""The model: base, adapters, generation. Here: which loader reads it, before heavy imports.

Unsloth patches trl, transformers and peft when it is imported, so it must come before them, and a
subclass of a TRL trainer must be defined after it.
"""

from __future__ import annotations

import importlib.util
import os

from mxa_lite.errors import InputError
from mxa_lite.recipe.keys import Model

GET_UNSLOTH = "pip install -e '.[gpu]' -c constraints.txt"


def accelerator() -> bool:
    """Whether a GPU is there to compute on."""
    import torch

    return torch.cuda.is_available()


def unsloth_installed() -> bool:
    """Whether Unsloth can be imported; it is not imported here."""
    return importlib.util.find_spec("unsloth") is not None


def choose_loader(model: Model) -> tuple[str, str]:
    """(loader, reason). Raises InputError when `unsloth` is asked for and not installed."""
    if model.loader == "plain":
        return "plain", "the recipe asks for it"
    if model.loader == "unsloth":
        if not unsloth_installed():
            raise InputError(f"model.loader is unsloth, which is not installed: {GET_UNSLOTH}")
        return "unsloth", "the recipe asks for it"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return "plain", "several processes; Unsloth is for one GPU"
    if not accelerator():
        return "plain", "no GPU here; Unsloth's kernels need one"
    if not unsloth_installed():
        return "plain", f"Unsloth is not installed ({GET_UNSLOTH})"
    return "unsloth", "a GPU is here and Unsloth is installed"


def unsloth_first(model: Model) -> None:
    """Import Unsloth when this model will be loaded with it, to be called before any import of
    load, trainer, warmstart or train. Raises InputError as `choose_loader` does."""
    if model.loader == "plain" or (model.loader == "auto" and not unsloth_installed()):
        return  # known without torch
    if choose_loader(model)[0] == "unsloth":
        if accelerator():  # else it decodes by CUDA graphs for its own trainer's completions only
            os.environ.setdefault("UNSLOTH_DECODE_CUDA_GRAPHS", "1")
        from mxa_lite.policy import unsloth  # noqa: F401 - for its import of unsloth
