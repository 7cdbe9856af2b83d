"""A recipe's own code: its prompts in use outside the sandbox, and each idea tried before a run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mxa_lite.errors import InputError
from mxa_lite.mas.check import check
from mxa_lite.mas.script import node_names
from mxa_lite.recipe import own
from mxa_lite.recipe.keys import Recipe, own_choices
from mxa_lite.rollout.canned import Canned, Ungraded, execute
from mxa_lite.rollout.chosen import sandbox_for
from mxa_lite.rollout.sampler import Sampler
from mxa_lite.texts import own_prompts
from mxa_lite.tree import Call, Execution, Outcome, Question

REPLY = "<delivery>\\boxed{2}</delivery>"
QUESTION = Question("example", "What is 1+1?", "example", gold="2")
EXECUTION = Execution(Outcome.OK, "2", [Call("solver", "0", 0, [], REPLY)], correct=1.0, format=1.0)
GROUPS = ([1.4, 0.0, 0.4, 0.0], [0.0] * 4, [1.4])  # rewards: unlike, alike, of a single member
SCRIPT = 'a = Agent("solver", "Work step by step.")\nanswer(a(question))'

_BY_TYPE = {"list[tuple[str, str]]": [("solver", "\\boxed{2}")], "list[str]": ["single"], "int": 0}
_BY_NAME = {"kind": "math", "pattern": "single"}


@contextmanager
def prompts_of(recipe: Recipe) -> Iterator[None]:
    """The recipe's own prompts in the kit's place, in this process."""
    functions = _prompts(recipe.prompts) if isinstance(recipe.prompts, own.Own) else {}
    with own_prompts.replaced(functions):
        yield


def _prompts(file: own.Own) -> dict[str, own_prompts.Prompt]:
    try:
        names = own_prompts.chosen(file.namespace())
    except ValueError as error:
        raise InputError(f"{file.path}: {error}") from None
    ideas = {name: replace(file, name=name) for name in names}
    return {name: own_prompts.checked(name, f, f.refuse) for name, f in ideas.items()}


def _example(name: str) -> list[Any]:
    """Made-up arguments of a prompt, to try a function with."""
    parameters = inspect.signature(own_prompts.KIT[name]).parameters.values()
    return [_BY_TYPE.get(p.annotation, _BY_NAME.get(p.name, "What is 1+1?")) for p in parameters]


def try_all(recipe: Recipe) -> None:
    """Calls every own function on a made-up example. InputError: one sentence, file and line."""
    question = QUESTION
    for key, idea in own_choices(recipe).items():
        kind = key.rpartition(".")[2]
        if kind == "reward":
            own.number(idea, idea(EXECUTION, QUESTION))
        elif kind == "advantage":
            for rewards in GROUPS:
                own.numbers(idea, rewards)
        elif kind == "mode":
            for step in {1, 2, max(recipe.train.steps, 1)}:
                own.roles(idea, step)
        elif kind == "name":
            rows = [own.rows(idea, split, recipe.seed, 2)[0] for split in ("test", "train")]
            question = replace(QUESTION, text=str(rows[0]["question"]), gold=str(rows[0]["answer"]))
        elif kind == "score":
            for answer in (question.gold, "no such answer"):
                own.number(idea, idea(question, answer), highest=1.0)
        elif kind == "prompts":
            for name, prompt in _prompts(idea).items():
                prompt(*_example(name))
        elif key.startswith(own.SCRIPTS):
            nodes = recipe.rollout.nodes
            if error := check(idea.text, node_names(nodes.text if nodes else "")).error:
                raise InputError(f"{idea.path}: {error}")
    _try_inside(recipe)


def _try_inside(recipe: Recipe) -> None:
    """Own nodes and prompts as a script has them."""
    files = {"rollout.nodes": recipe.rollout.nodes, "prompts": recipe.prompts}
    paths = {key: file.path for key, file in files.items() if isinstance(file, own.Own)}
    if not paths:
        return
    engine: Any = Canned({"*": [REPLY]})
    with sandbox_for(recipe) as sandbox:
        result = execute(Sampler(engine, sandbox, Ungraded(), recipe), SCRIPT, "What?", "math")
    error = str(result["error"] or result["outcome"])
    if result["outcome"] != Outcome.OK:
        key = next((key for key in paths if error.startswith(key)), ", ".join(paths))
        raise InputError(f"{paths.get(key, key)}{error.removeprefix(key)}")
    if "rollout.nodes" in paths and not sandbox.node_names:
        raise InputError(f"{paths['rollout.nodes']}: defines no class")
