"""Exported folders load with the libraries they are made for, and say the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import small
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from mxa_lite import embedded
from mxa_lite.cli import cli
from mxa_lite.cli.console import run_command
from mxa_lite.policy.load import load
from mxa_lite.recipe import file as recipe_file

ROLES = ("designer", "executor")
PROMPTS = [
    "Tom has 2 pens. He buys 3 more. How many pens?",
    "Ann has 9 eggs. She eats 4. How many are left?",
    "A box holds 6 nuts. How many do 3 boxes hold?",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with adapters that change what the model says."""
    folder = tmp_path_factory.mktemp("run")
    recipe = small()
    policy = load(recipe)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape) * 0.02)
    policy.save(folder / "checkpoints" / "step-00000")
    (folder / "recipe.yaml").write_text(recipe_file.dump(recipe, {}))
    (folder / "eval.json").write_text(
        '{"cold": {"designed": {"accuracy": 0.25, "low": 0.2, "high": 0.3}}, "swap": null}'
    )
    return folder


def export(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["mxa-lite", "export", *map(str, arguments)])
    return run_command(cli)


def greedy(model: torch.nn.Module) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(embedded.FOLDER)
    said = []
    for prompt in PROMPTS:
        chat = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.eval().generate(  # type: ignore[operator]
            input_ids=ids["input_ids"],
            attention_mask=ids["attention_mask"],
            max_new_tokens=24,
            do_sample=False,
        )
        said.append(out[0, ids["input_ids"].shape[1] :].tolist())
    return said


def base() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(embedded.FOLDER, dtype=torch.float32)


@pytest.mark.parametrize("role", ROLES)
def test_a_merged_model_says_what_base_and_adapter_say(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """Computed in fp32 both times, so that only the merge's rounding to 16 bit can differ."""
    assert export(monkeypatch, run, "--merged", tmp_path / "out") == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / role)
    assert merged.dtype is torch.bfloat16
    assert getattr(merged.config, "quantization_config", None) is None
    adapter = PeftModel.from_pretrained(base(), str(run / "checkpoints" / "step-00000" / role))
    assert greedy(merged.float()) == greedy(adapter) != greedy(base())


def test_exported_adapters_load_with_peft(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export(monkeypatch, run, "--adapters", tmp_path / "out") == 0
    for role in ROLES:
        exported = PeftModel.from_pretrained(base(), str(tmp_path / "out" / role))
        trained = PeftModel.from_pretrained(base(), str(run / "checkpoints/step-00000" / role))
        for (name, a), b in zip(exported.named_parameters(), trained.parameters(), strict=True):
            assert torch.equal(a, b), name
        assert AutoTokenizer.from_pretrained(tmp_path / "out" / role).chat_template


def test_exported_adapters_name_their_base_so_that_peft_loads_them_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(embedded.FOLDER, tmp_path / "models" / "mine")
    monkeypatch.chdir(tmp_path / "models")
    recipe = small("model.name=./mine")
    load(recipe).save(tmp_path / "run" / "checkpoints" / "step-00000")
    (tmp_path / "run" / "recipe.yaml").write_text(recipe_file.dump(recipe, {}))
    assert export(monkeypatch, tmp_path / "run", "--adapters", tmp_path / "out") == 0
    monkeypatch.chdir(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "designer" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "models" / "mine")
    assert AutoPeftModelForCausalLM.from_pretrained("designer").active_adapters == ["default"]


def test_the_card_states_numbers_recipe_and_licence(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export(monkeypatch, run, "--adapters", tmp_path / "out") == 0
    text = (tmp_path / "out" / "designer" / "README.md").read_text()
    assert "license: mit" in text
    assert "| cold | designed | 0.250 | 0.200 to 0.300 |" in text
    assert "executor: 0.001" in text  # its learning rate


@pytest.mark.parametrize(
    "arguments", [[], ["--merged", "a", "--adapters", "b"], ["--merged", "full"]]
)
def test_wrong_use_is_exit_2(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    assert export(monkeypatch, run, *arguments) == 2


def test_a_folder_that_cannot_be_made_is_exit_2(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert export(monkeypatch, run, "--adapters", tmp_path / "file" / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_already_quantized_base_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its adapters would have to be merged into 4-bit weights."""
    shutil.copytree(embedded.FOLDER, tmp_path / "small")
    config = tmp_path / "small" / "config.json"
    quantized = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    config.write_text(json.dumps(json.loads(config.read_text()) | quantized))
    name = f"model.name={tmp_path / 'small'}"
    assert export(monkeypatch, run, "--merged", tmp_path / "out", "--set", name) == 2
    assert "16_BIT" in capsys.readouterr().err
