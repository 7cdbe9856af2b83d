import json
import re
from pathlib import Path

import pytest

from mxa_lite.errors import InputError
from mxa_lite.machine.plan import GIB, SMALLER, estimate, plan, total
from mxa_lite.recipe.file import SHIPPED, load
from mxa_lite.recipe.shapes import NF4_BYTES, SHAPES, Shape, shape_of

README = (Path(__file__).parent.parent / "recipes/docs/gpu.md").read_text(encoding="utf-8")
FOR_A_GPU = ("gsm8k", "gsm8k-full", "paper-math", "paper-code", "paper-mixed")


PUBLISHED = {  # parameters of the language model in millions, by its name or its card
    "Qwen/Qwen3-0.6B": 600,
    "Qwen/Qwen3-1.7B": 1700,
    "Qwen/Qwen3-4B": 4000,
    "Qwen/Qwen3-8B": 8200,
    "Qwen/Qwen3-14B": 14_800,
    "Qwen/Qwen2.5-0.5B-Instruct": 490,
    "Qwen/Qwen2.5-1.5B-Instruct": 1540,
    "Qwen/Qwen2.5-3B-Instruct": 3090,
    "Qwen/Qwen2.5-7B-Instruct": 7610,
    "meta-llama/Llama-3.2-1B-Instruct": 1230,
    "meta-llama/Llama-3.2-3B-Instruct": 3210,
    "google/gemma-3-270m-it": 270,
    "google/gemma-3-1b-it": 1000,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 135,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 360,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1700,
    "microsoft/Phi-4-mini-instruct": 3800,
}


@pytest.mark.parametrize("name", SHAPES)
def test_parameter_counts_of_the_table(name):
    """The shape has as many parameters as its name or its card says, to 2 %."""
    shape = SHAPES[name]
    count = shape.linear_parameters() + shape.vocab * shape.hidden * (1 if shape.tied else 2)
    assert count / 1e6 == pytest.approx(PUBLISHED[name], rel=0.02)


def test_parts_by_hand():
    """h 8, i 16, 1 layer, 2 heads and 1 kv head of 4, vocab 10, tied; r 2, both targets q and k.

    Linears: q 8*8, k 8*4, v 8*4, o 8*8, three of 8*16 = 192 + 384 = 576. Table 80 * 2 bytes.
    LoRA: q 2*(8+8) + k 2*(8+4) = 56 each role, 112 in fp32: 448; Adam 8 bytes * 112 = 896, the
    gradients of one role 4 * 56 = 224. KV: 2 * 1 layer * 1 head * 4 * 2 bytes = 16 a token; of the
    batch's 1,000 and of 512 by which Unsloth's cache grows for each of its 4 rows of 250.
    """
    shape = Shape(8, 16, 1, 2, 1, 4, 10, True)
    recipe = load(
        "arithmetic",
        [
            *("lora.targets=[q_proj, k_proj]", "lora.r=2", "generation_tokens=1000"),
            "rollout.max_completion_tokens=250",
        ],
    )
    parts = estimate(shape, recipe)
    assert parts["weights"] == int(576 * NF4_BYTES + 160)
    assert parts["adapters"] == 448
    assert parts["optimizer"] == 224 + 896
    assert parts["kv_cache"] == 16 * (1000 + 4 * 512)
    assert parts["merged"] == 0
    assert parts["dequantized"] == 8 * 16 * 2 + 8 * 16 // 64 * 4
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


def test_copies_with_the_adapters_merged_in_count_at_16_bit():
    """One for each adapter, of the adapted layers: 1.41e9 parameters of Qwen3-1.7B."""
    shape = SHAPES["Qwen/Qwen3-1.7B"]
    sets = ["model.loader=plain", "rollout.weights=merged"]
    assert estimate(shape, load("gsm8k", sets))["merged"] == 2 * 2 * shape.linear_parameters()
    shared = estimate(shape, load("gsm8k", [*sets, "model.adapters=shared"]))
    assert shared["merged"] == 2 * shape.linear_parameters()


def test_vllm_holds_the_base_once_more_while_it_generates():
    """1.72e9 parameters of 2 bytes, which sleep in an update; the loader is then the plain one."""
    shape = SHAPES["Qwen/Qwen3-1.7B"]
    waves = estimate(shape, load("gsm8k", ["model.loader=plain"]))
    served = estimate(shape, load("gsm8k", ["engine=vllm"], data_files=False))
    whole = 2 * (shape.linear_parameters() + shape.vocab * shape.hidden)
    assert served == waves | {"vllm": whole} and waves["vllm"] == 0
    small = {"activations": 10, "logits": 10, "kv_cache": 5, "forward": 5, "vllm": 5}
    assert total(small) == 20 and total(small | {"vllm": 30}) == 40


def test_a_plan_above_nine_tenths_of_the_card_is_tight():
    needed = plan(load("gsm8k"), 12)["total_gb"]
    for share, tight in ((1.01, True), (1.12, False), (0.99, False)):
        result = plan(load("gsm8k"), needed * share)
        assert (result["tight"], result["fits"]) == (tight, share > 1)


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


