"""Losses and gradients of both adapters of a policy on a fixed batch, under any loader."""

from __future__ import annotations

from typing import Any

import torch

from mxa_lite import embedded
from mxa_lite.learn.warmstart import read_chats
from mxa_lite.policy.policy import Policy
from mxa_lite.policy.request import Request
from mxa_lite.tree import ROLES

KEPT = 12  # tokens of a row that carry loss


def measured(policy: Policy) -> dict[str, Any]:
    """losses: role -> mean over the last tokens of two rows, one of them padded left. gradients:
    role -> name -> gradient of whatever got one."""
    found: dict[str, Any] = {"losses": {}, "gradients": {}}
    policy.learning()
    for role in ROLES:
        policy.activate(role)
        policy.model.zero_grad(set_to_none=True)
        ids, mask = batch(policy, role)
        with torch.autocast("cpu", policy.model.dtype):
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            out = policy.model(input_ids=ids, attention_mask=mask, position_ids=positions)
        logps = out.logits[:, -KEPT - 1 : -1].float().log_softmax(-1)
        loss = -logps.gather(2, ids[:, -KEPT:, None]).mean()
        loss.backward()
        found["losses"][role] = loss.item()
        found["gradients"][role] = {
            name: parameter.grad.clone()
            for name, parameter in policy.model.named_parameters()
            if parameter.grad is not None
        }
    return found


def batch(policy: Policy, role: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (2, 24) of two chats' last tokens."""
    chats = read_chats(embedded.COLD_START)[role][:2]
    rows = [
        policy.template.ids(chat, reply=False)[-length:]
        for chat, length in zip(chats, (24, 18), strict=True)
    ]
    ids = torch.tensor([[0] * (24 - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (24 - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


@torch.no_grad()
def ties(policy: Policy, role: str, prompt: list[int], completion: list[int]) -> float:
    """How far the log-prob of a token of a completion is below the best one's, at most."""
    policy.activate(role)
    ids = torch.tensor([prompt + completion])
    logps = policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    own = logps.gather(1, torch.tensor(completion)[:, None])[:, 0]
    return float((logps.max(-1).values - own).max())


def asked() -> list[Request]:
    """Greedy calls of both roles."""
    texts = ["Tom has 2 pens. He buys 3 more. How many pens?", "Ann has 9 eggs. She eats 4."]
    return [
        Request([{"role": "user", "content": text}], role, (text,), 0.0, 8)
        for text in texts
        for role in ROLES
    ]
