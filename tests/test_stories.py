"""The miniature's task: three kinds, right answers, replies that do or do not hold the work."""

from __future__ import annotations

import itertools

import pytest

from mxa_lite.mas.parts import sentences
from mxa_lite.recipe.keys import TaskSpec
from mxa_lite.tasks import arithmetic, stories
from mxa_lite.tasks import load as tasks

PROBLEMS = list(itertools.islice(stories.stream("train", 3), 600))


def test_the_sums_lead_to_the_answer_and_stay_in_range():
    for problem in PROBLEMS:
        for line in problem.worked:
            left, _, result = line.partition("=")
            value = eval(left)
            assert value == int(result) and 0 <= value <= arithmetic.LARGEST
        assert result == problem.gold


@pytest.mark.parametrize("kind", stories.KINDS)
def test_the_kinds_come_equally_often_and_differ_in_what_they_need(kind):
    found = [problem for problem in PROBLEMS if problem.kind == kind]
    assert 150 < len(found) < 250
    # two stories are on two lines; long ones have more sums than a reply holds
    assert {len(p.text.splitlines()) for p in found} == {3 if kind == "together" else 1}
    assert {len(p.stories) for p in found} == {2 if kind == "together" else 1}
    least, most = {"short": (2, 3), "long": (6, 7), "together": (6, 7)}[kind]
    assert {len(p.worked) for p in found} == {*range(least, most + 1)}
    for p in found:
        whole = [*itertools.chain(*(one.sentences for one in p.stories))]
        assert sentences(p.text)[:-1] == whole


def test_train_test_and_tuning_questions_are_apart_and_know_their_kind():
    one, two = (tasks.load(TaskSpec(name="stories", limit=200), seed) for seed in (1, 2))
    tune = tasks.load(TaskSpec(name="stories:tune", limit=200), 1)
    assert one.test == two.test and one.train != two.train
    assert not {q.id for q in one.test} & {q.id for q in tune.test}
    assert {arithmetic.place(q.text) for q in one.train + two.train + tune.train} == {"train"}
    assert {arithmetic.place(q.text) for q in one.test} == {"test"}
    assert {q.meta["kind"] for q in one.test} == {*stories.KINDS}
