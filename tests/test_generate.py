"""Batched generation: what a call says depends on its key, not on its batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import small

from mxa_lite.policy.generate import ROWS, Engine
from mxa_lite.policy.load import load
from mxa_lite.policy.noise import Draws, splitmix64
from mxa_lite.policy.policy import Policy
from mxa_lite.policy.request import Request, seed_of

QUESTIONS = [
    "Tom has 2 pens. He buys 3 more. How many pens?",
    "Ann has 12 coins. She loses 4. Then she doubles them. How many coins?",
    "Max has 3 eggs. He triples them. How many eggs?",
]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load(small())


def asks(temperature: float = 1.0, count: int = 12) -> list[Request]:
    return [
        Request(
            [{"role": "user", "content": QUESTIONS[i % 3]}], "executor", ("k", i), temperature, 24
        )
        for i in range(count)
    ]


def test_a_call_says_the_same_alone_and_in_any_batch(policy: Policy) -> None:
    engine = Engine(policy, 512, 65_536)
    together = engine.generate(asks())
    backwards = engine.generate(asks()[::-1])[::-1]
    alone = [engine.generate([request])[0] for request in asks()]
    assert [c.completion_ids for c in together] == [c.completion_ids for c in backwards]
    assert [c.completion_ids for c in together] == [c.completion_ids for c in alone]


def test_equal_keys_draw_equal_noise_and_others_do_not(policy: Policy) -> None:
    engine = Engine(policy, 512, 65_536)
    ask = asks()[0]
    same = engine.generate([ask, ask])
    assert same[0].text == same[1].text
    many = engine.generate(
        [Request(ask.messages, ask.role, ("other", i), 1.0, 24) for i in range(16)]
    )
    assert len({c.text for c in many}) > 1


def test_equal_greedy_calls_are_made_once(policy: Policy) -> None:
    """Twelve calls of three prompts; a call at another temperature is one of its own."""
    engine = Engine(policy, 512, 65_536)
    warm, *greedy = asks(count=1) + asks(temperature=0.0)
    together = engine.generate([warm, *greedy])
    assert engine.stats.batches[0][0] == 4
    alone = [engine.generate([request])[0].completion_ids for request in (warm, *greedy[:3])]
    assert [c.completion_ids for c in together] == [alone[0], *alone[1:] * 4]


def test_temperature_0_is_what_stock_greedy_decoding_says(policy: Policy) -> None:
    engine = Engine(policy, 512, 65_536)
    for completion in engine.generate(asks(temperature=0.0, count=3)):
        ids = torch.tensor([completion.prompt_ids])
        with torch.inference_mode():
            out = policy.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=24,
                do_sample=False,
                pad_token_id=policy.tokenizer.pad_token_id,
            )
        assert out[0, ids.shape[1] :].tolist() == completion.completion_ids


def test_the_numbers_are_splitmix64_s() -> None:
    """The generator's published outputs for seed 1234567, e.g. at
    https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64."""
    found = splitmix64([0, 1234567], 5, torch.device("cpu"))[1].tolist()
    assert [number % 2**64 for number in found] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_tokens_follow_the_softmax_at_the_temperature_at_every_position() -> None:
    """Token i is drawn with probability softmax(logits / T)[i], whatever was drawn before."""
    logits = torch.tensor([[1.0, 0.0, -torch.inf, -1.0]]).expand(4000, 4)
    draws = Draws(list(range(4000)), [0.5] * 4000, 2, torch.device("cpu"))
    draws.start(4000)
    first, second = draws.draw(logits), draws.draw(logits)
    softmax = torch.softmax(logits[0] / 0.5, 0)
    for drawn in (first, second, second[first == 0]):
        shares = torch.bincount(drawn, minlength=4) / len(drawn)
        assert torch.allclose(shares, softmax, atol=0.03)


def test_log_probs_are_those_of_the_chosen_tokens_at_the_temperature() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0]])
    draws = Draws([5], [0.5], 1, torch.device("cpu"))
    draws.start(1)
    token = int(draws(torch.zeros(1, 1), logits).argmax())
    expected = torch.log_softmax(logits[0] / 0.5, 0)[token]
    assert float(draws.logps[0]) == pytest.approx(float(expected), abs=1e-6)


def test_all_numbers_of_a_batch_are_made_in_one_call(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as rows and tokens at most, whatever happens in the batch."""
    shapes = []

    def counted(*args: Any) -> torch.Tensor:
        shapes.append(tuple(splitmix64(*args).shape))
        return splitmix64(*args)

    monkeypatch.setattr("mxa_lite.policy.noise.splitmix64", counted)
    Engine(policy, 512, 65_536).generate(asks())
    assert shapes == [(12, 24)]


def test_ended_rows_leave_the_batch(policy: Policy) -> None:
    """Twelve rows end at different lengths; the last batches hold fewer rows than the first."""
    engine = Engine(policy, 512, 65_536)
    done = engine.generate(asks())
    rows = [rows for rows, _ in engine.stats.batches]
    assert rows[0] == 12 and len(rows) > 1 and rows[-1] < rows[0]
    for c in done:
        assert len(c.logps) == len(c.completion_ids) <= 24
        assert c.truncated == (c.completion_ids[-1] not in engine.ends)


