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
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from mxa_lite.errors import InputError, RunError
from mxa_lite.evidence.predictions import flips, question_means, read_predictions
from mxa_lite.evidence.report import dressed, environment, squeeze
from mxa_lite.evidence.stats import two_level
from mxa_lite.recipe import file as recipe_file
from mxa_lite.recipe.keys import Recipe, diff, flat
from mxa_lite.runfolder import RunFolder
from mxa_lite.runs.stored import stored_recipe

UNSHARED = ("seed", "threads")  # keys in which the runs of one row may differ
BASELINES = ("single", "self_consistency")


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

    @property
    def mode(self) -> str:
        """The mode of eval.json that the method is judged by."""
        return self.recipe.mode

    @cached_property
    def results(self) -> dict[str, Any]:
        """eval.json."""
        return RunFolder(self.path).read_json("eval.json")

    def finished(self) -> bool:
        """Whether all its steps are done and measured."""
        summary = RunFolder(self.path).read_json("summary.json")
        return summary.get("steps") == self.recipe.train.steps

    def predictions(self, when: str) -> Path:
        """The main mode's predictions, `when` cold or final."""
        return self.path / "predictions" / when / f"{self.mode}.jsonl"


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
        for key in (
            "task.name",
            *sorted(first_values | other_values),
        ):  # the name says more than what hangs on it
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


def pooled(values_SQ: list[list[float]], **options: Any) -> dict[str, float]:
    """A mean and its interval, by name."""
    return dict(zip(("mean", "low", "high"), two_level(values_SQ, **options), strict=True))


def attribution(runs: Sequence[Member]) -> dict[str, Any]:
    """`flips` of all runs together."""
    cold, final = (
        {
            f"{number} {question}": rows
            for number, run in enumerate(runs)
            for question, rows in read_predictions(run.predictions(when)).items()
        }
        for when in ("cold", "final")
    )
    return flips(cold, final)


def shares(runs: Sequence[Member], when: str) -> dict[str, float]:
    """Share of each pattern among the designs for the held-out questions."""
    tables = [read_predictions(run.predictions(when)) for run in runs]
    counts = Counter(row["pattern"] for table in tables for rows in table.values() for row in rows)
    return _shares(counts)


def _shares(counts: Counter[str]) -> dict[str, float]:
    return {name: counts[name] / counts.total() for name in sorted(counts)}


def curve(runs: Sequence[Member]) -> list[dict[str, Any]]:
    """Per step that every seed reached: correct (mean, least, most over seeds), the mean share of
    valid scripts, and patterns."""
    points = []
    for lines in zip(*(RunFolder(run.path).read_metrics() for run in runs), strict=False):
        correct = [line["correct"] for line in lines]
        patterns = sum((Counter(line["patterns"]) for line in lines), Counter[str]())
        point = {"step": lines[0]["step"], "correct": sum(correct) / len(correct)}
        point |= {"least": min(correct), "most": max(correct), "patterns": _shares(patterns)}
        valid = [line["valid_scripts"] for line in lines if line["valid_scripts"] is not None]
        point["valid_scripts"] = sum(valid) / len(valid) if valid else None
        points.append(point)
    return points


def table(runs: Sequence[Member], when: str, order: Sequence[str]) -> list[list[float]]:
    """values_SQ of the main mode: a row per run, a column per question."""
    means = [question_means(run.predictions(when)) for run in runs]
    return [[mean[q] for q in order] for mean in means]


def row(runs: Sequence[Member], first: Sequence[Member], order: Sequence[str]) -> dict[str, Any]:
    """What is said of one recipe; `first`: the row all differences are taken to."""
    final, cold, first_final = (
        table(group, when, order)
        for group, when in ((runs, "final"), (runs, "cold"), (first, "final"))
    )
    seeds, first_seeds = ([run.recipe.seed for run in group] for group in (runs, first))
    mode = runs[0].mode

    def mean(name: str, key: str) -> float | None:
        numbers = [r.results["final"][name][key] for r in runs if name in r.results["final"]]
        return sum(numbers) / len(numbers) if numbers else None

    swaps = [run.results["swap"] for run in runs if run.results.get("swap")]
    cells = swaps[0] if swaps else {}
    return {
        "name": runs[0].name,
        "seeds": seeds,
        "mode": mode,
        "cold": pooled(cold),
        "final": pooled(final),
        "gain": pooled(final, minus_SQ=cold, same_seeds=True),
        "against_first": pooled(final, minus_SQ=first_final, same_seeds=seeds == first_seeds),
        **{name: mean(name, "accuracy") for name in BASELINES},
        **{key: mean(mode, key) for key in ("calls", "tokens")},
        "swap": {c: sum(s[c]["accuracy"] for s in swaps) / len(swaps) for c in cells} or None,
        "patterns": {when: shares(runs, when) for when in ("cold", "final")},
        "attribution": attribution(runs),
        "curve": curve(runs),
    }


def beside_paper(values: Mapping[str, Any], differing: Sequence[str]) -> list[str]:
    """What the paper reports for a row's settings, of the keys in which the rows differ."""
    text = (files("mxa_lite") / "templates" / "paper.yaml").read_text("utf-8")
    return [
        entry["says"]
        for entry in yaml.safe_load(text)
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
) -> dict[str, Any]:
    """Train what is missing, unfinished runs only with `resume`; write compare.md, compare.json and
    compare.html to `output`."""
    runs = members(sources, seeds, output, sets, smoke)
    check_questions(runs)
    check_unfinished(runs, resume)
    output.mkdir(parents=True, exist_ok=True)
    with RunFolder(output).lock():
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
    result = {"questions": len(order), "rows": rows}
    folder = RunFolder(output)
    folder.write_json("compare.json", result)
    text = environment().get_template("compare.md.j2").render(result)
    folder.write("compare.md", text)
    scripts, title = ("report", "curves", "compare"), output.resolve().name
    parts = {**result, "title": title, "text": text, "numbers": squeeze(rows)}
    folder.write("compare.html", dressed("compare.html.j2", scripts, **parts))
    return result
