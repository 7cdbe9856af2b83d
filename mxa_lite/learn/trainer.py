"""TRL's GRPOTrainer with role-specific advantages and a schedule; the only file that imports it.

Each optimizer step rolls out its own trees, takes the learning roles' trajectories and runs TRL's
loss over micro-batches of one role each. The frozen role's adapter never becomes active while
gradients are computed, so it gets none, and the optimizer leaves it alone.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from transformers.integrations import TensorBoardCallback
from trl import GRPOConfig, GRPOTrainer

from mxa_lite.errors import RunError
from mxa_lite.learn import distributed
from mxa_lite.learn.batching import (
    MicroBatch,
    Trajectory,
    levelled,
    micro_batches,
    role_totals,
    summed,
    trajectories,
)
from mxa_lite.policy.load import autocast
from mxa_lite.policy.policy import Policy, exact_adapters, out_of_memory
from mxa_lite.policy.request import seed_of
from mxa_lite.recipe.keys import Recipe
from mxa_lite.tree import Tree

# Losses that TRL divides by `num_items_in_batch`; the others are means over a micro-batch's rows.
BY_TOKENS = ("dapo", "cispo", "vespo")
# Losses for which several micro-batches give the step of a single one.
EXACT = ("dapo", "grpo", "dr_grpo")

# TRL's own class computes log-probs by a GPU kernel with one fixed temperature. Unsloth's generated
# class has a loss of its own and is left as it is.
PLAIN_LOGITS = GRPOTrainer.__module__.startswith("trl.")


def checkpoint_name(step: int) -> str:
    """Folder of the checkpoint written after `step`; step 0 is the cold start."""
    return f"step-{step:05d}"


def latest_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint with trainer state; half-written ones have another name."""
    found = [path.parent for path in folder.glob("step-[0-9]*/trainer_state.json")]
    return max(found, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def config(recipe: Recipe, folder: Path) -> GRPOConfig:
    """Every field that matters is set, since Unsloth's config has other defaults."""
    train = recipe.train
    cpu = not torch.cuda.is_available()
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=train.steps,
        learning_rate=train.learning_rate.executor,
        lr_scheduler_type=train.lr_scheduler,
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim=train.optim,
        adam_beta1=0.9,
        adam_beta2=0.999,
        loss_type=train.loss_type,
        epsilon=train.clip,
        epsilon_high=train.clip,
        beta=0.0,
        temperature=recipe.rollout.temperature,
        scale_rewards="group",
        num_generations=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=1,
        steps_per_generation=1,
        num_iterations=1,
        max_completion_length=recipe.rollout.max_completion_tokens.executor,
        mask_truncated_completions=False,
        gradient_checkpointing=not cpu,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=cpu,
        **autocast(recipe.model),
        seed=recipe.seed,
        logging_steps=1,
        save_strategy="steps",
        save_steps=train.save_every,
        report_to=train.report_to or "none",
        run_name=folder.resolve().parent.name,
        project="mxa-lite",
        disable_tqdm=True,
        ignore_data_skip=True,
        ddp_find_unused_parameters=True,  # the other role's adapter
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


def _unused_reward(completions: list[Any], **_: Any) -> list[float]:
    """TRL asks for a reward function; rewards come with the trees."""
    return [0.0] * len(completions)


class RoleTrainer(GRPOTrainer):
    """GRPO over trees.

    rollout(step) gives the step's trees, credit assigned. roles(step) says who learns.
    on_step(step, trees, numbers) is called after each optimizer step with what the step measured,
    and returns what `report_to` is to show of it.
    interrupted() is asked between micro-batches; KeyboardInterrupt is raised when it says so.
    """

    def __init__(
        self,
        recipe: Recipe,
        policy: Policy,
        folder: Path,
        rollout: Callable[[int], list[Tree]],
        roles: Callable[[int], tuple[str, ...]],
        on_step: Callable[[int, list[Tree], dict[str, Any]], dict[str, float] | None],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.recipe, self.policy, self.folder = recipe, policy, folder
        self.rollout, self.roles, self.on_step = rollout, roles, on_step
        self.interrupted = interrupted
        self.trees: list[Tree] = []
        self.numbers: dict[str, Any] = {}
        self.tokens = recipe.train.tokens_per_micro_batch
        self.out_of_memory = 0  # how often the update of this step was begun again
        with exact_adapters(policy.model):
            super().__init__(
                model=policy.model,
                args=config(recipe, folder),
                reward_funcs=_unused_reward,
                # rows for every process to begin a step with; trees replace them
                train_dataset=Dataset.from_dict({"prompt": [""] * 2 * distributed.SIZE}),
                processing_class=policy.tokenizer,
            )
        self.remove_callback(PrinterCallback)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback):  # else among the checkpoints
                callback.logging_dir = str(folder.parent / "logs")
        limits = recipe.rollout.max_completion_tokens
        self.limits = {"designer": limits.designer, "executor": limits.executor}

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """One AdamW over both adapters; an adapter without gradient is not moved by it.

        The designer's adapter is in parameter groups of its own, for its own learning rate.
        """
        self.policy.model.set_requires_grad(list(self.policy.names), True)
        optimizer = super().create_optimizer(model)
        rates = self.recipe.train.learning_rate
        if rates.designer == rates.executor or self.recipe.model.adapters == "shared":
            return optimizer
        own = {id(p) for n, p in self.policy.model.named_parameters() if ".designer." in n}
        for group in list(optimizer.param_groups):
            designer = [p for p in group["params"] if id(p) in own]
            group["params"] = [p for p in group["params"] if id(p) not in own]
            optimizer.add_param_group(group | {"params": designer, "lr": rates.designer})
        return optimizer

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Roll out, then one backward pass per micro-batch; the caller takes the optimizer step.

        When memory runs out the budget of a micro-batch is halved, for the rest of the run too,
        and the update begins again from the same trees. Raises RunError when a single row is too
        much.
        """
        step = self.state.global_step + 1
        roles = self.roles(step)
        self.trees = self.rollout(step)
        found = trajectories(self.trees, roles)
        self.out_of_memory = 0
        while True:
            torch.manual_seed(seed_of((self.recipe.seed, step, "dropout")) % 2**32)
            self.policy.learning()
            batches = self._micro_batches(found)
            self.numbers = _counted(batches, len(found)) | {"lr": self._rate_of(roles[-1])}
            try:
                with self.policy.all_threads():
                    return self._backward(model, batches)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if max(batch.rows for batch in batches) == 1 or distributed.SIZE > 1:
                    raise RunError(
                        f"step {step}: out of memory in the update of a single trajectory, or on"
                        " several GPUs; lower rollout.max_completion_tokens or"
                        " train.tokens_per_micro_batch"
                    ) from None
            model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            self.out_of_memory += 1
            self.tokens = max(batch.padded for batch in batches) // 2

    def _micro_batches(self, found: list[Trajectory]) -> list[MicroBatch]:
        """This process's micro-batches; every process has as many of a role as the others."""
        totals = summed(distributed.gathered(role_totals(found)))
        batches = micro_batches(found, self.tokens, totals)
        if not batches and totals and self.accelerator.scaler is not None:
            # float16: the scaler of gradients wants to see one, be it zero
            return levelled(batches, {next(iter(totals)): [1]})
        if distributed.SIZE == 1:
            return batches
        mine = {role: [batch.rows for batch in batches if batch.role == role] for role in totals}
        every = distributed.gathered(mine)
        most = {}  # role -> rows of its first, second, ... micro-batch on the fullest process
        for role in totals:
            places = zip_longest(*(counts[role] for counts in every), fillvalue=1)
            most[role] = [max(rows) for rows in places]
        return levelled(batches, most)

    def _backward(self, model: Any, batches: list[MicroBatch]) -> torch.Tensor:
        """Gradients of all micro-batches, added up; the summed loss."""
        total = torch.zeros((), device=self.policy.device)
        for number, batch in enumerate(batches, 1):
            if self.interrupted():
                raise KeyboardInterrupt
            self.policy.activate(batch.role)
            self._micro = batch
            inputs, self._sampled = batch.tensors(
                self.processing_class.pad_token_id, self.policy.device
            )
            self.temperature = self.args.temperature = batch.temperature
            limit = self.limits[batch.role]
            self.max_completion_length = self.args.max_completion_length = limit
            more = any(other.role == batch.role for other in batches[number:])
            with self.accelerator.no_sync(model) if more else contextlib.nullcontext():
                total += super().training_step(model, inputs, None)
        return total

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        return generation_batch  # a micro-batch already

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """TRL's loss, scaled so that the micro-batches of a role add up to the role's own mean.

        What is scaled are the advantages: Unsloth's loss has a backward pass that does not see what
        its result is multiplied with.
        """
        if self.loss_type not in BY_TOKENS:
            scale = self._micro.scale * distributed.SIZE  # gradients of processes are averaged
            inputs = inputs | {"advantages": inputs["advantages"] * scale}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    if PLAIN_LOGITS:

        def _get_per_token_logps_and_entropies(
            self,
            model: Any,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            logits_to_keep: int,
            *_: Any,
            **__: Any,
        ) -> tuple[torch.Tensor, torch.Tensor, None]:
            """Log-probs and entropies (rows, T) from plain logits at the batch's temperature."""
            logits = model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0),
                logits_to_keep=logits_to_keep + 1,
                use_cache=False,
            ).logits[:, :-1]
            logits = logits.float() / self.temperature
            norm = logits.logsumexp(-1)
            logps = logits.gather(-1, input_ids[:, -logits_to_keep:, None])[..., 0] - norm
            with torch.no_grad():
                entropies = norm - (logits.softmax(-1) * logits).sum(-1)
                self._measure(logps, entropies, attention_mask[:, -logits_to_keep:].bool())
            return logps, entropies, None

    def _measure(self, logps: torch.Tensor, entropies: torch.Tensor, mask: torch.Tensor) -> None:
        """Add up per role: |log-prob now - log-prob as sampled| and entropy, with token counts."""
        batch = self._micro
        mask = mask[: len(batch.calls)]  # no rows of filling
        gaps = (logps - self._sampled)[: len(mask)].abs()[mask]
        for name, values in (("logp_gap", gaps), ("entropy", entropies[: len(mask)][mask])):
            total, count = self.numbers[name].get(batch.role, (0.0, 0))
            self.numbers[name][batch.role] = (total + float(values.sum()), count + len(values))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Hand the finished step to `on_step`, and what that returns to `report_to`."""
        if "loss" in logs:
            self.numbers |= {
                "loss": finite(logs["loss"]),
                "grad_norm": finite(logs.get("grad_norm")),
                "out_of_memory": self.out_of_memory,
            }
            logs |= self.on_step(self.state.global_step, self.trees, self.numbers) or {}
            self.policy.learning()  # TRL counts its own numbers apart for a model that generates
        super().log(logs, start_time)

    def _rate_of(self, role: str) -> float:
        """The learning rate of this step; that of a designer's own groups stands last."""
        groups = self.optimizer.param_groups
        return float(groups[-1 if role == "designer" else 0]["lr"])

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write under TRL's name, then rename: a folder called step-NNNNN is always complete."""
        super()._save_checkpoint(model, trial)
        distributed.wait()
        if self.args.should_save:
            (self.folder / "README.md").unlink(missing_ok=True)  # TRL's model card, half filled in
            written = self.folder / f"checkpoint-{self.state.global_step}"
            target = self.folder / checkpoint_name(self.state.global_step)
            if target.exists():
                shutil.rmtree(target)
            os.replace(written, target)

    def save_now(self) -> Path | None:
        """Save the last finished step, if it is not saved yet. Returns its folder."""
        step = self.state.global_step
        target = self.folder / checkpoint_name(step)
        if step == 0 or self.optimizer is None:
            return None
        if not (target / "trainer_state.json").exists():
            self._save_checkpoint(self.model, None)
        return target

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.policy.load(Path(resume_from_checkpoint))


def _counted(batches: list[MicroBatch], found: int) -> dict[str, Any]:
    padded = sum(batch.padded for batch in batches)
    return {
        "micro_batches": len(batches),
        "trajectories": found,
        "trained_rows": sum(len(b.calls) for b in batches),
        "trained_tokens": sum(b.tokens for b in batches),
        "padded_tokens": padded,
        "logp_gap": {},
        "entropy": {},
    }


def finite(value: float | None) -> float | None:
    """The number, or None for NaN and infinities, which JSON has no word for."""
    return None if value is None or not math.isfinite(value) else float(value)
