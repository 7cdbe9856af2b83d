"""What happens after a training step: written down, measured, shown, and asked whether to stop."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Sequence
from itertools import zip_longest
from textwrap import indent, shorten
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState

from mxa_lite.credit.advantage import GroupStats
from mxa_lite.credit.schedule import stage
from mxa_lite.errors import RunError
from mxa_lite.evidence.metrics import flat_numbers, step_line
from mxa_lite.evidence.warnings import warnings_of
from mxa_lite.learn import distributed
from mxa_lite.learn.numbers import merged
from mxa_lite.learn.step import Step
from mxa_lite.records import Modes, StepLine
from mxa_lite.runs.interrupts import Interrupts
from mxa_lite.stdio import printable
from mxa_lite.tree import Tree

if TYPE_CHECKING:
    from mxa_lite.runs.train import Run

LEGEND = (  # with the time before it no wider than 80 columns
    "a step: who learns; right: share of executions with the right answer;",
    "reward: mean of the designs / of the executions; valid: scripts that",
    "may run; signal: groups of the learning role (d, e) whose rewards",
    "differ, since only these teach",
)
SCRIPT = 6  # lines of a script that `train.show_every` shows


def sample(trees: Sequence[Tree]) -> list[str]:
    """The question whose designs differ most in reward, with its best and its worst design."""
    if not trees:
        return []
    by_reward = [sorted(tree.designs, key=lambda design: -design.reward) for tree in trees]
    places = range(len(trees))
    place = max(places, key=lambda i: by_reward[i][0].reward - by_reward[i][-1].reward)
    question = trees[place].question
    lines = [f'"{shorten(question.text, 66)}"' + f" -> {question.gold}" * bool(question.gold)]
    for word, design in (("best", by_reward[place][0]), ("worst", by_reward[place][-1])):
        ends = [shorten(e.answer or str(e.outcome), 20) for e in design.executions]
        answers = ", ".join(ends) or f"{design.outcome}: {design.error}"
        lines.append(f"  {word}: reward {design.reward:.2f}, {design.pattern}, answers {answers}")
        lines += [f"    {text}" for text in (design.script or "").splitlines()[:SCRIPT]]
    return [printable(line) for line in lines]


class AfterStep(TrainerCallback):
    """Transformers' own seam for it. One object for one call of `train`."""

    def __init__(self, run: Run, interrupts: Interrupts, bar: tqdm[Any]) -> None:
        self.run, self.interrupts, self.bar = run, interrupts, bar
        self.steps_done, self.seconds = 0, 0.0
        self.warned: set[str] = set()  # keys of warnings

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ctrl-C ends the training when the step is whole."""
        step_is_whole = state.global_step % self.run.recipe.train.updates == 0
        if step_is_whole and any(distributed.gathered(self.interrupts.asked)):
            control.should_training_stop = True

    def on_log(self, args: Any, state: TrainerState, *_: Any, logs: Any = None, **__: Any) -> None:
        """Loss and gradient norm are known by now. What is added to `logs` reaches the loggers."""
        updates = self.run.recipe.train.updates
        if logs is None or "loss" not in logs:
            return
        self.check_numbers(state.global_step, logs["loss"])
        if state.global_step % updates:
            return
        line = self.write(self.run.step)
        if line is not None:
            text = "\n".join(sample(self.run.step.trees))
            logs.update(flat_numbers(line), sample=indent(text, "    "))  # as code, in Markdown
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
        """One line a step, of which all that matters fits 80 columns; a bar below on a terminal."""
        run, steps = self.run, self.run.recipe.train.steps
        for text in LEGEND if not self.steps_done else ():
            run.say(text)
        self.steps_done += 1
        self.seconds += sum(line["seconds"].values())
        if times := line["memory"]["out_of_memory"]:
            run.say(f"step {line['step']}: out of memory {times} times, done again in halves")
        groups, reward = line["groups"], [line["reward"][role] or 0 for role in line["groups"]]
        signal = " ".join(
            f"{role[0]} {groups[role]['signal']}/{groups[role]['total']}"
            for role in groups
            if line["role"] in (role, "both")
        )
        text = (
            f"{line['step']}/{steps} {line['role']}  right {line['correct']:.0%}"
            f"  reward {reward[0]:.2f}/{reward[1]:.2f}"
            f"  valid {line['valid_scripts'] or 0:.0%}  signal {signal}"
        )
        pace = self.seconds / self.steps_done
        seconds_left = (steps - line["step"]) * pace + run.measuring.seconds_after(line["step"])
        time_left = f"{pace:.1f} s a step, {seconds_left / 60:.1f} min left"
        run.say(f"{text}  {time_left}" if self.bar.disable else text)
        self.bar.set_postfix_str(time_left, refresh=False)
        self.bar.update(1)
        every = run.recipe.train.show_every
        for text in sample(run.step.trees) if every and line["step"] % every == 0 else ():
            run.say(text)

    def warn(self) -> None:
        """What the metrics give reason to say, each once."""
        for key, warning in warnings_of(self.run.folder.read_metrics()).items():
            if key not in self.warned:
                self.run.say(f"warning: {warning}")
            self.warned.add(key)

    def measure(self, step: int) -> Modes:
        """The main mode on the held-out questions, every `eval.every` steps; else nothing."""
        recipe = self.run.recipe
        every = recipe.eval.every
        if every and step % every == 0 and step < recipe.train.steps:
            return self.run.measuring.during(step)
        return {}
