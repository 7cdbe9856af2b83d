"""A recipe in the words of TRL's GRPOTrainer."""

from __future__ import annotations

from pathlib import Path

import torch
from trl import GRPOConfig

from mxa_lite.policy.load import autocast
from mxa_lite.recipe.keys import Recipe


def config(recipe: Recipe, folder: Path) -> GRPOConfig:
    """Every field that matters is set, since Unsloth's config has other defaults."""
    train = recipe.train
    cpu = not torch.cuda.is_available()
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=train.steps * train.updates,
        learning_rate=train.learning_rate.executor,
        lr_scheduler_type=train.lr_scheduler,
        warmup_steps=0,  # `rates.py` has one for each role
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
        logging_nan_inf_filter=False,  # it would log 0 in place of NaN
        save_strategy="steps",
        save_steps=train.save_every * train.updates,
        report_to=train.report_to or "none",
        run_name=folder.resolve().parent.name,
        project="mxa-lite",
        disable_tqdm=True,
        ignore_data_skip=True,
        ddp_find_unused_parameters=True,  # the other role's adapter
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
