"""`mxa-lite compare`: recipes as rows, seeds pooled, intervals, the paper's numbers beside them.

Runs that are equal but for the seed are one row. Everything is read from run folders; what is
missing is trained by `mxa-lite run` in processes of their own, one thread each.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NotRequired, TypedDict

from mxa_lite.errors import InputError, RunError
from mxa_lite.evidence.predictions import flips, question_means, read_predictions
from mxa_lite.evidence.report import dressed, environment, squeeze
from mxa_lite.evidence.stats import shares, two_level
from mxa_lite.recipe import file as recipe_file
from mxa_lite.recipe.keys import Recipe, diff, flat
from mxa_lite.records import Flips, Results, Summary
from mxa_lite.runfolder import RunFolder
from mxa_lite.runs.stored import stored_recipe

UNSHARED = ("seed", "threads")  # keys in which the runs of one row may differ


@dataclass(frozen=True)
class Member:
    """One run of a row, trained or still to be trained. source, options: what `mxa-lite run` is
    given to train it."""

    name: str
    path: Path
    recipe: Recipe
    source: str
    options: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Equal for runs that are pooled."""
        return str({k: v for k, v in flat(self.recipe).items() if k not in UNSHARED})

    @cached_property
    def results(self) -> Results:
        return RunFolder(self.path).results()

    def finished(self) -> bool:
        """Whether all its steps are done and measured."""
        summary: Summary = RunFolder(self.path).read_json("summary.json")
        return summary.get("steps") == self.recipe.train.steps

    def predictions(self, when: str) -> Path:
        """The main mode's predictions, `when` cold or final."""
        return self.path / "predictions" / when / f"{self.recipe.mode}.jsonl"


def members(
    sources: Sequence[str],
    seeds: Sequence[int],
    output: Path,
    sets: tuple[str, ...] = (),
    smoke: bool = False,
) -> list[Member]:
    """The runs that are asked for, each once; sets, smoke: for those that are recipes.

    Raises InputError for what cannot be compared.
    """
    by_key: dict[tuple[str, int], Member] = {}
    for source in sources:
        run = Path(source).expanduser()
        if (run / "recipe.yaml").is_file():
            name = re.sub(r"-seed\d+$", "", run.resolve().name)
            candidates = [Member(name, run, stored_recipe(run), source)]
        else:
            stem = recipe_file.find(source).stem
            candidates = []
            for seed in seeds or [recipe_file.load(source, sets).seed]:
                run_sets = (*sets, f"seed={seed}")
                recipe = recipe_file.load(source, run_sets)
                path = output / "runs" / f"{stem}-seed{seed}"
                options = [word for text in run_sets for word in ("--set", text)]
                if smoke:
                    recipe, options = recipe_file.smoked(recipe, run_sets), [*options, "--smoke"]
                candidates.append(Member(stem, path, recipe, source, tuple(options)))
        for member in candidates:
            exists = (member.path / "recipe.yaml").is_file()
            if exists and (key := diff(stored_recipe(member.path), member.recipe)):
                raise InputError(f"{member.path}: holds a run with another {key}")
            twin = by_key.setdefault((member.key, member.recipe.seed), member)
            if exists and twin.finished() and twin.path.resolve() != member.path.resolve():
                raise InputError(f"{twin.path} and {member.path}: the same recipe and seed twice")
    first, *others = by_key.values()
    for other in others:
        first_values, other_values = flat(first.recipe), flat(other.recipe)
        # the name says more than what hangs on it
        for key in ("task.name", *sorted(first_values | other_values)):
            shared = key.startswith("task") or key == "eval.questions"
            if shared and first_values.get(key) != other_values.get(key):
                values = f"{first_values.get(key)} and {other_values.get(key)}"
                raise InputError(f"{first.name} and {other.name} differ in {key}: {values}")
    return list(by_key.values())


def check_questions(runs: Sequence[Member]) -> None:
    """Raise InputError unless all finished runs were measured on the same questions."""
    reference: tuple[Member, set[str]] | None = None
    for run in [run for run in runs if run.finished()]:
        for when in ("cold", "final"):
            if when not in run.results or not run.predictions(when).is_file():
                raise InputError(
                    f"{run.path}: no predictions or results ({when}); was it measured?"
                )
        ids = set(read_predictions(run.predictions("final")))
        if reference is not None and ids != reference[1]:
            raise InputError(f"{reference[0].path} and {run.path} have other held-out questions")
        reference = (run, ids)


