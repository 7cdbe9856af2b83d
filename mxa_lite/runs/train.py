"""One run, top to bottom: cold start, evaluate, train, evaluate, report."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from tqdm import tqdm

from mxa_lite import embedded
from mxa_lite.credit.schedule import questions_for
from mxa_lite.errors import InputError
from mxa_lite.evidence import report
from mxa_lite.learn import bootstrap, distributed, warmstart
from mxa_lite.learn.step import Step, take
from mxa_lite.learn.trainer import RoleTrainer
from mxa_lite.recipe import file as recipe_file
from mxa_lite.recipe import own
from mxa_lite.recipe.keys import Recipe, own_choices
from mxa_lite.recipe.versions import machine, versions
from mxa_lite.records import Summary
from mxa_lite.rollout.opened import load_policy, sampler_for
from mxa_lite.rollout.sampler import Sampler
from mxa_lite.runfolder import RunFolder, checkpoint_name, latest_checkpoint, step_of
from mxa_lite.runs.after_step import AfterStep
from mxa_lite.runs.interrupts import Interrupts
from mxa_lite.runs.measuring import Measuring
from mxa_lite.tasks import load as tasks
from mxa_lite.tree import Question

COLD = checkpoint_name(0)
BAR = "{n_fmt}/{total_fmt} |{bar:20}|{postfix}"  # and what AfterStep knows of the time left


class Run:
    """A run folder with its recipe, policy, sampler and questions."""

    def __init__(
        self, recipe: Recipe, folder: RunFolder, sampler: Sampler, data: tasks.TaskSet
    ) -> None:
        """Nothing is written yet. Raises InputError for chats that cannot be read."""
        self.recipe, self.folder, self.sampler, self.data = recipe, folder, sampler, data
        start = recipe.cold_start
        self.chats = embedded.COLD_START if start.data is None else Path(start.data).expanduser()
        unread = start.method == "data" and not (folder.checkpoints / COLD).is_dir()
        self.cold_chats = warmstart.read_chats(self.chats) if unread else {}
        self.policy = sampler.engine.policy
        self.measuring = Measuring(sampler, data.test[: recipe.eval.questions], folder, self.say)
        self.step = Step.of(0, [], ())
        self.started = self.rolled_out = time.monotonic()
        self.go_on = f"`mxa-lite run {folder.path} --resume` goes on"

    def say(self, text: str) -> None:
        """One plain line, above the progress bar when there is one; the first process speaks."""
        if not distributed.MAIN:
            return
        seconds = int(time.monotonic() - self.started)
        try:
            tqdm.write(f"[{seconds // 60:3d}:{seconds % 60:02d}] {text}")
            sys.stdout.flush()
        except OSError:  # a closed pipe or terminal: like Ctrl-C, and nothing more is said there
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise KeyboardInterrupt(f"nobody reads the output; {self.go_on}") from None

    def cold_start(self) -> None:
        """Warm-start both roles, or find the cold adapters of an earlier start of this run."""
        target = self.folder.checkpoints / COLD
        if target.is_dir():
            self.policy.load(target)
            return
        cold = self.recipe.cold_start
        if cold.method == "bootstrap":
            bootstrap.Bootstrap(self.sampler, self.pick, self.folder, self.say).run()
        elif cold.method == "data":
            chats = self.cold_chats
            counts = ", ".join(f"{len(of_role)} {role}" for role, of_role in chats.items())
            self.say(
                f"cold start: at most {cold.steps} steps on {counts} chats of {self.chats.name}"
            )
            engine = self.sampler.engine
            losses = warmstart.warm_start(self.recipe, self.policy, engine, chats, self.say)
            self.say("cold start: loss " + ", ".join(f"{r} {x:.3f}" for r, x in losses.items()))
        if distributed.MAIN:
            beside = self.folder.checkpoints / "cold.part"
            shutil.rmtree(beside, ignore_errors=True)
            self.policy.save(beside)
            os.replace(beside, target)
        distributed.wait()

    def pick(self, step: int, count: int) -> list[Question]:
        return questions_for(self.data.train, self.data.weights, self.recipe.seed, step, count)

    def take(self, number: int) -> Step:
        """The training step `number`, for the trainer."""
        self.step = take(number, self.recipe, self.data, self.sampler)
        self.rolled_out = time.monotonic()
        return self.step

    def train(self) -> Path:
        """All steps that are left; returns the folder of the last checkpoint."""
        last = latest_checkpoint(self.folder.checkpoints)
        done = step_of(last) if last else 0
        steps = self.recipe.train.steps
        if last is not None and done >= steps:
            self.policy.load(last)
            return last
        if not steps:
            return self.folder.checkpoints / COLD
        if distributed.MAIN:
            for leftover in self.folder.checkpoints.glob("checkpoint-*"):
                shutil.rmtree(leftover)
            self.folder.cut_after(done)
        distributed.wait()
        if done:
            self.say(f"resuming after step {done}")
        self.sampler.clock.seconds.clear()  # of the evaluation
        self.sampler.engine.reset()
        disable = None if distributed.MAIN else True
        with (
            Interrupts() as interrupts,
            tqdm(total=steps, initial=done, disable=disable, leave=False, bar_format=BAR) as bar,
        ):
            after_step = AfterStep(self, interrupts, bar)
            trainer = RoleTrainer(
                self.recipe, self.policy, self.folder.checkpoints, self.take, after_step
            )
            self.say(f"update: {trainer.note}")
            try:
                trainer.train(resume_from_checkpoint=str(last) if last else None)
                if interrupts.asked:
                    raise KeyboardInterrupt
            except KeyboardInterrupt:
                saved = trainer.save_now()
                done_so = f"saved in {saved}" if saved else "before the first step"
                raise KeyboardInterrupt(f"stopped; {done_so}; {self.go_on}") from None
        last = trainer.save_now() or self.folder.checkpoints / COLD
        if distributed.MAIN:
            self.folder.keep_checkpoints(self.recipe.train.keep)
        return last


def run(
    recipe: Recipe, output: Path, resume: bool, say: Callable[[str], None] = click.echo
) -> None:
    """Do the run, or what is left of it. Raises InputError, RunError, KeyboardInterrupt.

    Without `resume`, what a start left that ended before its first step is removed.
    """
    folder = RunFolder(output)
    summary: Summary = folder.read_json("summary.json")
    if resume and summary.get("steps") == recipe.train.steps:
        say(f"{output} is finished: {recipe.train.steps} steps; see {output / 'report.html'}")
        return
    cold = folder.checkpoints / COLD
    if distributed.SIZE > 1 and recipe.cold_start.method != "none" and not cold.is_dir():
        raise InputError(
            "cold_start: runs on one GPU; do `mxa-lite run RECIPE --set train.steps=0` first, then"
            " launch the same command with --resume and without that"
        )
    distributed.join()
    data = tasks.load(recipe.task, recipe.seed)
    marks = data.marks()
    stored = folder.read_json("questions.json") if resume else {}
    if stored and stored != marks:
        raise InputError(
            f"--resume: {output} was begun with other questions ({stored} there, {marks} here):"
            " bring back its data files, or begin another run"
        )
    policy = load_policy(recipe)
    for note in [*data.notes, *policy.notes] if distributed.MAIN else []:
        say(note)
    if len(data.train) < recipe.train.questions:
        say(f"a step has {len(data.train)} questions, all there are to train on")
    with sampler_for(recipe, policy) as sampler, contextlib.ExitStack() as stack:
        training = Run(recipe, folder, sampler, data)
        if distributed.MAIN:
            output.mkdir(parents=True, exist_ok=True)
            stack.enter_context(folder.lock())
            if not resume:
                folder.clear()
            elif summary:  # more steps than before: the end is measured again
                results = folder.results()
                results.pop("final", None)
                results.pop("swap", None)
                folder.write_json("eval.json", results)
            gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
            folder.create(recipe_file.dump(recipe, versions() | {"machine": machine(gpu)}))
            for file in own.files(own_choices(recipe)).values():
                folder.write(f"{own.FOLDER}/{file.file}", file.text)
            folder.write_json("questions.json", marks)
        distributed.wait()
        training.say(f"sandbox level {sampler.sandbox.level}{sampler.engine.note}")
        training.cold_start()
        training.measuring.whole("cold")
        final = training.train()
        if not distributed.MAIN:
            return
        training.measuring.whole("final")
        training.measuring.swap(cold, final)
        training.measuring.summary()
    training.say(f"report: {report.build(output)}")
