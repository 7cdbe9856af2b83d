"""Batched generation: what a call says depends on its key, not on its batch."""

from __future__ import annotations

import pytest
import torch
from conftest import small

from mxa_lite.policy.generate import Engine, bucket
from mxa_lite.policy.load import load
from mxa_lite.policy.noise import GumbelNoise
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


def test_noise_follows_the_softmax_at_the_temperature() -> None:
    """Gumbel noise and argmax draw token i with probability softmax(logits / T)[i]."""
    logits = torch.tensor([[1.0, 0.0, -1.0]]).expand(4000, 3)
    noise = GumbelNoise(list(range(4000)), [0.5] * 4000, torch.device("cpu"))
    noise.start(4000)
    drawn = noise(torch.zeros(4000, 1), logits).argmax(-1)
    shares = torch.bincount(drawn, minlength=3) / 4000
    assert torch.allclose(shares, torch.softmax(logits[0] / 0.5, 0), atol=0.03)


def test_log_probs_are_those_of_the_chosen_tokens_at_the_temperature() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0]])
    noise = GumbelNoise([5], [0.5], torch.device("cpu"))
    noise.start(1)
    token = int(noise(torch.zeros(1, 1), logits).argmax())
    expected = torch.log_softmax(logits[0] / 0.5, 0)[token]
    assert float(noise.logps[0]) == pytest.approx(float(expected), abs=1e-6)


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


def test_a_batch_stays_under_the_token_bound(policy: Policy) -> None:
    engine = Engine(policy, 512, 300)
    engine.generate(asks())
    assert max(rows * (width + 24) for rows, width in engine.stats.batches[:1]) <= 300


def test_batch_sizes_come_from_fixed_buckets() -> None:
    assert [bucket(n) for n in (1, 5, 100, 300)] == [1, 6, 128, 512]


def test_a_long_prompt_keeps_its_system_part_and_its_tail(policy: Policy) -> None:
    engine = Engine(policy, 512, 65_536)
    messages = [
        {"role": "system", "content": "Answer at once."},
        {"role": "user", "content": "Tom has 2 pens. " * 60 + "How many pens?"},
    ]
    ids, cut = engine.encode(messages, 64)
    text = policy.tokenizer.decode(ids)
    assert cut and len(ids) == 64
    assert text.startswith("<|system|>Answer at once.")
    assert text.endswith("How many pens?<|end|><|assistant|>")
    assert engine.encode(messages[:1], 64)[1] is False


def test_padding_leaves_room_for_the_completion(policy: Policy) -> None:
    """A prompt cut to 100 - 33 = 67 tokens is not padded to 80: 80 + 33 is longer than 100."""
    engine = Engine(policy, 100, 65_536)
    engine.generate(
        [Request([{"role": "user", "content": "pens " * 200}], "executor", (), 1.0, 33)]
    )
    assert engine.stats.read == [(1, 67)]


def test_arguments_of_the_chat_template_reach_the_prompt(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: `enable_thinking` was stored and had no effect."""
    template = "{{ messages[0].content }}{% if enable_thinking %} thinks{% endif %}"
    monkeypatch.setattr(policy.tokenizer, "chat_template", template)
    monkeypatch.setattr(policy, "template", {"enable_thinking": True})
    ids, _ = Engine(policy, 512, 65_536).encode([{"role": "user", "content": "Tom"}], 64)
    assert policy.tokenizer.decode(ids) == "Tom thinks"


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
