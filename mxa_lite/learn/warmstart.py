"""Supervised warm start of both roles from chats, through TRL's SFTTrainer.

A line of chat data: {"role": "designer" | "executor", "messages": [..., {"role": "assistant",
"content": ...}]}. The loss is on the last message only. A line with "kept": false is a sample that
`bootstrap` did not train on; it is not read.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from mxa_lite.errors import InputError, RunError, read_text
from mxa_lite.learn.scale import lower_first_scale
from mxa_lite.policy.generate import Engine
from mxa_lite.policy.load import autocast
from mxa_lite.policy.policy import Policy, exact_adapters, out_of_memory
from mxa_lite.recipe.keys import Recipe
from mxa_lite.tree import ROLES

Chat = list[dict[str, str]]
PASSES = 20  # over the same chats, at most: a handful of them must not be learned by heart


def read_chats(path: Path) -> dict[str, list[Chat]]:
    """Role -> chats of a JSONL file. Raises InputError with the line number of a bad line."""
    chats: dict[str, list[Chat]] = {role: [] for role in ROLES}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not row.get("kept", True):
                continue
            role, messages = row["role"], row["messages"]
            good = (
                role in chats
                and len(messages) > 1
                and all(m["role"] in ("system", "user", "assistant") for m in messages)
                and messages[-1]["role"] == "assistant"
                and all(isinstance(m["content"], str) for m in messages)
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            good = False
        if not good:
            raise InputError(
                f'{path} line {number}: needs {{"role": "designer" or "executor", "messages": '
                '[..., {"role": "assistant", "content": TEXT}]}'
            )
        chats[role].append(messages)
    if not any(chats.values()):
        raise InputError(f"{path}: holds no chats")
    return chats


class _PlainSFT(SFTTrainer):
    """Without a GPU the loss comes from plain logits, since TRL's own needs a GPU kernel."""

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        labels = inputs["labels"]
        mask = inputs["attention_mask"]
        logits = model(input_ids=inputs["input_ids"], attention_mask=mask, use_cache=False).logits
        logits, labels = logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten()
        if self.args.gradient_accumulation_steps == 1:
            return torch.nn.functional.cross_entropy(logits, labels)
        return (
            torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / num_items_in_batch
        )


def rows(engine: Engine, chats: list[Chat]) -> list[dict[str, list[int]]]:
    """Token ids of each chat as generation would see it, and which of them carry loss."""
    encoded, template = [], engine.policy.template
    for chat in chats:
        reply = template.text_ids(chat[-1]["content"])
        room = engine.max_length - len(reply) - 1
        prompt, _ = engine.encode(chat[:-1], max(room, 1))  # the reply is what must not be cut
        ids = [*prompt, *reply, template.turn_end]
        mask = [0] * len(prompt) + [1] * (len(ids) - len(prompt))
        encoded.append({"input_ids": ids, "completion_mask": mask})
    return encoded


class _Steps(TrainerCallback):
    """Before a step the threads that are free; after it a line each time the loss is logged, since
    with a real model on a CPU a step takes seconds."""

    def __init__(self, policy: Policy, adapter: str, say: Callable[[str], None]) -> None:
        self.policy, self.adapter, self.say = policy, adapter, say

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.policy.take_free_threads()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in (logs or {}):
            steps = f"{state.global_step}/{state.max_steps}"
            self.say(f"  {self.adapter}: {steps} steps, loss {float(logs['loss']):.3f}")


def warm_start(
    recipe: Recipe,
    policy: Policy,
    engine: Engine,
    chats: dict[str, list[Chat]],
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """Train each adapter on its role's chats (a shared one on both); the last loss per adapter.

    say: is told of the loss, five times for an adapter. When memory runs out an adapter begins
    again with fewer chats at once. Raises RunError when a single one is too much.
    """
    losses = {}
    cold = recipe.cold_start
    for name in policy.names:
        roles = [role for role in ROLES if policy.adapters[role] == name]
        adapter_chats = [chat for role in roles for chat in chats[role]]
        if not adapter_chats:
            continue
        data = rows(engine, adapter_chats)
        # As many chats at once as the memory is planned for, and none of a batch left over.
        fitting = recipe.train.tokens_per_micro_batch // max(len(row["input_ids"]) for row in data)
        sizes = [n for n in range(1, cold.batch_size + 1) if cold.batch_size % n == 0]
        sizes = [n for n in sizes if n <= max(fitting, 1)]
        steps = min(cold.steps, -(-PASSES * len(adapter_chats) // cold.batch_size))
        policy.activate(roles[0])
        trained = [p for p in policy.model.parameters() if p.requires_grad]
        before, callback = [p.detach().clone() for p in trained], _Steps(policy, name, say)
        while True:
            policy.learning()
            try:
                losses[name] = _trained(recipe, policy, data, sizes[-1], steps, callback)
                break
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if len(sizes) == 1:
                    raise RunError(
                        f"cold start of the {name}: out of memory with a single chat at once; lower"
                        " model.max_length, or take a smaller model"
                    ) from None
            policy.model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            sizes.pop()
            say(f"  {name}: out of memory, begun again with {sizes[-1]} chats at once")
            with torch.no_grad():
                torch._foreach_copy_(trained, before)
    return losses


def _trained(
    recipe: Recipe,
    policy: Policy,
    data: list[dict[str, list[int]]],
    size: int,
    steps: int,
    callback: _Steps,
) -> float:
    """Train the active adapter, `size` rows at once; the last loss."""
    cold, cpu = recipe.cold_start, not torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as scratch:
        with exact_adapters(policy.model):
            trainer = (_PlainSFT if cpu else SFTTrainer)(
                model=policy.model,
                args=SFTConfig(
                    output_dir=scratch,
                    max_steps=steps,
                    learning_rate=cold.learning_rate,
                    lr_scheduler_type="cosine",
                    warmup_steps=min(10, steps // 10),
                    per_device_train_batch_size=size,
                    gradient_accumulation_steps=cold.batch_size // size,
                    weight_decay=0.0,
                    optim="adamw_torch",
                    max_length=recipe.model.max_length,
                    packing=False,
                    padding_free=False,  # Unsloth's own default is another
                    completion_only_loss=True,
                    gradient_checkpointing=not cpu,
                    use_cpu=cpu,
                    **autocast(recipe.model),
                    seed=recipe.seed,
                    logging_steps=max(1, steps // 5),
                    save_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                    dataloader_pin_memory=False,
                ),
                train_dataset=Dataset.from_list(data),
                processing_class=policy.tokenizer,
            )
        lower_first_scale(trainer.accelerator)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(callback)
        with policy.all_threads():
            trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return logged[-1] if logged else float("nan")
