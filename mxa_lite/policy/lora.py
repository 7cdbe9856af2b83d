"""One adapter, as PEFT is told of it."""

from __future__ import annotations

from peft import LoraConfig

from mxa_lite.recipe.keys import Lora


def lora_config(lora: Lora) -> LoraConfig:
    """PEFT's configuration of one adapter."""
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        task_type="CAUSAL_LM",
    )
