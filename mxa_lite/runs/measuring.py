"""What a run measures on its held-out questions, and writes into eval.json and summary.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mxa_lite.evidence import evaluate
from mxa_lite.learn import distributed
from mxa_lite.rollout.sampler import Sampler
from mxa_lite.runfolder import RunFolder
from mxa_lite.tree import Question


class Measuring:
    """The held-out questions of a run, and a sampler with its policy as it stands."""

    def __init__(
        self,
        sampler: Sampler,
        held_out: Sequence[Question],
        folder: RunFolder,
        say: Callable[[str], None],
    ) -> None:
        self.sampler, self.held_out, self.folder, self.say = sampler, held_out, folder, say
        self.recipe = sampler.recipe

    def whole(self, name: str) -> None:
        """All modes, into eval.json under `name` ("cold", "final"), unless it is there."""
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

    def during(self, step: int) -> None:
        """The method's own mode after a step, into eval.json under "during"."""
        if not self.held_out:
            return
        measured = evaluate.main_mode(self.sampler, self.held_out)
        results = self.folder.read_json("eval.json")
        results.setdefault("during", {})[str(step)] = measured
        self.folder.write_json("eval.json", results)
        for mode, m in measured.items():
            interval = f"{m['accuracy']:.3f} [{m['low']:.3f}, {m['high']:.3f}]"
            self.say(f"held out after step {step}: {mode} {interval}")
        self.sampler.clock.seconds.clear()  # no part of the next step
        self.sampler.engine.reset()

    def swap(self, cold: Path, final: Path) -> None:
        """The 2x2 table: designer and executor each cold or trained, equal sampling keys."""
        results = self.folder.read_json("eval.json")
        if "swap" in results:
            return
        possible = self.recipe.method == "metaagent" and self.recipe.model.adapters == "per_role"
        if not (self.recipe.eval.swap and possible and self.held_out):
            results["swap"] = None
            self.folder.write_json("eval.json", results)
            return
        table = {
            "cold_cold": results["cold"]["designed"],
            "trained_trained": results["final"]["designed"],
        }
        policy = self.sampler.engine.policy
        temperature, samples = self.recipe.rollout.temperature, self.recipe.eval.samples
        for designer, executor in (("trained", "cold"), ("cold", "trained")):
            policy.load(final if designer == "trained" else cold, ["designer"])
            policy.load(final if executor == "trained" else cold, ["executor"])
            tries = evaluate.designed(self.sampler, self.held_out, samples, temperature)
            table[f"{designer}_{executor}"] = evaluate.summarize(tries)
        policy.load(final)
        order = ("cold_cold", "trained_cold", "cold_trained", "trained_trained")
        results["swap"] = {cell: table[cell] for cell in order}
        self.folder.write_json("eval.json", results)
        self.say("swap table (designer_executor):")
        for cell, m in results["swap"].items():
            self.say(f"  {cell:17s} {m['accuracy']:.3f} [{m['low']:.3f}, {m['high']:.3f}]")

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