def check_unfinished(runs: Sequence[Member], resume: bool) -> None:
    """Raise InputError for a run that another process is at, or that is to be left as it is."""
    for run in [run for run in runs if (run.path / "recipe.yaml").is_file()]:
        folder = RunFolder(run.path)
        with folder.lock(look=True):
            if not (resume or run.finished() or folder.before_steps()):
                raise InputError(f"{run.path}: is not finished; --resume goes on with it")


def train(runs: Sequence[Member], jobs: int, say: Callable[[str], None]) -> None:
    """Train what is not finished. Raises RunError when a run fails; what was saved stays."""

    def one(run: Member) -> None:
        started = (run.path / "recipe.yaml").is_file()
        command = [sys.executable, "-m", "mxa_lite", "run", "--output", str(run.path)]
        if started:
            command += [str(run.path / "recipe.yaml"), "--resume"]
        else:
            command += [run.source, *run.options]
        log = run.path.with_name(f"{run.path.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        say(f"{'going on with' if started else 'training'} {run.path}")
        with log.open("ab") as file:
            quiet = os.environ | {"OMP_NUM_THREADS": "1"}
            code = subprocess.call(command, stdout=file, stderr=subprocess.STDOUT, env=quiet)
        if code:
            last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
            raise RunError(f"{run.path}: ended with {code}: {last} (see {log})")

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(one, run) for run in runs if not run.finished()]
        try:
            for future in as_completed(futures):
                future.result()
        finally:  # after a failure, and after Ctrl-C, nothing new is begun
            pool.shutdown(wait=False, cancel_futures=True)


class Mean(TypedDict):
    """Over seeds and questions, with its 95 % interval."""

    mean: float
    low: float
    high: float


class Point(TypedDict):
    """A training step. correct: mean, least and most over seeds; valid_scripts: the mean share."""

    step: int
    correct: float
    least: float
    most: float
    patterns: dict[str, float]
    valid_scripts: float | None


class Row(TypedDict):
    """What compare.json says of one recipe.

    gain: final minus cold. against_first: final minus the first row's. single, self_consistency:
    accuracy of these baselines. calls, tokens: of an attempt. swap: accuracy by cell. differs: the
    keys in which rows differ. paper: what the paper reports of them.
    """

    name: str
    seeds: list[int]
    mode: str
    cold: Mean
    final: Mean
    gain: Mean
    against_first: Mean
    single: float | None
    self_consistency: float | None
    calls: float | None
    tokens: float | None
    swap: dict[str, float] | None
    patterns: dict[str, dict[str, float]]
    attribution: Flips
    curve: list[Point]
    reports: NotRequired[dict[str, str]]
    differs: NotRequired[dict[str, Any]]
    paper: NotRequired[list[str]]


class Comparison(TypedDict):
    """compare.json. questions: held out, and the same for all."""

    questions: int
    rows: list[Row]


def pooled(values_SQ: list[list[float]], **options: Any) -> Mean:
    mean, low, high = two_level(values_SQ, **options)
    return {"mean": mean, "low": low, "high": high}


def attribution(runs: Sequence[Member]) -> Flips:
    cold, final = (
        {
            f"{number} {question}": rows
            for number, run in enumerate(runs)
            for question, rows in read_predictions(run.predictions(when)).items()
        }
        for when in ("cold", "final")
    )
    return flips(cold, final)


def patterns(runs: Sequence[Member], when: str) -> dict[str, float]:
    """Share of each pattern among the designs for the held-out questions."""
    tables = [read_predictions(run.predictions(when)) for run in runs]
    return shares(row["pattern"] for table in tables for rows in table.values() for row in rows)


def curve(runs: Sequence[Member]) -> list[Point]:
    """The steps that every seed reached."""
    points: list[Point] = []
    for lines in zip(*(RunFolder(run.path).read_metrics() for run in runs), strict=False):
        correct = [line["correct"] for line in lines]
        counts = sum((Counter(line["patterns"]) for line in lines), Counter[str]())
        valid = [line["valid_scripts"] for line in lines if line["valid_scripts"] is not None]
        point: Point = {
            "step": lines[0]["step"],
            "correct": fmean(correct),
            "least": min(correct),
            "most": max(correct),
            "patterns": shares(counts.elements()),
            "valid_scripts": fmean(valid) if valid else None,
        }
        points.append(point)
    return points


