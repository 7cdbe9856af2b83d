"""Make the cold start's data: what the tiny model does right by itself.

    python -m mxa_lite.embedded.kept --output mxa_lite/embedded/cold_start.jsonl

As in the paper's cold start: the model writes scripts for training questions, they are run in the
sandbox, and a script that led to the right answer is kept, with the replies that it used. No script
is written by hand or preferred; only the number kept is the same for each kind of question.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mxa_lite.learn.bootstrap import Sample
from mxa_lite.recipe import file as recipe_file
from mxa_lite.rollout.opened import load_policy, sampler_for
from mxa_lite.rollout.sampler import Sampler, Shape
from mxa_lite.tasks import load as tasks
from mxa_lite.tasks.stories import KINDS
from mxa_lite.texts import answers
from mxa_lite.tree import Question

PART = 96  # questions rolled out at once


def right_designs(sampler: Sampler, questions: list[Question], each: int) -> Iterator[Sample]:
    """Designs whose one run was right, no two alike for a question, `each` of a kind."""
    kept: Counter[str] = Counter()
    for start in range(0, len(questions), PART):
        some = [q for q in questions[start : start + PART] if kept[q.meta["kind"]] < each]
        for tree in sampler.rollout(some, Shape(sampler.recipe.rollout.designs, 1), "kept"):
            kind, seen = tree.question.meta["kind"], set[str]()
            for design in tree.designs:
                program = answers.program(design.script or "")
                right = any(run.correct for run in design.executions)
                if right and program not in seen and kept[kind] < each:
                    seen.add(program)
                    kept[kind] += 1
                    yield Sample(tree.question, design, True)
        click.echo(f"{start + len(some)} questions: kept {dict(kept)}")


@click.command(help=__doc__)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--model", default="embedded")
@click.option("--each", default=100, help="designs kept of each kind")
@click.option("--questions", default=2000, help="training questions looked at, at most")
@click.option("--calls", default=2, help="calls kept of a design, at most")
def main(output: Path, model: str, each: int, questions: int, calls: int) -> None:
    limits = (f"task.limit={questions}", f"model.name={model}", "cold_start.method=none")
    recipe = recipe_file.load("miniature", limits)
    drawn = tasks.load(recipe.task, recipe.seed).train
    lines: list[dict[str, Any]] = []
    patterns: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    with sampler_for(recipe, load_policy(recipe)) as sampler:
        for sample in right_designs(sampler, drawn, each):
            patterns[sample.question.meta["kind"]][sample.design.pattern] += 1
            design, *replies = [row for row in sample.rows(True) if row["kept"]]
            for row in (design, *replies[:calls]):
                lines.append({"role": row["role"], "messages": row["messages"]})
    output.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for kind, counts in patterns.items():
        click.echo(f"{kind}: {', '.join(f'{name} {n}' for name, n in counts.most_common())}")


if __name__ == "__main__":
    main()
