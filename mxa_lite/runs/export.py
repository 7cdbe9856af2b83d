"""Trained adapters as standard folders for other tools: PEFT, plain Transformers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from mxa_lite.errors import InputError
from mxa_lite.policy.load import folder_of
from mxa_lite.recipe.checks import is_path
from mxa_lite.recipe.keys import Recipe
from mxa_lite.runfolder import RunFolder
from mxa_lite.runs.ask import checkpoint_of


def _adapters(run: Path) -> list[Path]:
    return sorted(path.parent for path in checkpoint_of(run).glob("*/adapter_config.json"))


def _finish(run: Path, recipe: Recipe, tokenizer: Any, target: Path, summary: str) -> None:
    tokenizer.save_pretrained(target)
    name, embedded = recipe.model.name, recipe.model.name == "embedded"
    head = f"license: {'mit' if embedded else 'other'}\ntags: [mxa-lite, lora]"
    if not embedded and not is_path(name):
        head += f"\nbase_model: {name}"
    results = RunFolder(run).results()
    rows = [
        f"| {when} | {mode} | {m['accuracy']:.3f} | {m['low']:.3f} to {m['high']:.3f} |"
        for when, modes in (("cold", results.get("cold", {})), ("final", results.get("final", {})))
        for mode, m in modes.items()
    ]
    table = ["| when | mode | accuracy | interval |", "|---|---|---|---|", *rows]
    parts = [
        f"---\n{head}\n---",
        f"# {target.name} of {run.resolve().name}",
        f"{summary}. Base model: {name}. mxa-lite checkpoint {checkpoint_of(run).name}.",
        "## Numbers of both roles together\n\n" + ("\n".join(table) if rows else "None yet."),
        "## Licence\n\n" + ("MIT, as the kit's." if embedded else f"That of {name}: see its card."),
        "## Recipe\n\n```yaml\n" + (run / "recipe.yaml").read_text(encoding="utf-8") + "```\n",
    ]
    (target / "README.md").write_text("\n\n".join(parts), encoding="utf-8")


def _source(recipe: Recipe) -> tuple[str, Any, Any]:
    transformers.utils.logging.disable_progress_bar()
    name = folder_of(recipe.model)
    try:
        return name, AutoConfig.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"model.name: {name}: {str(error).splitlines()[0]}") from error


def export_adapters(run: Path, recipe: Recipe, target: Path) -> None:
    """`target/<role>`: adapters that PeftModel.from_pretrained loads, with tokenizer and card."""
    _, _, tokenizer = _source(recipe)
    for source in _adapters(run):
        shutil.copytree(source, target / source.name)
        _finish(run, recipe, tokenizer, target / source.name, "LoRA adapter for the base model")


def export_merged(run: Path, recipe: Recipe, target: Path) -> None:
    """`target/<role>`: the 16-bit base with the adapter merged in. Raises InputError over 4 bit."""
    name, config, tokenizer = _source(recipe)
    if getattr(config, "quantization_config", None):
        raise InputError(f"model.name: {name} is quantized; --set model.name=ITS_16_BIT_MODEL")
    dtype = torch.float16 if config.dtype == torch.float16 else torch.bfloat16
    for source in _adapters(run):
        base = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
        merged = PeftModel.from_pretrained(base, str(source)).merge_and_unload()
        merged.save_pretrained(target / source.name)
        _finish(run, recipe, tokenizer, target / source.name, "16-bit base, adapter merged in")
