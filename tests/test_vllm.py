"""`engine: vllm` against the kit's own engine, in an environment that has vLLM (see `.ci/run`)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import small
from test_brought import brought
from test_generate import asks
from test_merged import moved

from mxa_lite.errors import InputError
from mxa_lite.machine import proofs, selftest
from mxa_lite.policy.generate import Engine
from mxa_lite.policy.load import load
from mxa_lite.policy.policy import Policy
from mxa_lite.policy.request import Completion, Request
from mxa_lite.rollout.opened import engine_for
from mxa_lite.tree import ROLES

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["embedded", "qwen3"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """Over the embedded model and a random Qwen3, both in 4 bit; each role as if it had learned."""
    name = request.param
    if name == "qwen3":
        name = str(brought(tmp_path_factory.mktemp("qwen3"), "qwen3", head_dim=32))
    recipe = small("engine=vllm", f"model.name={name}")
    torch.manual_seed(3)
    policy = load(recipe)
    for role in ROLES:
        moved(policy, role)
    with engine_for(recipe, policy) as made:
        yield made


def both(temperature: float, count: int = 24) -> list[Request]:
    """Calls of both roles side by side, some longer than the 128 tokens that are cached at once."""
    return [
        Request(
            [{"role": "user", "content": " ".join([r.messages[0]["content"]] * (1 + i % 4 * 3))}],
            ROLES[i % 2],
            r.key,
            temperature,
            r.max_tokens,
        )
        for i, r in enumerate(asks(count=count))
    ]


def waves(policy: Policy, requests: list[Request]) -> list[Completion]:
    return Engine(policy, 512, 65_536).generate(requests)


def ids(done: list[Completion]) -> list[list[int]]:
    return [c.completion_ids for c in done]


def recomputed(policy: Policy, request: Request, done: Completion) -> list[float]:
    """The log-prob of each token by a forward pass of the role's adapter."""
    policy.activate(request.role)
    policy.generating()
    whole = torch.tensor([done.prompt_ids + done.completion_ids])
    with torch.inference_mode():
        logits = policy.model(input_ids=whole).logits[0, len(done.prompt_ids) - 1 : -1]
    drawn = torch.tensor(done.completion_ids)[:, None]
    return (logits / request.temperature).log_softmax(-1).gather(1, drawn)[:, 0].tolist()


def test_greedy_tokens_are_those_of_waves(engine: Engine) -> None:
    mine, own = engine.generate(both(0.0)), waves(engine.policy, both(0.0))
    assert ids(mine) == ids(own)
    assert len({tuple(tokens) for tokens in ids(mine)}) > 3
    for one, other in zip(mine, own, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-4)
        assert (one.text, one.truncated, one.prompt_ids) == (
            other.text,
            other.truncated,
            other.prompt_ids,
        )


def test_equal_seeds_draw_equal_tokens_in_any_batch(engine: Engine) -> None:
    together = engine.generate(both(1.0))
    backwards = engine.generate(both(1.0)[::-1])[::-1]
    alone = [engine.generate([request])[0] for request in both(1.0)[:4]]
    assert ids(together) == ids(backwards)
    assert ids(together[:4]) == ids(alone)
    others = [Request(r.messages, r.role, ("b", r.key), 1.0, 24) for r in both(1.0)]
    assert ids(engine.generate(others)) != ids(together)


def test_log_probs_are_those_of_the_drawn_tokens_at_the_temperature(engine: Engine) -> None:
    requests = [*both(0.7, 6), *both(1.3, 6)]
    for request, done in zip(requests, engine.generate(requests), strict=True):
        assert done.logps == pytest.approx(recomputed(engine.policy, request, done), abs=1e-4)


def test_after_an_update_the_new_adapter_speaks_and_the_other_is_left_alone(
    engine: Engine,
) -> None:
    before = engine.generate(both(0.0))
    assert max(len(c.prompt_ids) for c in before[1::2]) > 128
    handed = {name: adapter.lora_int_id for name, (adapter, _) in engine._adapters.items()}
    moved(engine.policy, "executor", 0.2)
    after = engine.generate(both(0.0))
    assert ids(after) == ids(waves(engine.policy, both(0.0)))
    assert ids(after)[1::2] != ids(before)[1::2]
    assert ids(after)[::2] == ids(before)[::2]
    now = {name: adapter.lora_int_id for name, (adapter, _) in engine._adapters.items()}
    assert now["designer"] == handed["designer"] and now["executor"] > handed["executor"]
    engine.generate(both(1.0))
    assert now == {name: adapter.lora_int_id for name, (adapter, _) in engine._adapters.items()}


def test_it_counts_what_it_did(engine: Engine) -> None:
    engine.reset()
    done = engine.generate(both(1.0))
    stats = engine.reset()
    assert stats.completion_tokens == stats.row_steps == sum(map(len, ids(done)))
    assert stats.prompt_tokens == sum(len(c.prompt_ids) for c in done)
    assert engine.generate([]) == [] and engine.stats.completion_tokens == 0


def test_the_rest_of_the_process_is_as_it_was(engine: Engine) -> None:
    """Its preloaded libraries must not reach the scripts' processes; threads are the kit's."""
    assert "tcmalloc" not in os.environ.get("LD_PRELOAD", "")
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)


def test_what_it_does_not_serve_is_one_sentence() -> None:
    recipe = small("engine=vllm", "lora.r=600")  # 512 is the most
    engine = engine_for(recipe, load(recipe))
    with pytest.raises(InputError, match="vllm does not take embedded") as caught, engine:
        pass
    assert "\n" not in str(caught.value)


def test_two_steps_end_to_end(tmp_path: Path) -> None:
    """With a learning rate at which a stale adapter would stand far off."""
    shape = (
        "engine=vllm", "schedule.mode=coupled", "train.steps=2", "train.questions=2",
        "rollout.designs=2", "rollout.executions=2", "train.learning_rate=1e-3",
        "train.warmup_steps=0", "cold_start={method: none}", "eval.questions=0",
    )  # fmt: skip
    words = ["-m", "mxa_lite", "run", "arithmetic", "--output", str(tmp_path / "r")]
    words += [word for text in shape for word in ("--set", text)]
    done = subprocess.run(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=900,
    )
    assert "engine vllm: " in done.stdout and "in float32" in done.stdout
    text = (tmp_path / "r" / "metrics.jsonl").read_text()
    steps = [json.loads(line) for line in text.splitlines()]
    assert [line["engine"] for line in steps] == ["vllm", "vllm"]
    for line in steps:
        assert line["grad_norm"] > 0
        assert all(gap < 1e-4 for gap in line["logp_gap"].values()) and line["logp_gap"]


def test_the_selftest_holds_its_log_probs_against_an_update_s(tmp_path: Path) -> None:
    started = partial(selftest.started, tmp_path, ("model.loader=plain",))
    passed, text = proofs.check_vllm(proofs.Ground(small(), tmp_path, started))
    assert passed and float(text.split()[2].rstrip(",")) < 1e-4, text
