"""One run, top to bottom: cold start, evaluate, train, evaluate, report."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click
import torch
from tqdm import tqdm

from mxa_lite import embedded
from mxa_lite.credit.advantage import GroupStats, assign
from mxa_lite.credit.schedule import learning_roles, questions_for, stage
from mxa_lite.errors import InputError
from mxa_lite.evidence import evaluate
from mxa_lite.evidence.metrics import flat_numbers, merged, step_line
from mxa_lite.learn import bootstrap, distributed, warmstart
from mxa_lite.learn.trainer import RoleTrainer, checkpoint_name, latest_checkpoint
from mxa_lite.machine.doctor import versions
from mxa_lite.recipe import file as recipe_file
from mxa_lite.recipe import own
from mxa_lite.recipe.keys import Recipe, own_choices
from mxa_lite.rollout.sampler import Sampler, Shape
from mxa_lite.runfolder import RunFolder
from mxa_lite.runs.interrupts import Interrupts
from mxa_lite.runs.opened import load_policy, sampler_for
from mxa_lite.tasks import load as tasks
from mxa_lite.tree import Question, Tree

COLD = checkpoint_name(0)


class Run:
    """A run folder with its recipe, policy, sampler and questions."""

    def __init__(
        self, recipe: Recipe, folder: RunFolder, sampler: Sampler, data: tasks.TaskSet
    ) -> None:
        """Nothing is written yet. Raises InputError for chats that cannot be read."""
        self.recipe, self.folder, self.sampler, self.data = recipe, folder, sampler, data
        given, cold = recipe.cold_start.data, recipe.cold_start.method
        self.chats = embedded.COLD_START if given is None else Path(given).expanduser()
        wanted = cold == "data" and not (folder.checkpoints / COLD).is_dir()
        self.cold_chats = warmstart.read_chats(self.chats) if wanted else {}
        self.policy = sampler.engine.policy
        self.groups = GroupStats()
        self.held_out = data.test[: recipe.eval.questions]
        self.started = time.monotonic()
        self.steps_done = 0
        self.bar: tqdm[Any] | None = None
        self.interrupts = Interrupts()

    def say(self, text: str) -> None:
        """One plain line, above the progress bar when there is one; the first process speaks."""
        if not distributed.MAIN:
            return
        seconds = int(time.monotonic() - self.started)
        tqdm.write(f"[{seconds // 60:3d}:{seconds % 60:02d}] {text}")

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
            count = ", ".join(f"{len(some)} {role}" for role, some in chats.items())
            self.say(
                f"cold start: at most {cold.steps} steps on {count} chats of {self.chats.name}"
            )
            losses = warmstart.warm_start(self.recipe, self.policy, self.sampler.engine, chats)
            self.say("cold start: loss " + ", ".join(f"{r} {x:.3f}" for r, x in losses.items()))
        if distributed.MAIN:
            beside = self.folder.checkpoints / "cold.part"
            shutil.rmtree(beside, ignore_errors=True)
            self.policy.save(beside)
            os.replace(beside, target)
        distributed.wait()

    def pick(self, step: int, count: int) -> list[Question]:
        """The training questions of a step or round, each once."""
        data = self.data
        chosen = questions_for(data.train, data.weights, self.recipe.seed, step, count)
        return list({question.id: question for question in chosen}.values())

    def evaluate(self, name: str) -> None:
        """Measure the policy as it stands into eval.json under `name`, unless it is there."""
        results = self.folder.read_json("eval.json")
        if name in results or not self.held_out or not distributed.MAIN:
            return
        self.say(f"evaluating ({name}) on {len(self.held_out)} held-out questions")
        results[name], seconds = evaluate.measure(
            self.sampler, self.held_out, self.folder.path / "predictions" / name
        )
        results.setdefault("seconds", {})[name] = seconds  # what a clock decides, apart
        self.folder.write_json("eval.json", results)
        for mode, m in results[name].items():
            self.say(
                f"  {mode:17s} {m['accuracy']:.3f} [{m['low']:.3f}, {m['high']:.3f}]"
                f"  {m['calls']:.1f} calls, {m['tokens']:.0f} tokens a question"
            )

    def evaluate_during(self, step: int) -> None:
        """Measure the method's own mode after a step into eval.json, under "during"."""
        measured = evaluate.main_mode(self.sampler, self.held_out)
        results = self.folder.read_json("eval.json")
        results.setdefault("during", {})[str(step)] = measured
        self.folder.write_json("eval.json", results)
        for mode, m in measured.items():
            interval = f"{m['accuracy']:.3f} [{m['low']:.3f}, {m['high']:.3f}]"
            self.say(f"held out after step {step}: {mode} {interval}")
        self.sampler.clock.seconds.clear()  # no part of the next step
        self.sampler.engine.reset()

    def swap(self, final: Path) -> None:
        """The 2x2 table: designer and executor each cold or trained, equal sampling keys."""
        results = self.folder.read_json("eval.json")
        if "swap" in results:
            return
        wanted = self.recipe.eval.swap and self.recipe.method == "metaagent"
        if not wanted or self.recipe.model.adapters == "shared" or not self.held_out:
            results["swap"] = None
            self.folder.write_json("eval.json", results)
            return
        cold = self.folder.checkpoints / COLD
        table = {
            "cold_cold": results["cold"]["designed"],
            "trained_trained": results["final"]["designed"],
        }
        temperature, samples = self.recipe.rollout.temperature, self.recipe.eval.samples
        for designer, executor in (("trained", "cold"), ("cold", "trained")):
            self.policy.load(final if designer == "trained" else cold, ["designer"])
            self.policy.load(final if executor == "trained" else cold, ["executor"])
            tries = evaluate.designed(self.sampler, self.held_out, samples, temperature)
            table[f"{designer}_{executor}"] = evaluate.summarize(tries)
        self.policy.load(final)
        order = ("cold_cold", "trained_cold", "cold_trained", "trained_trained")
        results["swap"] = {cell: table[cell] for cell in order}
        self.folder.write_json("eval.json", results)
        self.say("swap table (designer_executor):")
        for cell, m in results["swap"].items():
            self.say(f"  {cell:17s} {m['accuracy']:.3f} [{m['low']:.3f}, {m['high']:.3f}]")

    def rollout(self, step: int) -> list[Tree]:
        """The trees of one training step, credit assigned."""
        recipe = self.recipe
        questions = questions_for(
            self.data.train, self.data.weights, recipe.seed, step, recipe.train.questions
        )[distributed.RANK :: distributed.SIZE]
        shape = Shape(recipe.rollout.designs, recipe.rollout.executions, recipe.rollout.temperature)
        if recipe.method == "single_agent":
            trees = evaluate.single_trees(self.sampler, questions, shape, step)
        else:
            trees = self.sampler.rollout(questions, shape, step)
        self.groups = sum((assign(tree, recipe.credit) for tree in trees), GroupStats())
        self.rolled = time.monotonic()
        return trees

    def roles(self, step: int) -> tuple[str, ...]:
        """Who learns in this step; one agent alone is always the executor."""
        if self.recipe.method == "single_agent":
            return ("executor",)
        return learning_roles(self.recipe.schedule, step)

    def on_step(self, step: int, trees: list[Tree], numbers: dict[str, Any]) -> dict[str, float]:
        """Write the step down and say how it went; the numbers of its line, by dotted names."""
        update = time.monotonic() - self.rolled
        started = time.monotonic()
        numbers["out_of_memory"] += self.sampler.engine.reset().out_of_memory
        parts = distributed.gathered((trees, self.groups, numbers))
        if not distributed.MAIN:
            return {}
        shares = zip_longest(*(part[0] for part in parts))
        trees = [tree for share in shares for tree in share if tree is not None]
        self.folder.write_trees(step, trees)
        numbers = merged([part[2] for part in parts])
        out_of_memory = numbers.pop("out_of_memory")
        line = step_line(
            step,
            self.roles(step),
            trees,
            sum((part[1] for part in parts), GroupStats()),
            self.recipe.rollout.executions,
            numbers,
        )
        line["stage"] = stage(self.recipe.schedule, step)
        line["engine"] = self.recipe.engine
        line["seconds"] = {
            **self.sampler.clock.seconds,
            "update": update,
            "write": time.monotonic() - started,
        }
        self.sampler.clock.seconds.clear()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() / 2**20
        line["memory"] = {"peak_mb": peak, "out_of_memory": out_of_memory}
        if out_of_memory:
            self.say(f"step {step}: out of memory {out_of_memory} times, done again in halves")
        self.folder.add_metrics(line)
        self.steps_done += 1
        self._progress(line)
        every = self.recipe.eval.every
        if every and step % every == 0 and step < self.recipe.train.steps and self.held_out:
            self.evaluate_during(step)
        return flat_numbers(line)

    def _progress(self, line: dict[str, Any]) -> None:
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
        if self.bar is not None and not self.bar.disable:
            self.bar.set_description_str(text, refresh=False)
            self.bar.update(1)
            return
        left = self.recipe.train.steps - line["step"]
        pace = (time.monotonic() - self.train_started) / self.steps_done
        self.say(
            f"step {line['step']}/{self.recipe.train.steps}  {text}"
            f"  {sum(line['seconds'].values()):.1f}s, {left * pace / 60:.1f} min left"
        )

    def train(self) -> Path:
        """All steps that are left; returns the folder of the last checkpoint."""
        last = latest_checkpoint(self.folder.checkpoints)
        done = int(last.name.removeprefix("step-")) if last else 0
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
        self.train_started = time.monotonic()
        self.sampler.clock.seconds.clear()  # of the evaluation
        self.sampler.engine.reset()
        with self.interrupts as interrupts:
            trainer = RoleTrainer(
                self.recipe,
                self.policy,
                self.folder.checkpoints,
                self.rollout,
                self.roles,
                self.on_step,
                lambda: any(distributed.gathered(interrupts.asked)),
            )
            self.bar = tqdm(
                total=steps,
                initial=done,
                disable=None if distributed.MAIN else True,
                leave=False,
                unit="step",
            )
            try:
                trainer.train(resume_from_checkpoint=str(last) if last else None)
            except KeyboardInterrupt:
                saved = trainer.save_now()
                self.say(f"stopped; saved in {saved}" if saved else "stopped before the first step")
                raise
            finally:
                self.bar.close()
        return trainer.save_now() or self.folder.checkpoints / COLD

    def summary(self) -> None:
        """summary.json: the headline and the swap table."""
        results = self.folder.read_json("eval.json")
        lines = self.folder.read_metrics()
        main = self.recipe.mode
        cold, final = (results.get(name, {}).get(main) for name in ("cold", "final"))
        self.folder.write_json(
            "summary.json",
            {
                "mode": main,
                "steps": lines[-1]["step"] if lines else 0,
                "cold": cold and cold["accuracy"],
                "final": final and final["accuracy"],
                "gain": final["accuracy"] - cold["accuracy"] if cold and final else None,
                "interval": final and [final["low"], final["high"]],
                "swap": {c: m["accuracy"] for c, m in (results.get("swap") or {}).items()} or None,
                "seconds": sum(sum(line["seconds"].values()) for line in lines),
            },
        )
        if cold and final:
            self.say(
                f"{main}: {cold['accuracy']:.3f} cold -> {final['accuracy']:.3f} trained,"
                f" {100 * (final['accuracy'] - cold['accuracy']):+.1f} points"
            )


