"""What tests/test_unsloth.py runs in processes of their own, since Unsloth patches trl for good.

    python unsloth_world.py LOADER TRAINER DTYPE FOLDER

Trains made-up trees through the kit, prints one JSON object about it and leaves gradients in
FOLDER. TRAINER is "trl" (its own class) or "generated" (Unsloth's, which it uses on a GPU).
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from conftest import small

from mxa_lite.policy import unsloth_first
from mxa_lite.stdio import stdout_for_json

LOADER, TRAINER, DTYPE = sys.argv[1:4]
FOLDER = Path(sys.argv[4])
ROLES = ("designer", "executor")
LOSSES = ("dapo", "grpo", "dr_grpo")
RECIPE = small(f"model.loader={LOADER}", f"model.dtype={DTYPE}", "train.steps=4")

unsloth_first(RECIPE.model)
if TRAINER == "generated":
    with stdout_for_json(True):
        import unsloth.models.rl as rl  # puts the generated class into trl, as on a GPU

        # Without a GPU Unsloth has a class of its own in the place of this one.
        importlib.reload(sys.modules["trl.trainer.sft_trainer"])
        rl._patch_trl_rl_trainers("sft_trainer")

import torch  # noqa: E402
from made_trees import Seen, on_policy, trees  # noqa: E402

from mxa_lite import embedded  # noqa: E402
from mxa_lite.learn import trainer, warmstart  # noqa: E402
from mxa_lite.machine.proofs import drawn  # noqa: E402
from mxa_lite.policy.generate import Engine  # noqa: E402
from mxa_lite.policy.load import load  # noqa: E402
from mxa_lite.policy.policy import Policy  # noqa: E402
from mxa_lite.policy.request import Request  # noqa: E402
from mxa_lite.recipe import file as recipe_file  # noqa: E402
from mxa_lite.recipe.keys import Rates  # noqa: E402
from mxa_lite.runs import export  # noqa: E402

Weights = dict[str, torch.Tensor]
ASKED: dict[str, list[str]] = {}  # function of Unsloth's -> the arguments the kit gives it

if LOADER == "unsloth":
    from mxa_lite.policy.unsloth import FastLanguageModel

    def recorded(name: str) -> None:
        real = getattr(FastLanguageModel, name)

        def call(*args: Any, **given: Any) -> Any:
            ASKED[name] = sorted(given)
            return real(*args, **given)

        setattr(FastLanguageModel, name, staticmethod(call))

    for function in ("from_pretrained", "get_peft_model", "for_inference", "for_training"):
        recorded(function)


def adapter(policy: Policy, name: str) -> Weights:
    found = policy.model.named_parameters()
    return {key: p.detach().clone() for key, p in found if f".{name}." in key}


def equal(a: Weights, b: Weights) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


def say(policy: Policy, temperature: float) -> list[list[int]]:
    texts = ["Tom has 2 pens. He buys 3 more. How many pens?", "Ann has 9 eggs. She eats 4."]
    asked = [
        Request([{"role": "user", "content": text}], role, (text,), temperature, 24)
        for text in texts
        for role in ROLES
    ]
    return [c.completion_ids for c in Engine(policy, 512, 65_536).generate(asked)]


def gradients(loss_type: str) -> Weights:
    """One plain SGD step of rate 1 from trees of both roles, in several micro-batches: what the
    weights moved by."""
    train = RECIPE.train.model_copy(
        update={
            "steps": 1,
            "optim": "sgd",
            "learning_rate": Rates(designer=1.0, executor=1.0),
            "max_grad_norm": 1e6,
            "loss_type": loss_type,
            "tokens_per_micro_batch": 200,
        }
    )
    recipe = RECIPE.model_copy(update={"train": train})
    policy = drawn(load(recipe), 0.02)
    say(policy, 1.0)  # generation first, as in a run: it must leave the gradient alone
    before = {role: adapter(policy, role) for role in ROLES}
    seen = Seen(lambda step: on_policy(policy, trees(step)), lambda step: ROLES)
    trainer.RoleTrainer(recipe, policy, FOLDER / "sgd", seen.take).train()
    moved = {
        key: before[role][key] - value
        for role in ROLES
        for key, value in adapter(policy, role).items()
    }
    return moved


def stages() -> dict[str, Any]:
    """Both roles learn, then the executor alone, with generation before each step; then save and
    load."""
    policy = load(RECIPE)
    weights: list[dict[str, Weights]] = []

    def make(step: int) -> list[Any]:
        weights.append({role: adapter(policy, role) for role in ROLES})
        say(policy, 1.0)
        return on_policy(policy, trees(step))

    def roles(step: int) -> tuple[str, ...]:
        return ROLES if step <= 2 else ("executor",)

    def checkpointing(mode: Callable[[], None]) -> bool:
        mode()
        found = [m for m in policy.model.modules() if getattr(m, "gradient_checkpointing", False)]
        return any(m.training for m in found)

    seen = Seen(make, roles)
    trainer.RoleTrainer(RECIPE, policy, FOLDER / "checkpoints", seen.take).train()
    weights.append({role: adapter(policy, role) for role in ROLES})
    loaded = load(RECIPE)
    loaded.load(FOLDER / "checkpoints" / "step-00004")
    return {
        "moves": [{r: not equal(a[r], b[r]) for r in ROLES} for a, b in pairwise(weights)],
        "dtypes": sorted({str(v.dtype) for role in ROLES for v in weights[-1][role].values()}),
        "grad_norms": [numbers["grad_norm"] for numbers in seen.numbers],
        "loaded_equal": all(equal(weights[-1][role], adapter(loaded, role)) for role in ROLES),
        "greedy": say(policy, 0.0),
        "greedy_loaded": say(loaded, 0.0),
        "sampled": say(policy, 1.0),
        "adapters": sorted(policy.model.peft_config),
        "checkpointing": [checkpointing(policy.learning), checkpointing(policy.generating)],
        "four_bit": sum(type(m).__name__ == "Linear4bit" for m in policy.model.modules()),
        "loader": policy.loader,
    }


def cold() -> dict[str, Any]:
    """The last loss of each role's warm start, on twelve chats."""
    if TRAINER == "generated":
        warmstart._PlainSFT = warmstart.SFTTrainer  # what runs on a GPU
    recipe = recipe_file.override(
        RECIPE, {"cold_start.method": "data", "cold_start.steps": 3, "cold_start.batch_size": 4}
    )
    policy = load(recipe)
    every = warmstart.read_chats(embedded.COLD_START)
    chats = {role: some[:12] for role, some in every.items()}
    engine = Engine(policy, 512, 65_536)
    return {
        "cold": warmstart.warm_start(recipe, policy, engine, chats),
        "sft": warmstart.SFTTrainer.__name__,
    }


with stdout_for_json(True):  # it has advice on one of the losses
    torch.save({loss: gradients(loss) for loss in LOSSES}, FOLDER / "gradients.pt")
found = stages() | cold()
(FOLDER / "recipe.yaml").write_text(recipe_file.dump(RECIPE, {}))
export.export_merged(FOLDER, RECIPE, FOLDER / "merged")
found |= {
    "asked": ASKED,
    "trainer": trainer.GRPOTrainer.__name__,
    "base": trainer.GRPOTrainer.__module__,
}
print(json.dumps(found))
