"""Loading: which loader and dtype and why, padding, saving and reading adapters back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import small
from peft import PeftModel
from transformers import AutoModelForCausalLM

from mxa_lite import embedded
from mxa_lite.errors import InputError
from mxa_lite.policy import choose_loader
from mxa_lite.policy import load as loading
from mxa_lite.recipe.keys import Model


def test_auto_takes_the_plain_loader_without_a_gpu_and_says_why() -> None:
    loader, reason = choose_loader(Model(name="embedded"))
    if not torch.cuda.is_available():
        assert loader == "plain" and "GPU" in reason


def test_the_dtype_is_float32_on_a_cpu_unless_the_recipe_asks() -> None:
    if not torch.cuda.is_available():
        assert loading.choose_dtype(Model(name="embedded"))[0] is torch.float32
    assert loading.choose_dtype(Model(name="embedded", dtype="bfloat16"))[0] is torch.bfloat16


def test_a_gpu_that_only_emulates_bfloat16_computes_in_float16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A Turing card as torch sees it: Unsloth loads in float16 there, so the trainer must too."""
    monkeypatch.setattr(loading, "accelerator", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert loading.choose_dtype(Model(name="embedded"))[0] is torch.float16
    assert loading.autocast(Model(name="embedded")) == {"bf16": False, "fp16": True}


def test_the_base_is_in_nf4_with_one_adapter_per_role() -> None:
    policy = loading.load(small())
    layers = [m for m in policy.model.modules() if type(m).__name__ == "Linear4bit"]
    assert layers and {m.weight.quant_type for m in layers} == {"nf4"}
    assert set(policy.model.peft_config) == {"designer", "executor"}


def test_shared_adapters_are_one_adapter_for_both_roles() -> None:
    policy = loading.load(small("model.adapters=shared"))
    assert set(policy.model.peft_config) == {"shared"}
    assert policy.adapters == {"designer": "shared", "executor": "shared"}


def test_pad_is_neither_eos_nor_part_of_a_prompt() -> None:
    """The tiny tokenizer with its pad taken away, as in models whose pad is their eos."""
    tokenizer = loading.load(small()).tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|spare|>"]})
    tokenizer.pad_token = tokenizer.eos_token
    note = loading.set_pad(tokenizer)
    assert note is not None
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.pad_token not in str(tokenizer.chat_template)


def test_pad_is_no_token_that_ends_a_reply() -> None:
    """As in Qwen3, whose pad is the second of its two end tokens: a loss that rebuilds its mask
    from `token != pad` would leave that token out."""
    tokenizer = loading.load(small()).tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|spare|>"]})
    pad = tokenizer.pad_token_id
    assert loading.set_pad(tokenizer, [tokenizer.eos_token_id, pad]) is not None
    assert tokenizer.pad_token_id not in (pad, tokenizer.eos_token_id)


def test_saved_adapters_load_with_plain_peft_and_come_back_bit_for_bit(tmp_path: Path) -> None:
    policy = loading.load(small())
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B.executor" in name:
                parameter.normal_()
    kept = {n: p.detach().clone() for n, p in policy.model.named_parameters() if ".executor." in n}
    policy.save(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(embedded.FOLDER)
    PeftModel.from_pretrained(base, tmp_path / "executor")
    again = loading.load(small())
    again.load(tmp_path)
    found = dict(again.model.named_parameters())
    assert all(torch.equal(kept[n], found[n]) for n in kept)


def test_a_folder_that_is_no_model_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    recipe = small()
    model = recipe.model.model_copy(update={"name": str(tmp_path)})
    with pytest.raises(InputError, match=r"model\.name"):
        loading.load(recipe.model_copy(update={"model": model}))


def test_a_layer_that_the_model_lacks_is_named_in_one_sentence() -> None:
    with pytest.raises(InputError, match=r"lora\.targets: .*nope"):
        loading.load(small("lora.targets=[nope]"))
