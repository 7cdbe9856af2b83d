"""The hours that `plan` says: arithmetic on paper, checked by hand; no card was ever asked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mxa_lite.cli import commands
from mxa_lite.machine.hours import CARDS, GUESSES, VLLM, card_of, decode_step, work_of
from mxa_lite.machine.plan import describe, plan
from mxa_lite.recipe.file import SHIPPED, load
from mxa_lite.recipe.keys import Recipe
from mxa_lite.recipe.shapes import NF4_BYTES, Shape

PAGE_PATH = Path(__file__).parent.parent / "recipes/docs/gpu.md"
PAGE = PAGE_PATH.read_text(encoding="utf-8")


def test_an_evening_is_an_evening_on_paper() -> None:
    """At the slow end: under 6 hours on 12 GB of a 3060, under 2 on a 4090; the long one is not."""
    assert plan(load("gsm8k"), card_name="3060")["hours"]["high"] < 6
    assert plan(load("gsm8k"), card_name="4090")["hours"]["high"] < 2
    assert plan(load("gsm8k-full"), card_name="3060")["hours"]["high"] > 24


def test_a_decode_step_by_hand() -> None:
    """h 8, i 16, 1 layer, 2 heads and 1 kv head of 4, vocabulary 10: linears 576, head 80. Of 4
    bits are read 576 * NF4, written and read 576 * 2 * 2 bytes; the head 160; a row of KV 16 bytes
    a token, of logits 10 * 4 * 7."""
    shape, card = Shape(8, 16, 1, 2, 1, 4, 10, True), CARDS["3060"]
    guess = {**GUESSES["slow"], "prompt": 100, "tokens": 40, "bandwidth": 0.5}
    guess |= {"launches": 50, "launch_us": 10}
    step = decode_step(shape, load("arithmetic"), card, 3, guess)
    weights = 576 * (NF4_BYTES + 4) + 160
    assert step["weights_gb"] == pytest.approx(weights / 1e9)
    assert step["launches"] == 50
    reading = (weights + 3 * (120 * 16 + 280)) / (360e9 * 0.5)
    assert step["step_ms"] == pytest.approx(1e3 * (reading + 50 * 10e-6))
    whole = load("arithmetic", ["model.quantization=none"])
    assert decode_step(shape, whole, card, 3, guess)["weights_gb"] == (576 * 2 + 160) / 1e9
    served = decode_step(shape, with_vllm("arithmetic"), card, 3, guess | {"scheduling_ms": 2})
    assert served["weights_gb"] == (576 * 2 + 160) / 1e9
    reading = (576 * 2 + 160 + 3 * (120 * 16 + 280)) / (360e9 * 0.5)
    assert served["step_ms"] == pytest.approx(1e3 * (reading + 50 * 10e-6) + 2)
    hidden = decode_step(shape, with_vllm("arithmetic"), card, 3, guess | {"overlap": 1})
    assert hidden["step_ms"] == pytest.approx(1e3 * max(reading, 50 * 10e-6))


def with_vllm(name: str, *sets: str) -> Recipe:
    return load(name, ["engine=vllm", "model.loader=plain", *sets], data_files=False)


@pytest.mark.parametrize("card", CARDS)
def test_with_vllm_it_is_not_slower_than_with_waves(card: str) -> None:
    waves = plan(load("gsm8k"), card_name=card)["hours"]
    served = plan(with_vllm("gsm8k"), card_name=card)["hours"]
    assert served["low"] <= waves["low"] and served["high"] <= waves["high"]


def test_what_vllm_changes_moves_the_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows by the tokens that a cache holds, prompts read once, steps that turn; not 4 bit."""

    def slow(*sets: str) -> dict[str, float]:
        ends: dict[str, float] = plan(with_vllm("gsm8k", *sets), card_name="3060")
        return ends["rests_on"]["slow"] | ends["hours"]

    usual = slow()
    assert usual["rows"] == 32_768 // (550 + 240)  # of an evaluation
    assert slow("generation_tokens=16384")["rows"] == 16_384 // (550 + 240)
    assert slow("model.quantization=none") == usual
    turns = slow("train.steps=72")["engine_hours"] - usual["engine_hours"]
    assert turns == pytest.approx(36 * VLLM["slow"]["turn_s"] / 3600, abs=2e-3)
    waves = plan(load("gsm8k"), card_name="3060")["hours"]
    for name, worse in {"useful": 0.5, "read": 2.0, "scheduling_ms": 20.0}.items():
        with monkeypatch.context() as patch:
            patch.setitem(VLLM["slow"], name, worse)
            assert slow()["high"] > usual["high"], name
            assert plan(load("gsm8k"), card_name="3060")["hours"] == waves


