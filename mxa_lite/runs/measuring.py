"""What a run measures on its held-out questions, and writes into eval.json and summary.json."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from mxa_lite.evidence import evaluate
from mxa_lite.evidence.attempts import save_predictions, summarize
from mxa_lite.evidence.predictions import (
    against,
    difference,
    flips,
    question_means,
    read_predictions,
)
from mxa_lite.evidence.stats import total_variation
from mxa_lite.learn import distributed
from mxa_lite.mas.patterns import within
from mxa_lite.records import Beside, ModeNumbers, Modes, Summary, When
from mxa_lite.rollout.sampler import Sampler
from mxa_lite.runfolder import RunFolder
from mxa_lite.tree import Question

RIVALS = ("single", "self_consistency", "fixed_best", "oracle_kind", "router")


def _accuracy(m: ModeNumbers) -> str:
    return f"{m['accuracy']:.3f} [{m['low']:.3f}, {m['high']:.3f}]"


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
        self.designs: dict[str, evaluate.Designs] = {}  # by "cold" and "final", drawn once

    def whole(self, name: When) -> None:
        """All modes, into eval.json under `name` ("cold", "final"), unless it is there."""
        results = self.folder.results()
        if name in results or not self.held_out or not distributed.MAIN:
            return
        self.say(f"evaluating ({name}) on {len(self.held_out)} held-out questions")
        baselines = [
            baseline
            for baseline in self.recipe.eval.baselines
            if name == "final" or baseline not in evaluate.HAND_WRITTEN
        ]
        predictions = self.folder.path / "predictions" / name
        systems = self.recipe.eval.systems if name == "final" else ()
        measured = evaluate.measure(
            self.sampler, self.held_out, baselines, predictions, systems, self._tell
        )
        results[name] = measured.numbers
        for mode in results[name].keys() - measured.seconds:  # chosen among others
            self._tell(mode, results[name][mode])
        self.designs[name] = measured.designs
        results.setdefault("seconds", {})[name] = measured.seconds  # what a clock decides, apart
        self.folder.write_json("eval.json", results)

    def _tell(self, mode: str, m: ModeNumbers) -> None:
        cost = f"{m['calls']:.1f} calls, {m['tokens']:.0f} tokens  {m.get('system', '')}"
        self.say(f"  {mode:17s} {_accuracy(m)}  {cost}".rstrip())

    def seconds_after(self, step: int) -> float:
        """What the evaluations after a step will take, judged by what the cold one took."""
        results, spec = self.folder.results(), self.recipe.eval
        cold, per_attempt = results.get("cold", {}), results.get("seconds", {}).get("cold", {})
        took = {mode: s * cold[mode]["attempts"] for mode, s in per_attempt.items()}
        scripts = len(within(self.recipe.rollout.max_calls)) if "fixed" in spec.baselines else 0
        scripts += len(spec.systems)
        again = spec.fixed_samples / spec.samples * scripts + ("router" in spec.baselines)
        again += 2 * spec.swap  # two of the four cells are known
        if spec.every:
            again += max(0, (self.recipe.train.steps - 1) // spec.every - step // spec.every)
        return sum(took.values()) + again * took.get(self.recipe.mode, 0.0)

    def during(self, step: int) -> Modes:
        """The method's own mode after a step, into eval.json under "during"."""
        if not self.held_out:
            return {}
        measured = evaluate.main_mode(self.sampler, self.held_out)
        results = self.folder.results()
        results.setdefault("during", {})[str(step)] = measured
        self.folder.write_json("eval.json", results)
        for mode, m in measured.items():
            self.say(f"held out after step {step}: {mode} {_accuracy(m)}")
        self.sampler.clock.seconds.clear()  # no part of the next step
        self.sampler.engine.reset()
        return measured

    def swap(self, cold: Path, final: Path) -> None:
        """The 2x2 table: designer and executor each cold or trained, equal sampling keys.

        The designs that the evaluation drew are executed by the other executor; they are drawn
        again only where another process drew them, with the same adapter and the same keys. A role
        that never learned is the same cold and trained, so its cells are known already.
        """
        results = self.folder.results()
        if "swap" in results:
            return
        possible = self.recipe.method == "metaagent" and self.recipe.model.adapters == "per_role"
        if not (self.recipe.eval.swap and possible and self.held_out):
            results["swap"] = None
            self.folder.write_json("eval.json", results)
            return
        known = {"cold": results["cold"]["designed"], "trained": results["final"]["designed"]}
        table: Modes = {"cold_cold": known["cold"]}
        seconds = results.setdefault("seconds", {})["swap"] = {}
        policy = self.sampler.engine.policy
        temperature, samples = self.recipe.rollout.temperature, self.recipe.eval.samples
        # the one role that learns, if any
        only = str(self.recipe.schedule.mode).removesuffix("_only")
        for designer, executor in (("trained", "cold"), ("cold", "trained")):
            cell, learned = f"{designer}_{executor}", {"designer": designer, "executor": executor}
            if only in learned:
                table[cell] = known[learned[only]]
                continue
            for role, state in learned.items():
                policy.load(final if state == "trained" else cold, [role])
            drawn = self.designs.get("final" if designer == "trained" else "cold")
            sampler = evaluate.Drawn(self.sampler, drawn) if drawn else self.sampler
            exam = evaluate.Exam(sampler, self.held_out, samples, temperature)
            started = time.perf_counter()
            tries = evaluate.designed(exam)
            seconds[cell] = (time.perf_counter() - started) / len(tries)
            table[cell] = summarize(tries)
            save_predictions({cell: tries}, self.folder.path / "predictions" / "swap")
        policy.load(final)
        table["trained_trained"] = known["trained"]
        results["swap"] = table
        self.folder.write_json("eval.json", results)
        self.say("swap table (designer_executor):")
        for cell, m in table.items():
            self.say(f"  {cell:17s} {_accuracy(m)}")

    def summary(self) -> None:
        """summary.json: the headline beside its rivals, and what changed in between."""
        results = self.folder.results()
        lines = self.folder.read_metrics()
        main = self.recipe.mode
        cold, final = results.get("cold", {}).get(main), results.get("final", {}).get(main)
        ends = {"cold": cold, "final": final} if cold and final else {}
        beside: Beside = self.beside(main, ends) if ends else {}
        summary: Summary = {
            "mode": main,
            "steps": lines[-1]["step"] if lines else 0,
            "cold": cold and cold["accuracy"],
            "final": final and final["accuracy"],
            "gain": final["accuracy"] - cold["accuracy"] if cold and final else None,
            "interval": final and [final["low"], final["high"]],
            "swap": {c: m["accuracy"] for c, m in (results.get("swap") or {}).items()} or None,
            "seconds": sum(sum(line["seconds"].values()) for line in lines),
            "finished": time.strftime("%F %H:%M"),
            **beside,
        }
        if cold and final:
            self.say(
                f"{main}: {cold['accuracy']:.3f} cold -> {final['accuracy']:.3f} trained,"
                f" {100 * (final['accuracy'] - cold['accuracy']):+.1f} points"
            )
            for rival, d in beside["against"].items():
                interval = f"[{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]"
                self.say(f"  minus {rival:17s} {100 * d['difference']:+.1f} points {interval}")
        self.folder.write_json("summary.json", summary)

    def beside(self, main: str, ends: Mapping[str, ModeNumbers]) -> Beside:
        """What stands beside the headline. ends: the main mode's numbers, cold and final."""
        folder = self.folder.path / "predictions"
        cold, final = (read_predictions(folder / when / f"{main}.jsonl") for when in ends)
        start = question_means(folder / "cold" / f"{main}.jsonl")
        patterns = {
            when: {kind: numbers["patterns"] for kind, numbers in end.get("kinds", {}).items()}
            for when, end in ends.items()
        }
        own_modes = [f"own_{Path(script.file).stem}" for script in self.recipe.eval.systems]
        rivals = [rival for rival in (*RIVALS, *own_modes) if rival != main]
        beside: Beside = {
            "against": against(folder / "final", main, rivals),
            "alone": {
                cell: difference(start, question_means(path))
                for cell in ("trained_cold", "cold_trained")
                if (path := folder / "swap" / f"{cell}.jsonl").is_file()
            },
            "flips": flips(cold, final),
            "patterns_by_kind": patterns,
            "total_variation": {
                when: {
                    f"{a}, {b}": total_variation(kinds[a], kinds[b])
                    for a, b in combinations(kinds, 2)
                }
                for when, kinds in patterns.items()
            },
        }
        if self.recipe.eval.greedy:
            greedy = [*rivals, "single_greedy"]
            beside["greedy_against"] = against(folder / "final", f"{main}_greedy", greedy)
        return beside
