"""Supervised warm start: what carries loss, which adapter moves, bad lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small

from mxa_lite import embedded
from mxa_lite.errors import InputError, RunError
from mxa_lite.learn import warmstart
from mxa_lite.learn.warmstart import read_chats, rows, warm_start
from mxa_lite.policy.generate import Engine
from mxa_lite.policy.load import load

CHAT = [
    {"role": "system", "content": "Answer at once."},
    {"role": "user", "content": "Tom has 2 pens. How many pens?"},
    {"role": "assistant", "content": "<delivery>\\boxed{2}</delivery>"},
]


def test_only_the_reply_and_its_end_carry_loss() -> None:
    policy = load(small())
    row = rows(Engine(policy, 512, 4096), [CHAT])[0]
    lossy = [i for i, m in zip(row["input_ids"], row["completion_mask"], strict=True) if m]
    assert policy.tokenizer.decode(lossy) == CHAT[-1]["content"] + "<|end|>"


def test_a_warm_start_moves_only_the_roles_it_has_chats_for() -> None:
    """Some steps on executor chats lower its loss on them and leave the designer bit for bit."""
    recipe = small("cold_start.steps=10", "cold_start.learning_rate=5e-3")
    policy = load(recipe)
    engine = Engine(policy, 512, 4096)

    def designer() -> list[torch.Tensor]:
        named = policy.model.named_parameters()
        return [p.detach().clone() for n, p in named if ".designer." in n]

    def loss() -> float:
        policy.activate("executor")
        row = rows(engine, [CHAT])[0]
        ids, mask = torch.tensor([row["input_ids"]]), torch.tensor([row["completion_mask"]])
        with torch.no_grad():
            return float(policy.model(input_ids=ids, labels=ids.masked_fill(mask == 0, -100)).loss)

    before, first = designer(), loss()
    said: list[str] = []
    warm_start(recipe, policy, engine, {"designer": [], "executor": [CHAT] * 8}, said.append)
    assert loss() < first
    assert said and all(line.strip().startswith("executor: ") for line in said)
    assert all(torch.equal(a, b) for a, b in zip(before, designer(), strict=True))


def test_chats_that_do_not_fit_at_once_give_the_same_steps() -> None:
    """Batches of 4 from twelve chats, whole and one by one (no two fit into 128 tokens)."""

    def weights(tokens: int) -> list[torch.Tensor]:
        recipe = small(
            "cold_start={method: data, steps: 4, batch_size: 4}",
            f"train.tokens_per_micro_batch={tokens}",
        )
        policy = load(recipe)
        chats = read_chats(embedded.COLD_START)["executor"][:12]
        warm_start(recipe, policy, Engine(policy, 512, 4096), {"designer": [], "executor": chats})
        return [p.detach() for n, p in policy.model.named_parameters() if ".executor." in n]

    for whole, split in zip(weights(4096), weights(128), strict=True):
        torch.testing.assert_close(split, whole, rtol=0, atol=1e-5)  # they move by 8e-4


def test_when_memory_runs_out_an_adapter_begins_again_with_fewer_chats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model that cannot hold more than two chats takes the steps of one that can hold four; one
    that holds none says what to lower."""
    chats = {"designer": [], "executor": read_chats(embedded.COLD_START)["executor"][:8]}
    said: list[str] = []

    def weights(most: int) -> list[torch.Tensor]:
        recipe = small("cold_start={method: data, steps: 3, batch_size: 4}")
        policy = load(recipe)
        fits = warmstart._PlainSFT.compute_loss

        def small_memory(self: Any, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            if len(inputs["input_ids"]) > most:
                raise torch.OutOfMemoryError
            return fits(self, model, inputs, *rest, **named)

        with monkeypatch.context() as patch:
            patch.setattr(warmstart._PlainSFT, "compute_loss", small_memory)
            warm_start(recipe, policy, Engine(policy, 512, 4096), chats, said.append)
        return [p.detach() for n, p in policy.model.named_parameters() if ".executor." in n]

    for whole, split in zip(weights(4), weights(2), strict=True):
        torch.testing.assert_close(split, whole, rtol=0, atol=1e-5)
    assert sum("begun again with 2 chats" in line for line in said) == 1
    with pytest.raises(RunError, match=r"lower model\.max_length"):
        weights(0)


def test_the_chats_in_the_package_are_of_both_roles_and_hold_no_test_question() -> None:
    from mxa_lite.mas import check
    from mxa_lite.tasks import arithmetic
    from mxa_lite.texts import answers

    assert embedded.COLD_START.stat().st_size < 700_000
    chats = read_chats(embedded.COLD_START)
    assert len(chats["designer"]) >= 90 and len(chats["executor"]) >= 90
    for chat in chats["designer"]:
        assert arithmetic.place(chat[1]["content"]) == "train"
        assert check.check(answers.extract_script(chat[2]["content"]) or "").outcome is None
    two_stories = sum("\n" in chat[1]["content"] for chat in chats["designer"])
    assert two_stories == len(chats["designer"]) / 3  # as many of each of the three kinds


@pytest.mark.parametrize(
    "line",
    ["{", '{"role": "critic", "messages": []}', '{"role": "designer", "messages": []}', "[1]"],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"role": "executor", "messages": CHAT}) + "\n" + line + "\n")
    with pytest.raises(InputError, match=r"line 2"):
        read_chats(path)


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text("\n")
    with pytest.raises(InputError, match="no chats"):
        read_chats(path)