def test_equal_prompts_are_read_once(policy: Policy) -> None:
    engine = Engine(policy, 512, 65_536)
    engine.generate(asks())
    assert [rows for rows, _ in engine.stats.read] == [3]  # twelve calls, three questions


def test_short_prompts_are_not_padded_to_the_longest(policy: Policy) -> None:
    """Two prompts of about 25 tokens and one of about 220 are read apart, and say the same."""
    engine = Engine(policy, 512, 65_536)
    long = Request([{"role": "user", "content": QUESTIONS[0] * 12}], "executor", ("l",), 1.0, 24)
    requests = [*asks(count=2), long]
    together = engine.generate(requests)
    assert [rows for rows, _ in engine.stats.read] == [1, 2]
    assert engine.stats.read[1][1] < engine.stats.read[0][1] / 2
    alone = [engine.generate([request])[0] for request in requests]
    assert [c.completion_ids for c in together] == [c.completion_ids for c in alone]


def test_a_beginning_that_prompts_share_is_read_once(policy: Policy) -> None:
    """Twelve prompts that differ in their last words: the tokens before are read in one row, the
    rest apart, and everybody says what they say alone."""
    shared = "Tom has 2 pens. Then he buys 3 more pens. " * 5
    requests = [
        Request([{"role": "user", "content": f"{shared} He loses {i}."}], "executor", (i,), 1.0, 24)
        for i in range(12)
    ]
    engine = Engine(policy, 512, 65_536)
    together = engine.generate(requests)
    assert [rows for rows, _ in engine.stats.read] == [1, 12]
    assert engine.stats.read[1][1] <= 32 < engine.stats.read[0][1]
    alone = [engine.generate([request])[0] for request in requests]
    assert [c.completion_ids for c in together] == [c.completion_ids for c in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-4)


def test_ended_rows_leave_where_the_cache_cannot_be_kept(policy: Policy) -> None:
    """As under Unsloth, whose cache is its own: the texts are read again, without ended rows."""
    kept, read_again = Engine(policy, 512, 65_536), Engine(policy, 512, 65_536)
    read_again.reuse = False
    requests = asks(count=48)
    said = [c.completion_ids for c in kept.generate(requests)]
    assert said == [c.completion_ids for c in read_again.generate(requests)]
    assert kept.stats.row_steps <= read_again.stats.row_steps < 48 * max(map(len, said))
    sizes = [[rows for rows, _ in engine.stats.batches] for engine in (kept, read_again)]
    assert not {*sizes[0]} <= {*ROWS} and {*sizes[1]} <= {*ROWS}  # a CUDA graph for each size


def test_a_batch_stays_under_the_token_bound(policy: Policy) -> None:
    engine = Engine(policy, 512, 300)
    engine.generate(asks())
    assert max(rows * (width + 24) for rows, width in engine.stats.batches[:1]) <= 300


def test_a_long_prompt_keeps_its_system_part_and_its_tail(policy: Policy) -> None:
    engine = Engine(policy, 512, 65_536)
    messages = [
        {"role": "system", "content": "Answer at once."},
        {"role": "user", "content": "Tom has 2 pens. " * 60 + "How many pens?"},
    ]
    ids, cut = engine.encode(messages, 64)
    text = policy.tokenizer.decode(ids)
    assert cut and 60 <= len(ids) <= 64
    assert text.startswith("<|system|>Answer at once.<|end|><|user|>")
    assert text.endswith("How many pens?<|end|><|assistant|>")
    assert engine.encode(messages[:1], 64)[1] is False


def test_padding_leaves_room_for_the_completion(policy: Policy) -> None:
    """A prompt cut to 100 - 33 = 67 tokens is not padded to 80: 80 + 33 is longer than 100."""
    engine = Engine(policy, 100, 65_536)
    engine.generate(
        [Request([{"role": "user", "content": "pens " * 200}], "executor", (), 1.0, 33)]
    )
    assert engine.stats.read == [(1, 67)]


def test_seeds_are_the_same_in_every_process() -> None:
    """By hand: the first 8 bytes of sha256("(1, 'q', 2)"), shifted right by one."""
    assert seed_of((1, "q", 2)) == 4_773_047_578_843_959_003
    assert seed_of((1, "q", 2)) != seed_of((1, "q", 3))


def test_roles_speak_through_their_own_adapters(policy: Policy) -> None:
    """A changed designer adapter changes the designer's words and not the executor's."""
    engine = Engine(policy, 512, 65_536)
    ask = asks(temperature=0.0, count=1)[0]
    designer = Request(ask.messages, "designer", ask.key, 0.0, 24)
    before = engine.generate([ask, designer])
    weights = {
        n: p for n, p in policy.model.named_parameters() if ".designer." in n and "lora_B" in n
    }
    kept = {n: p.detach().clone() for n, p in weights.items()}
    with torch.no_grad():
        for p in weights.values():
            p.normal_(0, 1)
    after = engine.generate([ask, designer])
    with torch.no_grad():
        for n, p in weights.items():
            p.copy_(kept[n])
    assert before[0].completion_ids == after[0].completion_ids
    assert before[1].completion_ids != after[1].completion_ids
