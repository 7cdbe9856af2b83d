"""Question sources: built-in tasks, local files, mixtures; train and test never share a question."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from mxa_lite.errors import InputError
from mxa_lite.tasks import arithmetic, gym, sources
from mxa_lite.tasks.rows import SUFFIXES, BadRow, Row, collect, read
from mxa_lite.tree import Question

GYM = "reasoning_gym:"
ARITHMETIC = ("arithmetic", "arithmetic:tune")  # the second is measured on other questions
TRAIN_SIZE, TEST_SIZE = 4000, 400  # of generated tasks
_TEST_SEED = 1_000_003  # generated test questions are the same whatever the run's seed


class TaskSpec(Protocol):
    """The recipe's `task` block, as far as it is used here; `recipe.TaskSpec` says more."""

    name: str | None
    train: str | None
    test: str | None
    limit: int | None
    columns: dict[str, str]
    kind: Any
    held_out: float
    weight: float
    mix: Any


@dataclass
class TaskSet:
    """Questions to train on and to report; weights: chance of each training question, sum 1."""

    train: list[Question]
    test: list[Question]
    notes: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


def load(task: TaskSpec, seed: int, training: bool = True) -> TaskSet:
    """The questions of a recipe's task.

    Test questions do not depend on `seed`. training: False for evaluation alone, which needs no
    training questions. Raises InputError, one sentence that names the file or the key.
    """
    parts = list(task.mix) or [task]
    found = [_load(part, seed, training) for part in parts]
    test = list({question.id: question for one in found for question in one.test}.values())
    tested, seen = {question.id for question in test}, set[str]()
    whole = TaskSet([], test, [note for one in found for note in one.notes])
    total = sum(part.weight for part in parts)
    for part, one in zip(parts, found, strict=True):
        fresh = [q for q in one.train if q.id not in tested and q.id not in seen]
        if shared := sum(question.id in tested for question in one.train):
            whole.notes.append(f"{_label(part)}: {shared} training questions are test questions too; removed")
        if training and not fresh:
            raise InputError(f"task {_label(part)} has no questions to train on; give task.train")
        seen |= {question.id for question in fresh}
        whole.train += fresh
        whole.weights += [part.weight / total / len(fresh)] * len(fresh)
    return whole


def _label(task: TaskSpec) -> str:
    return task.name or task.train or "mix"


def _is_file(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) or "/" in name


def _load(task: TaskSpec, seed: int, training: bool) -> TaskSet:
    name, train = task.name or "", task.train
    if _is_file(name):
        name, train = "", train or name
    if name in ARITHMETIC or name.startswith(GYM):
        return _generated(task, name, seed)
    if name and name not in sources.SOURCES:
        known = ", ".join([*ARITHMETIC[:1], *sources.SOURCES, GYM + "NAME"])
        raise InputError(f"task.name is {name!r}, which is none of {known} and no data file")
    source = sources.SOURCES.get(name)
    notes: list[str] = []
    learn: list[Question] = []
    test_place = task.test or (source.test if source and not train else None)
    if training or not test_place:
        place = train or (source.train if source else None)
        learn = _questions(task, name, place, notes) if place else []
    if test_place:
        test = _questions(task, name, test_place, notes)
    else:
        count = max(1, round(task.held_out * len(learn)))
        held = {question.id for question in sorted(learn, key=lambda q: q.id)[:count]}
        test = [question for question in learn if question.id in held]
        learn = [question for question in learn if question.id not in held]
        notes.append(
            f"{_label(task)}: {len(test)} of {len(test) + len(learn)} questions held out by hash "
            "for evaluation and removed from training"
        )
    return TaskSet(learn[: task.limit], test[: task.limit], notes)
