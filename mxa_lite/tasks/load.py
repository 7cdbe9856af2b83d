"""Questions: built-in tasks, local files, mixtures; train and test never share a question."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxa_lite.errors import InputError
from mxa_lite.recipe import own
from mxa_lite.recipe.checks import check_name
from mxa_lite.recipe.keys import GENERATED, GYM
from mxa_lite.tasks import arithmetic, gym, sources, stories, sums
from mxa_lite.tasks.rows import SUFFIXES, Row, Rows, collect, read, sample
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

    def marks(self) -> dict[str, Any]:
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
    found = [_scored(part, task, seed, training and part.weight > 0) for part in parts]
    seen = {question.id: question for one in found for question in one.test}
    whole = TaskSet([], list(seen.values()), [note for one in found for note in one.notes])
    for part, one in zip(parts, found, strict=True):
        fresh = [question for question in one.train if question.id not in seen]
        if len(fresh) < len(one.train):
            shared = f"{len(one.train) - len(fresh)} training questions also stand elsewhere"
            whole.notes.append(f"{part.name or part.train}: {shared}; removed")
        seen |= {question.id: question for question in fresh}
        whole.train += fresh
        whole.weights += [part.weight / max(1, len(fresh))] * len(fresh)
    if training and not whole.train:
        name = str(task.name or task.train or "mix")
        why = f" ({'; '.join(whole.notes)})" if whole.notes else ""
        raise InputError(f"task {name!r} has no training questions{why}; give task.train")
    total = sum(whole.weights)
    whole.weights = [weight / total for weight in whole.weights]
    return whole


def _scored(task: TaskSpec, above: TaskSpec, seed: int, training: bool) -> TaskSet:
    """One part, whose questions say which own function grades them."""
    data = _load(task, above, seed, training)
    if task.score is not None:
        for question in (*data.train, *data.test):
            question.meta["score"] = str(task.score)
    return data


def _load(task: TaskSpec, above: TaskSpec, seed: int, training: bool) -> TaskSet:
    """One part; `above` is the mix it stands in, or itself."""
    train, test, limit = task.train, task.test, task.limit or above.limit
    if isinstance(task.name, own.Own):
        return _own(task, task.name, seed, limit, training)
    name = task.name or ""
    if name in GENERATED or name.startswith(GYM):
        return _generated(name, seed, limit, training)
    if name.lower().endswith(SUFFIXES):
        name, train = "", train or name
    if name:
        check_name(name)
    source = sources.SOURCES.get(name)
    if source and not train:
        train, test = source.train, test or source.test
    hold_out = not test and (train not in sources.PLACES or task is above)
    notes: list[str] = []
    most = ceil(limit / (1 - task.held_out)) if limit and hold_out else limit
    learn = _questions(task, name, train, notes, most) if train and (training or hold_out) else []
    report = _questions(task, name, test, notes, limit) if test else []
    if hold_out:
        learn.sort(key=lambda question: question.id)
        count = max(1, min(round(task.held_out * len(learn)), len(learn) - 1))
        report, learn = learn[:count], learn[count:]
        parts = f"{train}: {len(report)} of {len(report) + len(learn)} questions held out"
        notes.append(f"{parts} for evaluation, chosen by hash, and removed from training")
    return TaskSet(learn[:limit] if training else [], report[:limit], notes)


def check_files(task: TaskSpec) -> list[str]:
    """Read the local files of a task as a run would; the notes on them. Raises InputError."""
    notes: list[str] = []
    for part in task.mix or [task]:
        name = str(part.name or "")
        is_file = name.lower().endswith(SUFFIXES)
        for place in (part.train, part.test, name if is_file else None):
            if place:
                _questions(part, "" if is_file else name, place, notes, part.limit or task.limit)
    return notes


def _questions(
    task: TaskSpec, name: str, place: str, notes: list[str], most: int | None
) -> list[Question]:
    """Questions of a local file or of a split on the Hub; most: what is read of them."""
    rows: Rows = sources.from_hub(name, place) if place in sources.PLACES else read(place)
    if most is None and place not in sources.PLACES:
        rows, sampled = sample(place)
        notes += sampled
    by_shape = partial(sources.by_shape, kind=task.kind)
    convert = sources.SOURCES[name].convert if name else by_shape
    if place not in sources.PLACES and (task.columns or task.kind == "math"):
        convert = partial(sources.generic, columns=task.columns, kind=task.kind)
    label = name or Path(place).stem
    questions, bad = collect(rows, lambda row: replace(convert(row), task=label), place, most)
    notes += bad
    return questions


def _own(
    task: TaskSpec, function: own.Own, seed: int, limit: int | None, training: bool
) -> TaskSet:
    """Questions that a function of the user's makes up or reads."""
    data = TaskSet([], [])
    for split, start, size in (("train", seed, TRAIN_SIZE), ("test", _TEST_SEED, TEST_SIZE)):
        if split == "train" and not training:
            continue
        rows = enumerate(own.rows(function, split, start, min(limit or size, size)), 1)
        convert = sources.free if task.score else partial(sources.generic, columns={})
        questions, notes = collect(rows, convert, f"{function}, {split}")
        data.notes += notes
        named = [replace(question, task=str(function)) for question in questions]
        setattr(data, split, named)
    return data


def _made_up(name: str, place: str, seed: int) -> Iterator[Row]:
    """Rows of a task that is made up here; `kind` is what the numbers are split by."""
    if name == "stories":
        return (
            {"text": p.text, "gold": p.gold, "kind": p.kind} for p in stories.stream(place, seed)
        )
    if name == "sums":
        return ({"text": text, "gold": gold} for text, gold in sums.stream(place, seed))
    return ({"text": text, "gold": gold} for text, gold, _ in arithmetic.stream(place, seed))


def _generated(name: str, seed: int, limit: int | None, training: bool) -> TaskSet:
    made: dict[str, list[Question]] = {"train": [], "test": []}
    for split, start, size in (("train", seed, TRAIN_SIZE), ("test", _TEST_SEED, TEST_SIZE)):
        if split == "train" and not training:
            continue
        count = min(limit or size, size)
        if name.startswith(GYM):
            rows = gym.rows(name.removeprefix(GYM), start, count)
        else:
            base, _, tune = name.partition(":")
            place = "tune" if tune and split == "test" else split
            rows = enumerate(itertools.islice(_made_up(base, place, start), count), 1)
        questions, _ = collect(rows, lambda row: sources.math(**row), name)
        made[split] = [replace(question, task=name) for question in questions]
    return TaskSet(made["train"], made["test"])
