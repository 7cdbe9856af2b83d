"""How a trainer writes its checkpoints and goes on from one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mxa_lite.errors import RunError
from mxa_lite.learn import distributed
from mxa_lite.policy.policy import Policy
from mxa_lite.recipe.keys import Recipe
from mxa_lite.runfolder import checkpoint_name


class Checkpoints:
    """Goes before TRL's class: its checkpoints are complete, and named by steps."""

    recipe: Recipe
    policy: Policy
    folder: Path
    args: Any
    model: Any
    state: Any
    optimizer: Any
    lr_scheduler: Any

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write under TRL's name, then rename: a folder called step-NNNNN is always complete."""
        written = self.folder / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk, to each library
            shutil.rmtree(written, ignore_errors=True)
            raise RunError(
                f"{self._target()} cannot be written ({str(error).splitlines()[0]}); earlier"
                " checkpoints are whole: make room, then --resume"
            ) from error
        distributed.wait()
        if self.args.should_save:
            (self.folder / "README.md").unlink(missing_ok=True)  # TRL's model card, half filled in
            target = self._target()
            if target.exists():
                shutil.rmtree(target)
            os.replace(written, target)

    def _target(self) -> Path:
        return self.folder / checkpoint_name(self.state.global_step // self.recipe.train.updates)

    def save_now(self) -> Path | None:
        """Save the last finished step, if it is not saved yet. Returns its folder.

        None when there is nothing to save: before the first step, or between the updates of one.
        """
        if self.state.global_step == 0 or self.optimizer is None:
            return None
        target = self._target()
        if self.state.global_step % self.recipe.train.updates:
            return target if target.is_dir() else None
        if not (target / "trainer_state.json").exists():
            self._save_checkpoint(self.model, None)
        return target

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Rates are those of the steps there are now, where the stored ones may have ended at 0."""
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is not None:
            by_group = zip(self.optimizer.param_groups, self.lr_scheduler.base_lrs, strict=True)
            factors = self.lr_scheduler.lr_lambdas
            for (group, base), factor in zip(by_group, factors, strict=True):
                group["lr"] = base * factor(self.lr_scheduler.last_epoch)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.policy.load(Path(resume_from_checkpoint))
