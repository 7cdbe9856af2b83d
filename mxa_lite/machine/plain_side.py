"""What plain PEFT says about the tokens of another loader, one row at a time and without padding.

In a process of its own, since Unsloth patches the models of the one it is imported into.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mxa_lite import embedded
from mxa_lite.learn.warmstart import read_chats, warm_start
from mxa_lite.policy.generate import Engine
from mxa_lite.policy.policy import ROLES, Policy
from mxa_lite.recipe.file import override
from mxa_lite.recipe.keys import Recipe
from mxa_lite.rollout.opened import load_policy

COLD = {"method": "data", "steps": 10, "batch_size": 4, "learning_rate": 1e-3}


def answer(recipe: Recipe, folder: Path) -> None:
    """Read `asked.pt` and the adapters in `folder`, and write `plain.pt`."""
    request = torch.load(folder / "asked.pt")
    policy = load_policy(recipe)
    policy.load(folder)
    policy.learning()
    reply: dict[str, Any] = {"logps": [], "other": [], "gradients": {}, "ties": []}
    for role, other_role in zip(ROLES, ROLES[::-1], strict=True):
        calls = [call for call in request["calls"] if call["role"] == role]
        tokens = sum(len(call["completion_ids"]) for call in calls)
        policy.model.zero_grad(set_to_none=True)
        policy.activate(role)
        for call in calls:
            logps, _ = scored(policy, call)
            (-call["advantage"] * logps.sum() / tokens).backward()
            reply["logps"].append(logps.detach().cpu())
        reply["gradients"] |= {
            name: parameter.grad.cpu()
            for name, parameter in policy.model.named_parameters()
            if parameter.grad is not None
        }
        with torch.no_grad():
            policy.activate(other_role)
            reply["other"] += [scored(policy, call)[0].cpu() for call in calls]
            policy.activate(role)
            greedy = [call for call in request["greedy"] if call["role"] == role]
            reply["ties"] += [float((b - a).max()) for a, b in (scored(policy, c) for c in greedy)]
    reply["cold"] = cold_start(recipe)
    torch.save(reply, folder / "plain.pt")


def scored(policy: Policy, call: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs (T,) of a call's completion tokens, and of the best token at each place."""
    completion = torch.tensor(call["completion_ids"], device=policy.device)
    prompt = torch.tensor(call["prompt_ids"], device=policy.device)
    ids = torch.cat([prompt, completion])[None]
    dtype = policy.model.dtype  # what trainers compute in too
    with torch.autocast(policy.device.type, dtype, enabled=dtype != torch.float32):
        logits = policy.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    logps = logits.float().log_softmax(-1)
    return logps.gather(1, completion[:, None])[:, 0], logps.max(-1).values


def cold_start(recipe: Recipe) -> list[float]:
    """The losses that ten steps of the executor's cold start log, two steps each."""
    recipe = override(recipe, {"cold_start": COLD})
    policy = load_policy(recipe)
    chats = {"designer": [], "executor": read_chats(embedded.COLD_START)["executor"][:12]}
    engine = Engine(policy, recipe.model.max_length, recipe.generation_tokens)
    lines: list[str] = []
    warm_start(recipe, policy, engine, chats, lines.append)
    return [float(text.rpartition(" ")[2]) for text in lines if " loss " in text]