def test_the_work_of_a_run_by_hand() -> None:
    """2 steps of the executor, then 1 of the designer; 4 questions, 2 designs, 3 executions of 2
    calls; evaluations of 10 questions by 2 samples and greedy, before and after."""
    sets = [
        *("train.steps=3", "schedule={mode: stagewise, first: executor, period: 2}"),
        *("train.questions=4", "rollout.designs=2", "rollout.executions=3"),
        "eval={questions: 10, samples: 2, every: 2, greedy: true, swap: true, baselines: [single]}",
        "cold_start={method: bootstrap, rounds: 2, questions: 5, steps: 7, batch_size: 3}",
    ]
    work = work_of(load("arithmetic", sets), calls=2, signal=0.5)
    assert work["training"] == (3 * 8, 3 * 8 * 3 * 2, 0.5 * (2 * 8 * 3 * 2 + 1 * 8))
    designs = 2 * (20 + 10) + 20  # before, after, and once on the way
    designed = 2 * (20 + 10) * 2 + 20 * 2 + 2 * 20 * 2  # ... and two cells of the swap table
    assert work["evaluation"] == (designs, designed + 2 * (20 + 10), 0)  # one agent alone
    assert work["cold_start"] == (40 // 2, 40, 2 * 7 * 3 * 2)  # rounds, steps, chats, roles


def test_more_bandwidth_takes_less_time_and_more_rows_fewer_steps() -> None:
    def high(*sets: str, bandwidth: float = 360) -> float:
        hours: float = plan(load("gsm8k", sets), 12, None, bandwidth)["hours"]["high"]
        return hours

    assert high(bandwidth=720) < high() < high("generation_tokens=8192")


def test_without_a_name_it_is_the_largest_card_that_is_not_larger() -> None:
    names = {gb: card_of(None, gb, None).name for gb in (8, 12, 16, 24, 40, 200)}
    expected = ["3060", "3060", "t4", "4090", "4090", "h200"]
    assert list(names.values()) == [CARDS[card].name for card in expected]
    assert plan(load("gsm8k"), 40)["vram_gb"] == 40
    assert plan(load("gsm8k"), card_name="a100")["vram_gb"] == 80


def test_the_command_line_knows_the_cards_of_the_table() -> None:
    assert set(commands.CARDS) == set(CARDS)


def test_a_person_is_shown_what_the_hours_rest_on() -> None:
    text = describe(plan(load("gsm8k"), card_name="3060"))
    for word in (
        "tokens",
        "row_steps",
        "weights_gb",
        "launches",
        "training_hours",
        "never measured",
    ):
        assert re.search(rf"\b{word}\b", text), word


def test_the_page_and_the_headers_say_what_plan_says() -> None:
    rows = re.findall(r"\| `(\w+)` \| (\S+) \| `(gpu=\w+)` \| ([\d.]+) \| ([\d.]+) \|", PAGE)
    table = PAGE.split("| card | recipe | preset | low | high |")[1].split("\n\n")[0]
    assert len(rows) == table.count("\n") - 1 > 4
    for card, name, preset, low, high in rows:
        recipe = load(name, [] if preset == "gpu=12gb" else [preset])  # 12gb: their own
        hours = plan(recipe, card_name=card)["hours"]
        assert (f"{hours['low']:.1f}", f"{hours['high']:.1f}") == (low, high), (card, name)
        readme = (PAGE_PATH.parents[2] / "README.md").read_text().split()
        assert name == "gsm8k-full" or f"{low} to {high}" in " ".join(readme)
    for name, fast in (("gsm8k", []), ("gsm8k-full", ["gpu=24gb"])):
        header = (SHIPPED / f"{name}.yaml").read_text()
        line = re.search(
            r"hours: ([\d.]+) to ([\d.]+) on an RTX 3060, ([\d.]+) to ([\d.]+)", header
        )
        assert line is not None
        cards = plan(load(name), card_name="3060"), plan(load(name, fast), card_name="4090")
        values = [f"{p['hours'][end]:.1f}" for p in cards for end in ("low", "high")]
        assert values == list(line.groups())
    served = re.findall(r"on a `(\w+)` (?:with `(gpu=\w+)` )?([\d.]+) to ([\d.]+) hours", PAGE)
    assert len(served) == 2
    for card, preset, low, high in served:
        hours = plan(with_vllm("gsm8k", *filter(None, [preset])), card_name=card)["hours"]
        assert (f"{hours['low']:.1f}", f"{hours['high']:.1f}") == (low, high), card