def run(
    recipe: Recipe, output: Path, resume: bool, say: Callable[[str], None] = click.echo
) -> None:
    """Do the run, or what is left of it. Raises InputError, RunError, KeyboardInterrupt."""
    folder = RunFolder(output)
    summary = folder.read_json("summary.json")
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
    policy = load_policy(recipe)
    for note in [*data.notes, *policy.notes] if distributed.MAIN else []:
        say(note)
    with sampler_for(recipe, policy) as sampler:
        this = Run(recipe, folder, sampler, data)
        if resume and summary:  # more steps than before: the end is measured again
            results = folder.read_json("eval.json")
            kept = {key: results[key] for key in ("cold", "during", "seconds") if key in results}
            folder.write_json("eval.json", kept)
        if distributed.MAIN:
            folder.create(recipe_file.dump(recipe, versions()))
            for file in own.files(own_choices(recipe)).values():
                folder.write(f"{own.FOLDER}/{file.file}", file.text)
        distributed.wait()
        this.say(f"sandbox level {sampler.sandbox.level}")
        this.cold_start()
        this.evaluate("cold")
        final = this.train()
        if not distributed.MAIN:
            return
        this.evaluate("final")
        this.swap(final)
        this.summary()
    from mxa_lite.evidence import report

    page = report.build(output)
    this.say(f"report: {page}")
