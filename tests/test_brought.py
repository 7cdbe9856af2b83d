"""Models that users bring, built small from a config with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small
from safetensors.torch import load_file, save_file
from test_generate import asks
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from mxa_lite import embedded
from mxa_lite.errors import InputError, RunError
from mxa_lite.learn.warmstart import rows
from mxa_lite.policy.generate import Engine
from mxa_lite.policy.load import load
from mxa_lite.policy.policy import Policy

SHAPE = {
    "vocab_size": 661,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def brought(folder: Path, family: str = "llama", **keys: Any) -> Path:
    """A folder with a model of this family, the tiny tokenizer beside it."""
    torch.manual_seed(7)
    config = AutoConfig.for_model(family, **SHAPE | keys)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(embedded.FOLDER).save_pretrained(folder)
    return folder


def loaded(folder: Path, *sets: str) -> Policy:
    return load(small(f"model.name={folder}", *sets))


def said(policy: Policy, temperature: float = 1.0) -> list[tuple[list[int], list[float]]]:
    done = Engine(policy, 512, 65_536).generate(asks(temperature))
    return [(c.completion_ids, c.logps) for c in done]


def test_a_model_s_own_generation_config_changes_nothing(tmp_path: Path) -> None:
    """Fault: penalties shifted log-probs without a word; beams and a static cache crashed."""
    folder = brought(tmp_path)
    plain = said(loaded(folder))
    leaks = {
        "no_repeat_ngram_size": 1,
        "suppress_tokens": list(range(300, 600)),
        "min_new_tokens": 20,
        "guidance_scale": 3.0,
        "repetition_penalty": 2.0,
        "num_beams": 3,
        "stop_strings": ["a"],
        "cache_implementation": "static",
        "do_sample": True,
        "top_k": 3,
    }
    for name in ("generation_config.json",):
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(config | leaks))
    for weights in ("merged", "adapter"):
        policy = loaded(folder, f"rollout.weights={weights}")
        assert [ids for ids, _ in said(policy)] == [ids for ids, _ in plain]


def test_missing_weights_are_named(tmp_path: Path) -> None:
    """Fault: they were random, without a word."""
    file = brought(tmp_path) / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights.*layers\.1\.mlp\.up_proj\.weight"):
        loaded(tmp_path)


@pytest.mark.parametrize("fault", ["pointer", "half", "shape", "empty"])
def test_damaged_weights_are_one_sentence(tmp_path: Path, fault: str) -> None:
    file = brought(tmp_path) / "model.safetensors"
    whole = file.read_bytes()
    if fault == "pointer":
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    elif fault == "shape":
        weights = load_file(file)
        weights["model.norm.weight"] = torch.ones(3)
        save_file(weights, file, {"format": "pt"})
    else:
        file.write_bytes(whole[: len(whole) // 2] if fault == "half" else b"")
    with pytest.raises(InputError, match=r"model\.name: ") as caught:
        loaded(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_ends_a_turn_ends_a_reply_and_is_learned(tmp_path: Path) -> None:
    """As in Phi: a turn ends with a token that is neither eos nor in the generation config."""
    tokenizer = AutoTokenizer.from_pretrained(brought(tmp_path))
    tokenizer.add_special_tokens(
        {"eos_token": "<|last|>", "additional_special_tokens": ["<|spare|>"]}
    )
    tokenizer.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    model.resize_token_embeddings(len(tokenizer))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(tmp_path)
    policy = loaded(tmp_path)
    turn_end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert turn_end != tokenizer.eos_token_id
    assert set(policy.ends) == {turn_end, tokenizer.eos_token_id}
    chat = [{"role": "user", "content": "Tom"}, {"role": "assistant", "content": "2"}]
    assert rows(Engine(policy, 512, 4096), [chat])[0]["input_ids"][-1] == turn_end


def test_a_pad_without_an_embedding_is_not_taken(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(brought(tmp_path))
    tokenizer.add_special_tokens({"pad_token": "<|beyond|>"})
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer.pad_token_id >= SHAPE["vocab_size"]
    assert loaded(tmp_path).tokenizer.pad_token_id < SHAPE["vocab_size"]


HYBRID: dict[str, dict[str, Any]] = {
    "lfm2": {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3},
    "qwen3_5_text": {
        "layer_types": ["linear_attention", "full_attention"],
        "head_dim": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "gemma3_text": {"sliding_window": 16, "head_dim": 32},
    "gpt2": {"n_embd": 64, "n_head": 2, "n_layer": 2, "n_positions": 512},
}


@pytest.mark.parametrize("family", list(HYBRID))
def test_other_families_say_what_stock_generate_says(tmp_path: Path, family: str) -> None:
    """Recurrent states and sliding windows: no traceback, and the tokens of greedy decoding."""
    policy = loaded(brought(tmp_path, family, **HYBRID[family]), "model.quantization=none")
    engine = Engine(policy, 512, 65_536)
    for completion in engine.generate(asks(temperature=0.0)):
        ids = torch.tensor([completion.prompt_ids])
        with torch.inference_mode():
            out = policy.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=24,
                do_sample=False,
            )
        assert out[0, ids.shape[1] :].tolist() == completion.completion_ids


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_the_base_has_no_dropout_in_the_update(tmp_path: Path, family: str) -> None:
    """Fault: GPT-2's and OPT's defaults shifted log-probs by 0.26 between rollout and update."""
    keys = {
        "gpt2": HYBRID["gpt2"],
        "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
        "llama": {"attention_dropout": 0.5},
    }
    policy = loaded(brought(tmp_path, family, **keys[family]))
    policy.learning()
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        once, twice = (policy.model(input_ids=ids).logits for _ in range(2))
        policy.generating()
        assert torch.equal(once, twice)
        assert torch.allclose(policy.model(input_ids=ids).logits, once, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "sets", "reason"),
    [
        ({"max_position_embeddings": 256}, (), r"max_length is 512, but .* knows 256 positions"),
        ({}, ("lora.targets=[input_layernorm]",), r"lora\.targets: .*not supported"),
        (
            {"tie_word_embeddings": True},
            ("lora.targets=[embed_tokens, q_proj]",),
            r"lora\.targets: names an embedding",
        ),
        ({"quantization_config": {"quant_method": "awq"}}, (), "quantized by awq"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    tmp_path: Path, keys: dict[str, Any], sets: tuple[str, ...], reason: str
) -> None:
    folder = brought(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | keys))
    with pytest.raises(InputError, match=reason):
        loaded(folder, *sets)


def test_a_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    brought(tmp_path)
    config = AutoConfig.for_model("qwen3_moe", **SHAPE, num_experts=4, moe_intermediate_size=32)
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="mixture of experts"):
        loaded(tmp_path)


def test_a_copy_of_the_embedded_model_is_the_embedded_model(tmp_path: Path) -> None:
    """Nothing of the above stands in the way of a model that has no fault."""
    shutil.copytree(embedded.FOLDER, tmp_path / "copy")
    assert said(loaded(tmp_path / "copy")) == said(load(small()))


def test_logits_that_are_no_numbers_are_one_sentence(tmp_path: Path) -> None:
    """Fault: an index beyond the vocabulary, in a traceback."""
    folder = brought(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    policy = loaded(folder)
    with pytest.raises(RunError, match="are no numbers"):
        said(policy)