def table(runs: Sequence[Member], when: str, order: Sequence[str]) -> list[list[float]]:
    """values_SQ of the main mode: a row per run, a column per question."""
    means = [question_means(run.predictions(when)) for run in runs]
    return [[mean[q] for q in order] for mean in means]


def row(runs: Sequence[Member], first: Sequence[Member], order: Sequence[str]) -> Row:
    """What is said of one recipe; `first`: the row all differences are taken to."""
    final, cold, first_final = (
        table(group, when, order)
        for group, when in ((runs, "final"), (runs, "cold"), (first, "final"))
    )
    seeds, first_seeds = ([run.recipe.seed for run in group] for group in (runs, first))
    mode = runs[0].recipe.mode

    def mean(name: str, key: Literal["accuracy", "calls", "tokens"]) -> float | None:
        numbers = [r.results["final"][name][key] for r in runs if name in r.results["final"]]
        return fmean(numbers) if numbers else None

    swaps = [swap for run in runs if (swap := run.results.get("swap"))]
    cells = swaps[0] if swaps else {}
    return {
        "name": runs[0].name,
        "seeds": seeds,
        "mode": mode,
        "cold": pooled(cold),
        "final": pooled(final),
        "gain": pooled(final, minus_SQ=cold, same_seeds=True),
        "against_first": pooled(final, minus_SQ=first_final, same_seeds=seeds == first_seeds),
        "single": mean("single", "accuracy"),
        "self_consistency": mean("self_consistency", "accuracy"),
        "calls": mean(mode, "calls"),
        "tokens": mean(mode, "tokens"),
        "swap": {c: fmean(s[c]["accuracy"] for s in swaps) for c in cells} or None,
        "patterns": {when: patterns(runs, when) for when in ("cold", "final")},
        "attribution": attribution(runs),
        "curve": curve(runs),
    }


def beside_paper(values: Mapping[str, Any], differing: Sequence[str]) -> list[str]:
    """What the paper reports for a row's settings, of the keys in which the rows differ."""
    return [
        entry["says"]
        for entry in recipe_file.packaged("paper")
        if set(entry["when"]) & set(differing)
        and all(values.get(key) == value for key, value in entry["when"].items())
    ]


def compare(
    sources: Sequence[str],
    seeds: Sequence[int],
    output: Path,
    jobs: int,
    say: Callable[[str], None],
    sets: tuple[str, ...] = (),
    resume: bool = False,
    smoke: bool = False,
) -> Comparison:
    """Train what is missing, unfinished runs only with `resume`; write compare.md, compare.json and
    compare.html to `output`."""
    runs = members(sources, seeds, output, sets, smoke)
    check_questions(runs)
    check_unfinished(runs, resume)
    output.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(output)
    with folder.lock():
        train(runs, jobs, say)
    check_questions(runs)
    rows_of: dict[str, list[Member]] = {}
    for run in sorted(runs, key=lambda run: run.recipe.seed):
        rows_of.setdefault(run.key, []).append(run)
    groups = [rows_of[key] for key in dict.fromkeys(run.key for run in runs)]
    recipes = [flat(group[0].recipe) for group in groups]
    keys = sorted({key for recipe in recipes for key in recipe} - set(UNSHARED))
    differing = [k for k in keys if any(r.get(k) != recipes[0].get(k) for r in recipes)]
    order = sorted(read_predictions(runs[0].predictions("final")))
    rows = [row(group, groups[0], order) for group in groups]
    for entry, recipe, group in zip(rows, recipes, groups, strict=True):
        pages = {run.recipe.seed: run.path / "report.html" for run in group}
        entry["reports"] = {str(seed): os.path.relpath(pages[seed], output) for seed in pages}
        entry["differs"] = {key: recipe.get(key) for key in differing}
        entry["paper"] = beside_paper(recipe, differing)
    result: Comparison = {"questions": len(order), "rows": rows}
    folder.write_json("compare.json", result)
    text = environment().get_template("compare.md.j2").render(result)
    folder.write("compare.md", text)
    scripts, title = ("report", "curves", "compare"), output.resolve().name
    parts = {**result, "title": title, "text": text, "numbers": squeeze(rows)}
    folder.write("compare.html", dressed("compare.html.j2", scripts, **parts))
    return result
