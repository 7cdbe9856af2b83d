"""TRL's GRPOTrainer with role-specific advantages and a schedule; the only file that imports it.

Each update runs TRL's loss over micro-batches of one role each. The frozen role's adapter never
becomes active while gradients are computed, so it gets none, and the optimizer leaves it alone.
TRL's own counter counts optimizer updates: `train.updates` of them make one step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from transformers.integrations import TensorBoardCallback
from trl import GRPOTrainer

from mxa_lite.errors import InputError, RunError
from mxa_lite.learn import distributed
from mxa_lite.learn.batching import MicroBatch, Trajectory, levelled, micro_batches, role_totals
from mxa_lite.learn.checkpoints import Checkpoints
from mxa_lite.learn.config import config
from mxa_lite.learn.logprobs import pack_tokens_of, token_logps
from mxa_lite.learn.numbers import counted, finite, summed_by_role
from mxa_lite.learn.rates import with_warm_ups
from mxa_lite.learn.scale import lower_first_scale, scale_numbers
from mxa_lite.learn.step import Step
from mxa_lite.policy.policy import Policy, exact_adapters, out_of_memory
from mxa_lite.policy.request import seed_of
from mxa_lite.recipe.keys import Recipe

# Losses that TRL divides by `num_items_in_batch`; the others are means over a micro-batch's rows.
BY_TOKENS = ("dapo", "cispo", "vespo")

# TRL's own class computes log-probs by a GPU kernel with one fixed temperature. Unsloth's generated
# class has a loss of its own and is left as it is.
PLAIN_LOGITS = GRPOTrainer.__module__.startswith("trl.")


def _unused_reward(completions: list[Any], **_: Any) -> list[float]:
    """TRL asks for a reward function; rewards come with the trees."""
    return [0.0] * len(completions)


class RoleTrainer(Checkpoints, GRPOTrainer):
    """GRPO over steps of trees.

    take(number) makes the step that is learned from next. callback: what happens after a step, by
    TRL's own seam; it goes before the loggers, so that they get what it adds to `logs`.
    """

    def __init__(
        self,
        recipe: Recipe,
        policy: Policy,
        folder: Path,
        take: Callable[[int], Step],
        callback: TrainerCallback | None = None,
    ) -> None:
        self.recipe, self.policy, self.folder, self.take = recipe, policy, folder, take
        self.step = Step.of(0, [], ())
        self.tokens = recipe.train.tokens_per_micro_batch
        self.pack_tokens, self.note = 0, "whole rows: the recipe or Unsloth's loss wants them"
        if recipe.train.updates > 1 and not PLAIN_LOGITS:
            raise InputError("train.updates: more than 1 needs model.loader=plain")
        with exact_adapters(policy.model):
            super().__init__(
                model=policy.model,
                args=config(recipe, folder),
                reward_funcs=_unused_reward,
                # rows for every process to begin a step with; trees replace them
                train_dataset=Dataset.from_dict({"prompt": [""] * 2 * distributed.SIZE}),
                processing_class=policy.tokenizer,
            )
        lower_first_scale(self.accelerator)
        if recipe.train.prefix_sharing and PLAIN_LOGITS:
            self.pack_tokens, self.note = pack_tokens_of(policy.model, recipe.model.max_length)
        self.remove_callback(PrinterCallback)
        if callback is not None:
            self.callback_handler.callbacks.insert(0, callback)
        for handler in self.callback_handler.callbacks:
            if isinstance(handler, TensorBoardCallback):  # else among the checkpoints
                handler.logging_dir = str(folder.parent / "logs")
        self.limits = dict(recipe.rollout.max_completion_tokens)  # by role

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """One backward pass per micro-batch; the caller takes the optimizer step.

        A step is rolled out before its first update. When memory runs out the budget of a
        micro-batch is halved, for the rest of the run too, and the update begins again from the
        same trees. Raises RunError when a single row is too much.
        """
        number, update = divmod(self.state.global_step, self.recipe.train.updates)
        if update == 0:
            self.step = self.take(number + 1)
        learned = self.step.mini_batches[update]
        out_of_memory_count = 0
        while True:
            key = (self.recipe.seed, number + 1, "dropout", *([update] if update else []))
            torch.manual_seed(seed_of(key) % 2**32)
            self.policy.learning()
            batches = self._micro_batches(learned)
            self.numbers = counted(batches, len(learned))
            groups = self.optimizer.param_groups  # a designer's own stand last
            designing = self.step.roles[-1] == "designer"
            self.numbers["lr"] = float(groups[-1 if designing else 0]["lr"])
            self.numbers["out_of_memory"] = out_of_memory_count
            try:
                with self.policy.all_threads():
                    return self._backward(model, batches)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if max(batch.rows for batch in batches) == 1 or distributed.SIZE > 1:
                    raise RunError(
                        f"step {number + 1}: out of memory in the update of a single trajectory, or"
                        " on several GPUs; lower rollout.max_completion_tokens or"
                        " train.tokens_per_micro_batch"
                    ) from None
            model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            out_of_memory_count += 1
            self.tokens = max(batch.padded for batch in batches) // 2

    def _micro_batches(self, learned: list[Trajectory]) -> list[MicroBatch]:
        """This process's micro-batches; every process has as many of a role as the others."""
        totals = summed_by_role(distributed.gathered(role_totals(learned)))
        batches = micro_batches(learned, self.tokens, totals, self.pack_tokens)
        if not batches and totals and self.accelerator.scaler is not None:
            # float16: the scaler of gradients wants to see one, be it zero
            return levelled(batches, {next(iter(totals)): [1]})
        if distributed.SIZE == 1:
            return batches
        own_rows = {role: [b.rows for b in batches if b.role == role] for role in totals}
        all_rows = distributed.gathered(own_rows)
        fullest = {}  # role -> rows of its first, second, ... micro-batch on the fullest process
        for role in totals:
            places = zip_longest(*(counts[role] for counts in all_rows), fillvalue=1)
            fullest[role] = [max(rows) for rows in places]
        return levelled(batches, fullest)

    def _backward(self, model: Any, batches: list[MicroBatch]) -> torch.Tensor:
        """Gradients of all micro-batches, added up; the summed loss."""
        total = torch.zeros((), device=self.policy.device)
        for number, batch in enumerate(batches, 1):
            self.policy.activate(batch.role)
            self._micro = batch
            inputs = batch.tensors(self.processing_class.pad_token_id, self.policy.device)
            self.temperature = self.args.temperature = batch.temperature
            limit = self.limits[batch.role]
            self.max_completion_length = self.args.max_completion_length = limit
            more = any(later.role == batch.role for later in batches[number:])
            with self.accelerator.no_sync(model) if more else contextlib.nullcontext():
                total += super().training_step(model, inputs, None)
        return total

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        return generation_batch  # a micro-batch already

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """TRL's loss (eq. 2, 3), scaled so that a role's micro-batches add up to its own mean.

        What is scaled are the advantages: Unsloth's loss has a backward pass that does not see what
        its result is multiplied with.
        """
        self._inputs = inputs
        if not PLAIN_LOGITS:
            # Unsloth wants them in the layout of its own, packed rows. Without them it takes the
            # log-probs of now: a ratio of 1, right as long as a step has one update.
            inputs = {key: inputs[key] for key in inputs if key != "old_per_token_logps"}
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
            """Log-probs and entropies (rows, T) at the batch's temperature."""
            logps, entropies = token_logps(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                self.temperature,
                self._micro.packs,
            )
            self._measure(logps.detach(), entropies)
            return logps, entropies, None

    def _measure(self, logps: torch.Tensor, entropies: torch.Tensor) -> None:
        """Add up per role, with token counts: |log-prob now - log-prob as sampled|, entropy, and
        the tokens whose ratio is beyond the clip on the side that their advantage pushes to."""
        batch, inputs = self._micro, self._inputs
        rows = slice(len(batch.calls))  # no rows of filling
        mask = inputs["completion_mask"][rows].bool()
        gaps = (logps - inputs["old_per_token_logps"])[rows]
        rising = (inputs["advantages"][rows, None] > 0).expand_as(gaps)
        ratio, clip = gaps.exp(), self.recipe.train.clip
        clipped = torch.where(rising, ratio > 1 + clip, ratio < 1 - clip)
        for sums, values in (
            (self.numbers["logp_gap"], gaps.abs()),
            (self.numbers["entropy"], entropies[rows]),
            (self.numbers["clipped"], clipped),
        ):
            total, count = sums.get(batch.role, (0.0, 0))
            sums[batch.role] = (total + float(values[mask].sum()), count + int(mask.sum()))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """An update's loss and gradient norm join its numbers; then the callbacks are told."""
        if "loss" in logs:
            numbers = self.numbers
            numbers["loss"] = finite(logs["loss"])
            numbers["grad_norm"] = finite(logs.get("grad_norm"))
            numbers["step_skipped"], numbers["scale"] = scale_numbers(self.accelerator)
            self.step.numbers.append(numbers)
        super().log(logs, start_time)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """One AdamW over both adapters; an adapter without gradient is not moved by it.

        The designer's adapter is in parameter groups of its own, for its own learning rate.
        """
        self.policy.model.set_requires_grad(list(self.policy.names), True)
        optimizer = super().create_optimizer(model)
        designer_ids = {id(p) for n, p in self.policy.model.named_parameters() if ".designer." in n}
        rate = self.recipe.train.learning_rate.designer
        for group in list(optimizer.param_groups) if designer_ids else []:
            designer = [p for p in group["params"] if id(p) in designer_ids]
            group["params"] = [p for p in group["params"] if id(p) not in designer_ids]
            optimizer.add_param_group(group | {"params": designer, "lr": rate, "role": "designer"})
        return optimizer

    def create_scheduler(self, *arguments: Any, **named: Any) -> Any:
        """Transformers' course of the rates over the run, times each role's own warm-up."""
        return with_warm_ups(super().create_scheduler(*arguments, **named), self.recipe)
