"""What the designer is shown, and the task that a real small model learns."""

from __future__ import annotations

import pytest
from conftest import small

from mxa_lite.recipe.keys import TaskSpec
from mxa_lite.rollout.chosen import choose_prompts
from mxa_lite.tasks import arithmetic
from mxa_lite.tasks import load as tasks
from mxa_lite.texts import prompts
from mxa_lite.texts.answers import extract_script


@pytest.mark.parametrize("kind", ["math", "code"])
def test_examples_are_turns_and_every_question_is_named_as_a_task(kind: str) -> None:
    system, *turns = prompts.examples("What is 2 + 3?", kind)
    assert system["content"] == prompts.LANGUAGE
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * len(prompts.SHOWN) + ["user"]
    assert all("do not solve" in turn["content"] for turn in turns[::2])
    assert turns[-1]["content"].endswith("What is 2 + 3?")
    assert all(extract_script(turn["content"]) for turn in turns[1::2])


@pytest.mark.parametrize(
    ("sets", "shown"),
    [
        ([], "short"),
        (["model.name=org/model"], "examples"),
        (["model.name=org/model", "cold_start.method=bootstrap"], "short"),
        (["model.name=org/model", "prompts=short"], "short"),
        (["prompts=examples"], "examples"),
    ],
)
def test_only_a_model_that_nothing_taught_the_language_is_shown_examples(
    sets: list[str], shown: str
) -> None:
    assert choose_prompts(small("cold_start.method=none", *sets))[0] == shown


def test_sums_hold_each_question_once_and_keep_training_and_test_apart() -> None:
    one, two = (tasks.load(TaskSpec(name="sums"), seed) for seed in (1, 2))
    assert [q.text for q in one.test] == [q.text for q in two.test]
    assert [q.text for q in one.train] != [q.text for q in two.train]
    train, test = ({q.text for q in questions} for questions in (one.train, one.test))
    assert len(train) == len(one.train) > 250 and len(test) == len(one.test) > 40
    assert all(arithmetic.place(text) == "train" for text in train) and not train & test
    assert all(eval(q.text.removeprefix("What is ").rstrip("?")) == int(q.gold) for q in one.test)
