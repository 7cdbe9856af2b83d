"""Questions: built-in tasks, local files, mixtures; train and test never share a question."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from mxa_lite.errors import InputError
from mxa_lite.tasks import arithmetic, gym, sources
from mxa_lite.tasks.rows import SUFFIXES, Rows, collect, read
from mxa_lite.tree import Question

TRAIN_SIZE, TEST_SIZE = 4000, 400  # of generated tasks, unless task.limit is smaller
_GYM = "reasoning_gym:"
_GENERATED = ("arithmetic", "arithmetic:tune")  # the second is measured on other questions
_TEST_SEED = 1_000_003  # generated test questions are the same in every run


class TaskSpec(Protocol):
    """The recipe's `task` block, as far as it is read here; see `recipe.TaskSpec`."""

    @property
    def name(self) -> str | None: ...
    @property
    def train(self) -> str | None: ...
    @property
    def test(self) -> str | None: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def columns(self) -> dict[str, str]: ...
    @property
    def kind(self) -> Any: ...
    @property
    def held_out(self) -> float: ...
    @property
    def weight(self) -> float: ...
    @property
    def mix(self) -> Any: ...


@dataclass
class TaskSet:
    """Questions to train on and to report. weights: each training question's chance, sum 1."""

    train: list[Question]
    test: list[Question]
    notes: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


def load(task: TaskSpec, seed: int, training: bool = True) -> TaskSet:
    """The questions of a recipe's task.

    Test questions do not depend on `seed`. training: False for an evaluation, which needs no
    training questions. Raises InputError: one sentence that names the file, the task or the key.
    """
    parts = list(task.mix) or [task]
    found = [_load(part, seed, training) for part in parts]
    seen = {question.id: question for one in found for question in one.test}
    whole = TaskSet([], list(seen.values()), [note for one in found for note in one.notes])
    for part, one in zip(parts, found, strict=True):
        fresh = [question for question in one.train if question.id not in seen]
        if len(fresh) < len(one.train):
            shared = f"{len(one.train) - len(fresh)} training questions also stand elsewhere"
            whole.notes.append(f"{part.name or part.train}: {shared}; removed")
        if training and not fresh:
            name = part.name or part.train
            raise InputError(f"task {name!r} has nothing to train on; give task.train")
        seen |= {question.id: question for question in fresh}
        whole.train += fresh
        share = part.weight / sum(part.weight for part in parts)
        whole.weights += [share / len(fresh)] * len(fresh)
    return whole


def _load(task: TaskSpec, seed: int, training: bool) -> TaskSet:
    name, train, test = task.name or "", task.train, task.test
    if name.lower().endswith(SUFFIXES):
        name, train = "", train or name
    if name in _GENERATED or name.startswith(_GYM):
        return _generated(task, name, seed)
    source = sources.SOURCES.get(name)
    if name and not source:
        known = ", ".join([_GENERATED[0], *sources.SOURCES, f"{_GYM}NAME"])
        raise InputError(f"task {name!r} is neither a data file nor one of: {known}")
    if source and not train:
        train, test = source.train, test or source.test
    notes: list[str] = []
    learn = _questions(task, name, train, notes) if train and (training or not test) else []
    if test:
        report = _questions(task, name, test, notes)
    else:
        by_hash = sorted(learn, key=lambda question: question.id)
        held = {question.id for question in by_hash[: max(1, round(task.held_out * len(learn)))]}
        report = [question for question in learn if question.id in held]
        learn = [question for question in learn if question.id not in held]
        notes.append(
            f"{train}: {len(report)} of {len(report) + len(learn)} questions held out for "
            "evaluation, chosen by hash, and removed from training"
        )
    return TaskSet(learn[: task.limit], report[: task.limit], notes)


def _questions(task: TaskSpec, name: str, place: str, notes: list[str]) -> list[Question]:
    """Questions of a local file, of another built-in task, or of a split on the Hub."""
    if source := sources.SOURCES.get(place):
        name, place = place, (source.test if place == task.test else source.train) or source.test
    rows: Rows
    if place in sources.PLACES:
        rows, convert = sources.from_hub(name, place), sources.SOURCES[name].convert
    elif task.columns or task.kind == "math":
        rows, convert = read(place), partial(sources.generic, columns=task.columns, kind=task.kind)
    else:
        rows, convert = read(place), sources.SOURCES[name].convert if name else sources.by_shape
    questions, bad = collect(rows, convert, place)
    notes += bad
    label = name or Path(place).stem
    return [replace(question, task=label) for question in questions]


def _generated(task: TaskSpec, name: str, seed: int) -> TaskSet:
    train, test = (min(task.limit or size, size) for size in (TRAIN_SIZE, TEST_SIZE))
    if name.startswith(_GYM):
        of = partial(gym.rows, name.removeprefix(_GYM))
        both = [of(seed, train), of(_TEST_SEED, test)]
        found = [collect(rows, lambda row: sources.math(**row), name) for rows in both]
        questions = [[replace(question, task=name) for question in some] for some, _ in found]
        notes = [note for _, notes in found for note in notes]
        return TaskSet(questions[0], questions[1], notes)
    split = "tune" if name.endswith(":tune") else "test"
    streams = arithmetic.stream("train", seed), arithmetic.stream(split, _TEST_SEED)
    made = [
        [replace(sources.math(text, gold), task="arithmetic") for text, gold, _ in some]
        for some in map(itertools.islice, streams, (train, test))
    ]
    return TaskSet(made[0], made[1])
