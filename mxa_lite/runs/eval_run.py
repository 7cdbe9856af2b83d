"""`mxa-lite eval`: a trained run, baselines and fixed systems on the held-out questions."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import NotRequired, TypedDict

from mxa_lite.evidence import evaluate, report
from mxa_lite.evidence.predictions import difference, question_means
from mxa_lite.records import Difference, Modes
from mxa_lite.runfolder import RunFolder
from mxa_lite.runs.ask import opened
from mxa_lite.tasks import load as tasks


class NamedDifference(Difference):
    """Between two modes: b - a."""

    a: str
    b: str


Evaluated = TypedDict(  # "with" is a keyword of the language
    "Evaluated",
    {
        "final": Modes,
        "with": NotRequired[Modes],
        "seconds": dict[str, dict[str, float]],  # by final and with, and by mode
        "differences": list[NamedDifference],
    },
)


def _measured(
    run: Path, sets: tuple[str, ...], folder: Path, all_systems: bool
) -> tuple[Modes, dict[str, float]]:
    """One run's modes and their seconds; all_systems: the fixed and the own too."""
    with opened(run, sets) as sampler:
        recipe = sampler.recipe
        data = tasks.load(recipe.task, recipe.seed, training=False)
        questions = data.test[: recipe.eval.questions]
        baselines = [*recipe.eval.baselines]
        if all_systems and recipe.method == "metaagent":
            baselines.append("fixed")
        systems = recipe.eval.systems if all_systems else ()
        measured = evaluate.measure(sampler, questions, baselines, folder, systems)
        return measured.numbers, measured.seconds


def evaluate_run(run: Path, beside: Path | None, sets: tuple[str, ...]) -> Evaluated:
    """What `mxa-lite eval --json` prints: modes of `final`, of `with`, and paired differences.

    `seconds` are per attempt. The modes of the second run are named `with_<mode>` among the
    differences, `b - a` over the questions both answered. It is kept with the predictions in
    `predictions/eval/` of the run, whose report is made again.
    """
    folder = run / "predictions" / "eval"
    final, seconds = _measured(run, sets, folder, True)
    result: Evaluated = {"final": final, "seconds": {"final": seconds}, "differences": []}
    means = {mode: question_means(folder / f"{mode}.jsonl") for mode in result["final"]}
    if beside is not None:
        with_folder = folder / "with"
        result["with"], result["seconds"]["with"] = _measured(beside, sets, with_folder, False)
        means |= {f"with_{m}": question_means(with_folder / f"{m}.jsonl") for m in result["with"]}
    for (a, first), (b, second) in combinations(means.items(), 2):
        result["differences"].append({"a": a, "b": b, **difference(first, second)})
    RunFolder(run).write_json(report.AGAIN, result)
    report.build(run)
    return result
