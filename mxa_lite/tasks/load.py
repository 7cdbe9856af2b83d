"""Questions: built-in tasks, local files, mixtures; train and test never share a question."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from mxa_lite.errors import InputError
from mxa_lite.recipe import own
from mxa_lite.recipe.checks import check_name
from mxa_lite.recipe.keys import DATA_SUFFIXES, GENERATED, GYM
from mxa_lite.tasks import arithmetic, gym, sources, stories, sums
from mxa_lite.tasks.rows import Row, Rows, collect, read, sample
from mxa_lite.tree import Question

if TYPE_CHECKING:
    from mxa_lite.recipe.keys import TaskSpec

TRAIN_SIZE, TEST_SIZE = 4000, 400  # of generated tasks, unless task.limit is smaller
_TEST_SEED = 1_000_003  # generated test questions are the same in every run


@dataclass
class TaskSet:
    """Questions to train on and to report. weights: each training question's chance, sum 1."""

    train: list[Question]
    test: list[Question]
    notes: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def marks(self) -> dict[str, int | str]:
        """How many questions there are, and a hash of all that a run makes of them."""
        digest = hashlib.sha256()
        for q in itertools.chain(self.train, self.test):
            digest.update(repr((q.text, q.task, q.kind, q.gold, q.tests, q.meta)).encode())
        sizes = {"train": len(self.train), "test": len(self.test)}
        return {**sizes, "sha256": digest.hexdigest()[:16]}


def load(task: TaskSpec, seed: int, training: bool = True) -> TaskSet:
    """The questions of a recipe's task; those to report do not depend on `seed`.

    A part of a mix with weight 0 is only reported. training: False for an evaluation, which needs
    no training questions. Raises InputError: one sentence naming the file, the task or the key.
    """
    parts = list(task.mix) or [task]
    sets = [_load(source, task, seed, training and source.weight > 0) for source in parts]
    tests = {question.id: question for data in sets for question in data.test}
    combined = TaskSet([], list(tests.values()), [note for data in sets for note in data.notes])
    seen = {*tests}
    for source, data in zip(parts, sets, strict=True):
        if source.score is not None:
            for question in (*data.train, *data.test):
                question.meta["score"] = str(source.score)
        fresh = [question for question in data.train if question.id not in seen]
        if len(fresh) < len(data.train):
            shared = f"{len(data.train) - len(fresh)} training questions also stand elsewhere"
            combined.notes.append(f"{source.name or source.train}: {shared}; removed")
        seen |= {question.id for question in fresh}
        combined.train += fresh
        combined.weights += [source.weight / max(1, len(fresh))] * len(fresh)
    if training and not combined.train:
        name = str(task.name or task.train or "mix")
        why = f" ({'; '.join(combined.notes)})" if combined.notes else ""
        raise InputError(f"task {name!r} has no training questions{why}; give task.train")
    total = sum(combined.weights)
    combined.weights = [weight / total for weight in combined.weights]
    return combined


def _load(task: TaskSpec, above: TaskSpec, seed: int, training: bool) -> TaskSet:
    """One source; `above` is the mix it stands in, or itself."""
    limit = task.limit or above.limit
    name = task.name or ""
    if isinstance(name, own.Own) or name in GENERATED or name.startswith(GYM):
        return _made_up(task, seed, limit, training)
    name, train, test = _places(task)
    hold_out = not test and (train not in sources.PLACES or task is above)
    notes: list[str] = []
    cap = ceil(limit / (1 - task.held_out)) if limit and hold_out else limit
    learn = _questions(task, name, train, notes, cap) if train and (training or hold_out) else []
    report = _questions(task, name, test, notes, limit) if test else []
    if hold_out:
        learn.sort(key=lambda question: question.id)
        count = max(1, min(round(task.held_out * len(learn)), len(learn) - 1))
        report, learn = learn[:count], learn[count:]
        parts = f"{train}: {len(report)} of {len(report) + len(learn)} questions held out"
        notes.append(f"{parts} for evaluation, chosen by hash, and removed from training")
    return TaskSet(learn[:limit] if training else [], report[:limit], notes)


def _places(task: TaskSpec) -> tuple[str, str | None, str | None]:
    """Which built-in task it is, "" for files of another make; where its questions are."""
    name = str(task.name or "")
    if name.lower().endswith(DATA_SUFFIXES):
        return "", task.train or name, task.test
    if name:
        check_name(name)
    source = sources.SOURCES.get(name)
    if source and not task.train:
        return name, source.train, task.test or source.test
    return name, task.train, task.test


def check_files(task: TaskSpec) -> list[str]:
    """Read the local files of a task as a run would; the notes on them. Raises InputError."""
    notes: list[str] = []
    for source in task.mix or [task]:
        if not isinstance(source.name, own.Own):
            name, *places = _places(source)
            for place in places:
                if place and place not in sources.PLACES:
                    _questions(source, name, place, notes, source.limit or task.limit)
    return notes


def _questions(
    task: TaskSpec, name: str, place: str, notes: list[str], limit: int | None
) -> list[Question]:
    """Questions of a local file or of a split on the Hub; limit: how many are read."""
    rows: Rows = sources.from_hub(name, place) if place in sources.PLACES else read(place)
    if limit is None and place not in sources.PLACES:
        rows, sampled = sample(place)
        notes += sampled
    by_shape = partial(sources.by_shape, kind=task.kind)
    convert = sources.SOURCES[name].convert if name else by_shape
    if place not in sources.PLACES and (task.columns or task.kind == "math"):
        convert = partial(sources.generic, columns=task.columns, kind=task.kind)
    label = name or Path(place).stem
    questions, bad = collect(rows, lambda row: replace(convert(row), task=label), place, limit)
    notes += bad
    return questions


def _made_up(task: TaskSpec, seed: int, limit: int | None, training: bool) -> TaskSet:
    """Questions that are made up here, or that a function of the user's makes up or reads."""
    data = TaskSet([], [])
    name = task.name
    convert: Callable[[Row], Question] = partial(sources.generic, columns={})
    if not isinstance(name, own.Own):
        convert = lambda row: sources.math(**row)  # noqa: E731
    elif task.score:
        convert = sources.free
    for split, start, size in (("train", seed, TRAIN_SIZE), ("test", _TEST_SEED, TEST_SIZE)):
        if split == "train" and not training:
            continue
        count = min(limit or size, size)
        if isinstance(name, own.Own):
            rows: Rows = enumerate(own.rows(name, split, start, count), 1)
        else:
            rows = _rows(str(name), split, start, count)
        questions, notes = collect(rows, convert, f"{name}, {split}")
        data.notes += notes if isinstance(name, own.Own) else []
        labelled = [replace(question, task=str(name)) for question in questions]
        (data.train if split == "train" else data.test).extend(labelled)
    return data


def _rows(name: str, split: str, seed: int, count: int) -> Rows:
    """Numbered rows of a generated task; `kind` is what the numbers are split by."""
    if name.startswith(GYM):
        return gym.rows(name.removeprefix(GYM), seed, count)
    base, _, tune = name.partition(":")
    place = "tune" if tune and split == "test" else split
    rows: Iterator[Row]
    if base == "stories":
        problems = stories.stream(place, seed)
        rows = ({"text": p.text, "gold": p.gold, "kind": p.kind} for p in problems)
    else:
        module = {"sums": sums, "arithmetic": arithmetic}[base]
        rows = ({"text": text, "gold": gold} for text, gold, *_ in module.stream(place, seed))
    return enumerate(itertools.islice(rows, count), 1)
