import json
import re

import pytest

from mxa_lite.errors import InputError
from mxa_lite.plan import GIB, NF4_BYTES, SHAPES, Shape, estimate, plan, shape_of, total
from mxa_lite.recipe_file import SHIPPED, load


def test_parameter_counts_of_the_table():
    """Published sizes: 0.6B, 1.7B, 4.0B, 8.2B and 135M parameters."""
    published = {"0.6B": 0.6e9, "1.7B": 1.7e9, "4B": 4.0e9, "8B": 8.2e9, "Instruct": 135e6}
    for name, shape in SHAPES.items():
        blocks = shape.layers * sum(i * o for i, o in shape.linears().values())
        count = blocks + shape.vocab * shape.hidden * (1 if shape.tied else 2)
        assert count == pytest.approx(published[name.split("-")[-1]], rel=0.02)


def test_parts_by_hand():
    """h 8, i 16, 1 layer, 2 heads and 1 kv head of 4, vocab 10, tied; r 2, both targets q and k.

    Linears: q 8*8, k 8*4, v 8*4, o 8*8, three of 8*16 = 192 + 384 = 576. Table 80 * 2 bytes.
    LoRA: q 2*(8+8) + k 2*(8+4) = 56 each role, 112 in fp32: 448; Adam 8 bytes * 112 = 896, the
    gradients of one role 4 * 56 = 224. KV: 2 * 1 layer * 1 head * 4 * 2 bytes = 16 a token.
    """
    shape = Shape(8, 16, 1, 2, 1, 4, 10, True)
    recipe = load(
        "arithmetic",
        ["lora.targets=[q_proj, k_proj]", "lora.r=2", "generation_tokens=1000"],
    )
    parts = estimate(shape, recipe)
    assert parts["weights"] == int(576 * NF4_BYTES + 160)
    assert parts["adapters"] == 448
    assert parts["optimizer"] == 224 + 896
    assert parts["kv_cache"] == 16 * 1000
    assert parts["logits"] == 1024 * 10 * 10


def test_shared_adapters_and_coupled_mode_change_the_adapters_cost():
    """Of one adapter's parameters: stagewise 4 + 2 * 8 bytes, shared 4 + 8, coupled 2 * (4 + 8)."""
    shape = SHAPES["Qwen/Qwen3-1.7B"]
    roles = estimate(shape, load("gsm8k"))
    shared = estimate(shape, load("gsm8k", ["model.adapters=shared"]))
    coupled = estimate(shape, load("gsm8k", ["schedule.mode=coupled"]))
    assert roles["adapters"] == 2 * shared["adapters"]
    one = shared["adapters"] // 4
    assert [p["optimizer"] // one for p in (roles, shared, coupled)] == [20, 12, 24]


def test_a_plan_that_does_not_fit_says_what_to_lower_and_then_fits():
    result = plan(load("paper-mixed"), 16)
    assert not result["fits"]
    assert plan(load("paper-mixed", result["lower_first"]), 16)["fits"]


def test_memory_knobs_are_lowered_before_those_that_change_learning():
    first = plan(load("gsm8k", ["gpu=24gb"]), 8)["lower_first"]
    assert {item.split("=")[0] for item in first} <= {
        "generation_tokens",
        "train.tokens_per_micro_batch",
    }


def test_an_impossible_card_asks_for_a_smaller_model():
    result = plan(load("paper-math"), 2)
    assert result["lower_first"][-1] == "model.name=a smaller model"


def test_a_plan_that_fits_has_nothing_to_lower():
    result = plan(load("gsm8k"), 12)
    assert (result["fits"], result["lower_first"]) == (True, [])
    assert json.loads(json.dumps(result)) == result


def test_total_takes_the_larger_phase():
    parts = dict.fromkeys(estimate(SHAPES["Qwen/Qwen3-4B"], load("gsm8k")), 0)
    parts |= {"weights": 5, "activations": 7, "logits": 1, "kv_cache": 2, "sampling": 3}
    assert total(parts) == 13


@pytest.mark.parametrize("path", sorted(SHIPPED.rglob("*.yaml")), ids=lambda p: p.stem)
def test_headers_say_what_plan_says(path):
    for gb, preset in re.findall(r"([\d.]+) GB with gpu=(\w+)", path.read_text()):
        recipe = load(path, [f"gpu={preset}"])
        assert plan(recipe, 24)["total_gb"] == float(gb)
        assert plan(recipe, float(preset.removesuffix("gb")))["fits"]


def test_a_local_folder_is_planned_from_its_config(tmp_path):
    config = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert shape_of(str(tmp_path)) == SHAPES["HuggingFaceTB/SmolLM2-135M-Instruct"]


@pytest.mark.parametrize("text", ["{}", "[", '{"num_attention_heads": null}', "[1]"])
def test_a_config_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="not the config of a decoder"):
        shape_of(str(tmp_path))


def test_an_unknown_hub_model_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="Qwen/Qwen3-8B"):
        shape_of("org/unknown")


def test_gb_are_of_the_card_s_kind():
    assert GIB == 1024**3
