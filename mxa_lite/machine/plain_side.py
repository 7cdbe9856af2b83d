"""What plain PEFT says about the tokens of another loader, one row at a time and without padding;
about those of the merged export, and of vLLM.

In a process of its own, since Unsloth patches the models of the one it is imported into.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from mxa_lite import embedded
from mxa_lite.learn.warmstart import read_chats, warm_start
from mxa_lite.policy.generate import Engine
from mxa_lite.policy.request import Request
from mxa_lite.recipe.file import override
from mxa_lite.recipe.keys import Recipe
from mxa_lite.rollout.opened import engine_for, load_policy
from mxa_lite.tasks import load as tasks
from mxa_lite.tree import ROLES

ADAPTERS, MERGED = "checkpoints/step-00000", "merged"  # in the folder, as in that of a run
COLD = {"method": "data", "steps": 10, "batch_size": 4, "learning_rate": 1e-3}


def answer(recipe: Recipe, folder: Path, name: str) -> None:
    """What `ANSWERS` has of that name, as `folder/<name>.pt`; the adapters are in the folder."""
    torch.save(ANSWERS[name](recipe, folder), folder / f"{name}.pt")


def requests(recipe: Recipe, temperature: float) -> list[Request]:
    """Calls of at most 64 tokens about 16 questions, the two roles in turn."""
    texts = [question.text for question in tasks.load(recipe.task, 1).train[:16]]
    return [
        Request([{"role": "user", "content": text}], role, (text, role), temperature, 64)
        for text in texts
        for role in ROLES
    ]


def plain(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """About the calls and the greedy completions in `asked.pt`; and ten steps of a cold start."""
    request = torch.load(folder / "asked.pt")
    policy = load_policy(recipe)
    policy.load(folder / ADAPTERS)
    policy.learning()
    reply: dict[str, Any] = {"logps": [], "other": [], "gradients": {}, "ties": []}
    for role, other_role in zip(ROLES, ROLES[::-1], strict=True):
        calls = [call for call in request["calls"] if call["role"] == role]
        tokens = sum(len(call["completion_ids"]) for call in calls)
        policy.model.zero_grad(set_to_none=True)
        policy.activate(role)
        for call in calls:
            logps, _ = scored(policy.model, call)
            (-call["advantage"] * logps.sum() / tokens).backward()
            reply["logps"].append(logps.detach().cpu())
        reply["gradients"] |= {
            name: parameter.grad.cpu()
            for name, parameter in policy.model.named_parameters()
            if parameter.grad is not None
        }
        with torch.no_grad():
            policy.activate(other_role)
            reply["other"] += [scored(policy.model, call)[0].cpu() for call in calls]
            policy.activate(role)
            greedy = [call for call in request["greedy"] if call["role"] == role]
            reply["ties"] += [
                float((b - a).max()) for a, b in (scored(policy.model, c) for c in greedy)
            ]
    reply["cold"] = cold_start(recipe)
    if (folder / MERGED).is_dir():
        reply["merged"] = merged(recipe, folder, request["greedy"])
    return reply


@torch.no_grad()
def merged(recipe: Recipe, folder: Path, calls: list[dict[str, Any]]) -> list[float]:
    """How far below the merged export's best what the adapters would say next is, at most in each
    row; over the whole base and in float32, so that rounding to 16 bit is what differs."""
    whole = {"model.quantization": "none", "model.dtype": "float32", "rollout.weights": "adapter"}
    policy, ties = load_policy(override(recipe, whole)), list[float]()
    policy.load(folder / ADAPTERS)
    for role in ROLES:
        policy.activate(role)
        export = AutoModelForCausalLM.from_pretrained(folder / MERGED / role, dtype=torch.float32)
        export.to(policy.device)
        for call in (call for call in calls if call["role"] == role):
            logps, best = next_tokens(export, call), next_tokens(policy.model, call).argmax(-1)
            ties.append(float((logps.max(-1).values - logps.gather(1, best[:, None])[:, 0]).max()))
    return ties


@torch.no_grad()
def served(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """How far log-probs of vLLM's tokens are from those of an update, before which it sleeps, as
    often as it is asked."""
    policy, gaps = load_policy(override(recipe, {"engine": "vllm"})), list[torch.Tensor]()
    policy.load(folder / ADAPTERS)
    with engine_for(override(recipe, {"engine": "vllm"}), policy) as engine:
        for _ in range(2):
            calls = requests(recipe, 1.0)
            said = engine.generate(calls)
            policy.learning()
            for call, completion in zip(calls, said, strict=True):
                policy.activate(call.role)
                logps = scored(policy.model, vars(completion))[0].cpu()
                gaps.append((logps - torch.tensor(completion.logps)).abs())
    return {"gaps": torch.cat(gaps)}


ANSWERS = {"plain PEFT": plain, "vLLM": served}


def scored(model: Any, call: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs (T,) of a call's completion tokens, and of the best token at each place."""
    logps = next_tokens(model, call)
    completion = torch.tensor(call["completion_ids"], device=model.device)
    return logps.gather(1, completion[:, None])[:, 0], logps.max(-1).values


def next_tokens(model: Any, call: dict[str, Any]) -> torch.Tensor:
    """Log-probs (T, vocabulary) at the places of a call's completion tokens."""
    ids = torch.tensor([call["prompt_ids"] + call["completion_ids"]], device=model.device)
    dtype = model.dtype  # what trainers compute in too
    with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
        logits = model(input_ids=ids, use_cache=False).logits[0, len(call["prompt_ids"]) - 1 : -1]
    return logits.float().log_softmax(-1)


def cold_start(recipe: Recipe) -> list[float]:
    """The losses that ten steps of the executor's cold start log, two steps each."""
    recipe = override(recipe, {"cold_start": COLD})
    policy = load_policy(recipe)
    chats = {"designer": [], "executor": read_chats(embedded.COLD_START)["executor"][:12]}
    engine = Engine(policy, recipe.model.max_length, recipe.generation_tokens)
    lines: list[str] = []
    warm_start(recipe, policy, engine, chats, lines.append)
    return [float(text.rpartition(" ")[2]) for text in lines if " loss " in text]
