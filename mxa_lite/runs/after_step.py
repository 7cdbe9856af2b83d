"""What happens after a training step: written down, measured, shown, and asked whether to stop."""

from __future__ import annotations

import math
import resource
import time
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState

from mxa_lite.credit.advantage import GroupStats
from mxa_lite.credit.schedule import stage
from mxa_lite.errors import RunError
from mxa_lite.evidence.metrics import StepLine, flat_numbers, sample_text, step_line
from mxa_lite.evidence.warnings import warnings_of
from mxa_lite.learn import distributed
from mxa_lite.learn.numbers import merged
from mxa_lite.learn.step import Step
from mxa_lite.runs.interrupts import Interrupts

if TYPE_CHECKING:
    from mxa_lite.runs.train import Run


class AfterStep(TrainerCallback):
    """Transformers' own seam for it. One object for one call of `train`."""

    def __init__(self, run: Run, interrupts: Interrupts, bar: tqdm[Any]) -> None:
        self.run, self.interrupts, self.bar = run, interrupts, bar
        self.started = time.monotonic()
        self.steps_done = 0
        self.warned: set[str] = set()  # keys of warnings

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ctrl-C ends the training when the step is whole."""
        whole = state.global_step % self.run.recipe.train.updates == 0
        if whole and any(distributed.gathered(self.interrupts.asked)):
            control.should_training_stop = True

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Loss and gradient norm are known by now. What is added to `logs` reaches the loggers."""
        updates = self.run.recipe.train.updates
        if logs is None or "loss" not in logs:
            return
        self.check_numbers(state.global_step, logs["loss"])
        if state.global_step % updates:
            return
        line = self.write(self.run.step)
        if line is not None:
            logs.update(flat_numbers(line), sample=sample_text(self.run.step.trees))
            self.show(line)
            self.warn()
            measured = self.measure(line["step"])
            logs.update({f"eval_{name}": n for name, n in flat_numbers(measured).items()})

    def on_save(self, args: Any, state: TrainerState, *_: Any, **__: Any) -> None:
        """Checkpoints beyond `train.keep` go when a newer one is whole."""
        if distributed.MAIN:
            self.run.folder.keep_checkpoints(self.run.recipe.train.keep)

    def check_numbers(self, update: int, loss: float) -> None:
        """Raise RunError, before this step is written or saved, when learning has broken down."""
        adapters = (p for n, p in self.run.policy.model.named_parameters() if "lora_" in n)
        if not (math.isfinite(loss) and all(bool(p.isfinite().all()) for p in adapters)):
            raise RunError(
                f"step {self.run.step.number} (update {update}): the loss or an adapter is no"
                " longer a number; nothing of this step is saved, earlier checkpoints stay; begin"
                " again with a lower train.learning_rate or another model.dtype"
            )

    def write(self, step: Step) -> StepLine | None:
        """The step's trees and its line of metrics, of all processes; None but on the first."""
        run, sampler = self.run, self.run.sampler
        update_seconds = time.monotonic() - run.rolled_out
        started = time.monotonic()
        numbers = merged(step.numbers, updates=len(step.numbers))
        numbers["out_of_memory"] += sampler.engine.reset().out_of_memory
        shares = distributed.gathered((step.trees, step.groups, numbers))
        if not distributed.MAIN:
            return None
        by_question = zip_longest(*(share[0] for share in shares))
        trees = [tree for row in by_question for tree in row if tree is not None]
        run.folder.write_trees(step.number, trees)
        numbers = merged([share[2] for share in shares])
        groups = sum((share[1] for share in shares), GroupStats())
        line = step_line(
            step.number, step.roles, trees, groups, run.recipe.rollout.executions, numbers
        )
        line["stage"] = stage(run.recipe.schedule, step.number)
        line["engine"] = run.recipe.engine
        line["seconds"] = {
            **sampler.clock.seconds,
            "update": update_seconds,
            "write": time.monotonic() - started,
        }
        sampler.clock.seconds.clear()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() / 2**20
        line["memory"] = {"peak_mb": peak, "out_of_memory": numbers["out_of_memory"]}
        run.folder.add_metrics(line)
        return line

    def show(self, line: StepLine) -> None:
        """One line a step, or the progress bar where there is a terminal."""
        run = self.run
        self.steps_done += 1
        if times := line["memory"]["out_of_memory"]:
            run.say(f"step {line['step']}: out of memory {times} times, done again in halves")
        groups = line["groups"]
        reward = {role: mean or 0 for role, mean in line["reward"].items()}
        signal_share = " ".join(
            f"{role[0]} {groups[role]['signal']}/{groups[role]['total']}" for role in groups
        )
        text = (
            f"{line['role']:8s} learns  correct {line['correct']:.2f}"
            f"  reward d {reward['designer']:.2f} e {reward['executor']:.2f}"
            f"  valid {line['valid_scripts'] or 0:.0%}  signal {signal_share}"
        )
        if not self.bar.disable:
            self.bar.set_description_str(text, refresh=False)
            self.bar.update(1)
            return
        steps = run.recipe.train.steps
        pace = (time.monotonic() - self.started) / self.steps_done
        run.say(
            f"step {line['step']}/{steps}  {text}  {sum(line['seconds'].values()):.1f}s,"
            f" {(steps - line['step']) * pace / 60:.1f} min left"
        )

    def warn(self) -> None:
        """What the metrics give reason to say, each once."""
        for key, warning in warnings_of(self.run.folder.read_metrics()).items():
            if key not in self.warned:
                self.run.say(f"warning: {warning}")
            self.warned.add(key)

    def measure(self, step: int) -> dict[str, Any]:
        """The main mode on the held-out questions, every `eval.every` steps; else nothing."""
        recipe = self.run.recipe
        every = recipe.eval.every
        if every and step % every == 0 and step < recipe.train.steps:
            return self.run.measuring.during(step)
        return {}