def test_a_card_too_small_for_the_model_is_given_the_largest_that_fits():
    assert plan(load("gsm8k"), 4)["lower_first"][-1] == "model.name=Qwen/Qwen3-0.6B"
    assert plan(load("paper-math"), 0.5)["lower_first"][-1] == f"model.name={SMALLER}"


def test_a_plan_that_fits_has_nothing_to_lower():
    result = plan(load("gsm8k"), 12)
    assert (result["fits"], result["lower_first"]) == (True, [])
    assert json.loads(json.dumps(result)) == result


def test_total_takes_the_larger_phase():
    parts = dict.fromkeys(estimate(SHAPES["Qwen/Qwen3-4B"], load("gsm8k")), 0)
    parts |= {"weights": 5, "activations": 7, "logits": 1, "kv_cache": 2, "forward": 3}
    assert total(parts) == 13


def said(gb: str, name: str, *sets: str) -> bool:
    """Whether plan says so many GB, and that they fit the card of the preset."""
    result = plan(load(name, sets), int(sets[0].removeprefix("gpu=").removesuffix("gb")))
    return result["fits"] and f"{result['total_gb']:.2f}" == gb


@pytest.mark.parametrize("name", FOR_A_GPU)
def test_a_header_says_what_plan_says(name):
    text = (SHIPPED / f"{name}.yaml").read_text()
    found = re.findall(r"([\d.]+) GB with (gpu=\w+)(?: and (model.name=\S+))?", text)
    assert found and len(found) == text.count(" GB with")
    for gb, *sets in found:
        assert said(gb, name, *filter(None, sets)), (gb, sets)


@pytest.mark.parametrize("name", FOR_A_GPU)
def test_a_header_names_its_command_the_paper_and_what_was_not_run(name):
    header = (SHIPPED / f"{name}.yaml").read_text().split("extends:")[0]
    for text in (f"mxa-lite run recipes/{name}.yaml", "paper", "Not run on a GPU by us"):
        assert text in header


def test_the_table_in_the_readme_says_what_plan_says():
    table = README.split("| card |")[1].split("\n\n")[0]
    found = re.findall(
        r"\| (\d+) GB \| (\S+) \((\S+?)(?:, .*)?\) \| `(gpu=\w+)`.* \| ([\d.]+) GB \|", table
    )
    assert len(found) == table.count("\n") - 1  # every row below the rule
    for card, name, model, preset, gb in found:
        assert preset == f"gpu={card}gb"
        assert said(gb, name, preset, f"model.name={model}"), (gb, name, preset)


@pytest.mark.parametrize("path", sorted(SHIPPED.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_can_be_planned(path):
    if path.stem != "base":  # which has no model of its own
        assert plan(load(path), 24)["fits"] is True


@pytest.mark.parametrize("name", ["arithmetic", *FOR_A_GPU])
@pytest.mark.parametrize("model", list(SHAPES)[::3])
def test_what_is_to_be_lowered_makes_it_fit(name, model):
    """On any card: nothing, or it fits with that, or no model known here is small enough."""
    recipe = load(name, [f"model.name={model}"])
    for vram in (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 80):
        result = plan(recipe, vram)
        assert result["fits"] == (not result["lower_first"])
        if result["lower_first"] and result["lower_first"][-1] != f"model.name={SMALLER}":
            lowered = load(name, [f"model.name={model}", *result["lower_first"]])
            assert plan(lowered, vram)["fits"], (vram, result["lower_first"])
        elif result["lower_first"]:
            assert vram <= 2


def test_a_card_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="nan"):
        plan(load("gsm8k"), float("nan"))


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


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("unsloth/Qwen3-1.7B-unsloth-bnb-4bit", "Qwen/Qwen3-1.7B"),
        ("unsloth/Llama-3.2-1B-Instruct-bnb-4bit", "meta-llama/Llama-3.2-1B-Instruct"),
        ("Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-4B"),
        ("google/gemma-3-1b-pt", None),
    ],
)
def test_a_copy_in_4_bit_has_the_shape_of_its_original(name, original):
    if original is None:
        with pytest.raises(InputError, match="not known"):
            shape_of(name)
    else:
        assert shape_of(name) == SHAPES[original]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Qwen/Qwen3-30B-A3B", "mixture of experts"),
        ("mistralai/Mixtral-8x7B-v0.1", "mixture of experts"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "quantized in another way"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "quantized in another way"),
        ("Qwen/Qwen3-4B-FP8", "quantized in another way"),
    ],
)
def test_what_the_kit_cannot_train_is_not_planned(name, what):
    with pytest.raises(InputError, match=what):
        shape_of(name)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"num_experts": 64}, "mixture of experts"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized by gptq"),
    ],
)
def test_nor_is_a_folder_of_it(tmp_path, more, what):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "vocab_size": 512}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    assert shape_of(str(tmp_path)).head_dim == 16
    (tmp_path / "config.json").write_text(json.dumps(sizes | more))
    with pytest.raises(InputError, match=what):
        shape_of(str(tmp_path))
