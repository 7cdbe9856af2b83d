"""Log-probs in pieces are those of whole logits, and their gradients too."""

from __future__ import annotations

import pytest
import torch
from conftest import small

from mxa_lite.learn import logprobs
from mxa_lite.machine import plan
from mxa_lite.policy.load import load
from mxa_lite.policy.policy import Policy

Results = tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]


def results(policy: Policy, monkeypatch: pytest.MonkeyPatch, piece: int) -> Results:
    """Log-probs, entropies and the gradients of a weighted sum, with pieces of so many logits."""
    monkeypatch.setattr(logprobs, "PIECE", piece)
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 200, (3, 20), generator=draw)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    policy.model.zero_grad(set_to_none=True)
    logps, entropies = logprobs.token_logps(policy.model, ids, mask, 11, 0.7)
    (logps * torch.randn(3, 11, generator=draw)).mean().backward()
    named = policy.model.named_parameters()
    return logps.detach(), entropies, {n: p.grad.clone() for n, p in named if p.grad is not None}


@pytest.fixture(scope="module")
def policy() -> Policy:
    policy = load(small("model.quantization=none"))
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:  # zeros give no gradient to lora_A
            torch.nn.init.normal_(weight, std=0.02)
    policy.activate("executor")
    policy.learning()
    return policy


def test_pieces_give_the_log_probs_and_gradients_of_whole_logits(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = policy.model.get_output_embeddings().weight.shape[0]
    whole, split = (results(policy, monkeypatch, n) for n in (1 << 25, 4 * vocabulary))
    torch.testing.assert_close(split[0], whole[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(split[1], whole[1], rtol=0, atol=1e-5)
    assert whole[2].keys() == split[2].keys() and len(whole[2]) > 10
    for name, gradient in whole[2].items():
        torch.testing.assert_close(split[2][name], gradient, rtol=1e-5, atol=1e-5)


def test_no_more_logits_than_a_piece_are_computed_at_once(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = policy.model.get_output_embeddings()
    seen: list[int] = []
    hook = head.register_forward_hook(lambda _m, _i, out: seen.append(out.numel()))
    results(policy, monkeypatch, 4 * head.weight.shape[0])
    hook.remove()
    computed = [n for n in seen if n % head.weight.shape[0] == 0]
    assert computed and max(computed) <= 4 * head.weight.shape[0]


def test_a_family_that_changes_its_logits_afterwards_is_taken_whole(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = policy.model.get_base_model()
    monkeypatch.setattr(base.config, "logit_scale", 2.0, raising=False)
    head = base.get_output_embeddings()
    seen: list[int] = []
    hook = head.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[1]))
    results(policy, monkeypatch, head.weight.shape[0])
    hook.remove()
    assert seen == [33]


def test_the_plan_counts_the_same_piece() -> None:
    assert plan.PIECE == logprobs.PIECE
