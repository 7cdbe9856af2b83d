"""Make the cold start's data: what the tiny model does right by itself.

    python -m mxa_lite.embedded.kept --output first.jsonl --each 80
    python -m mxa_lite.embedded.kept --output mxa_lite/embedded/cold_start.jsonl --after first.jsonl

As in the paper's cold start: the model writes scripts for training questions, they are run in the
sandbox, and a script that led to the right answer is kept, with the replies that it used. No script
is written by hand or preferred; only the number kept is the same for each kind of question. The
second round draws from the model that has learned what the first one kept: agents that fail less
often tell a system that suits the question from one that was lucky.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from mxa_lite.learn.bootstrap import Sample
from mxa_lite.learn.warmstart import Chat, read_chats, warm_start
from mxa_lite.recipe import file as recipe_file
from mxa_lite.rollout.opened import load_policy, sampler_for
from mxa_lite.rollout.sampler import Sampler, Shape
from mxa_lite.tasks import load as tasks
from mxa_lite.tasks.stories import KINDS
from mxa_lite.texts import answers
from mxa_lite.tree import Question

PART = 96  # questions rolled out at once


def right_designs(sampler: Sampler, questions: list[Question], per_kind: int) -> Iterator[Sample]:
    """Designs whose one run was right, no two alike for a question, `per_kind` of a kind."""
    counts: Counter[str] = Counter()
    for start in range(0, len(questions), PART):
        batch = [q for q in questions[start : start + PART] if counts[q.meta["kind"]] < per_kind]
        for tree in sampler.rollout(batch, Shape(sampler.recipe.rollout.designs, 1), "kept"):
            kind, seen = tree.question.meta["kind"], set[str]()
            for design in tree.designs:
                program = answers.program(design.script or "")
                right = any(run.correct for run in design.executions)
                if right and program not in seen and counts[kind] < per_kind:
                    seen.add(program)
                    counts[kind] += 1
                    yield Sample(tree.question, design, True)
        if batch:
            click.echo(f"{start + len(batch)} questions: kept {dict(counts)}")


def chats_of(samples: list[Sample], calls: int, rng: random.Random) -> dict[str, list[Chat]]:
    """Role -> chats: each script, and at most `calls` of its replies, drawn, so that the first
    calls of systems are not learned better than their last."""
    chats: dict[str, list[Chat]] = {"designer": [], "executor": []}
    for sample in samples:
        script, *replies = [row["messages"] for row in sample.rows(True) if row["kept"]]
        chats["designer"].append(script)
        chats["executor"] += rng.sample(replies, min(calls, len(replies)))
    return chats


@click.command(help=__doc__)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--model", default="embedded")
@click.option("--after", type=click.Path(path_type=Path), help="chats the model learns first")
@click.option("--each", default=160, help="designs kept of each kind")
@click.option("--questions", default=4000, help="training questions looked at, at most")
@click.option("--calls", default=2, help="calls kept of a design, at most")
def main(
    output: Path, model: str, after: Path | None, each: int, questions: int, calls: int
) -> None:
    limits = (f"task.limit={questions}", f"model.name={model}")
    recipe = recipe_file.load("miniature", limits)
    drawn, policy = tasks.load(recipe.task, recipe.seed).train, load_policy(recipe)
    with sampler_for(recipe, policy) as sampler:
        if after:
            warm_start(recipe, policy, sampler.engine, read_chats(after), click.echo)
        samples = list(right_designs(sampler, drawn, each))
    chats = chats_of(samples, calls, random.Random("kept"))
    rows = [{"role": role, "messages": chat} for role in chats for chat in chats[role]]
    output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for kind in KINDS:
        counts = Counter(s.design.pattern for s in samples if s.question.meta["kind"] == kind)
        click.echo(f"{kind}: {', '.join(f'{name} {n}' for name, n in counts.most_common())}")


if __name__ == "__main__":
    main()
