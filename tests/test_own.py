"""Own ideas in a recipe: read, tried, recorded, and refused in one sentence with file and line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from handmade import run_folder
from test_cli import mxa

from mxa_lite.credit.advantage import assign
from mxa_lite.credit.schedule import learning_roles
from mxa_lite.errors import InputError
from mxa_lite.recipe import file as recipe_file
from mxa_lite.recipe import own
from mxa_lite.recipe.keys import Recipe, diff, own_choices
from mxa_lite.rollout.canned import execute_canned
from mxa_lite.rollout.own_ideas import prompts_of, try_all
from mxa_lite.runs import compare
from mxa_lite.runs.stored import stored_recipe
from mxa_lite.tasks import load as tasks
from mxa_lite.tasks.grade import Grader
from mxa_lite.texts import prompts
from mxa_lite.tree import Call, Design, Execution, Outcome, Question, Tree

EXAMPLES = sorted((recipe_file.SHIPPED / "own").glob("*.py"))
SMALL = (
    "train.steps=2",
    "train.questions=2",
    "rollout.designs=2",
    "rollout.max_completion_tokens={designer: 64, executor: 24}",
    "eval={questions: 4, samples: 1, swap: false, greedy: false, baselines: []}",
)
SCRIPT = 'answer(Longest("pick", [Agent("a", "A"), Agent("b", "B")])(question))'


def recipe_with(folder: Path, key: str, text: str, name: str = "idea") -> Recipe:
    """The arithmetic recipe with one own file under one key."""
    (folder / "mine.py").write_text(text)
    value = "mine.py" if key in own.FILES else f"mine.py:{name}"
    block, _, last = key.rpartition(".")
    line = f"{block}: {{{last}: {value}}}" if block else f"{last}: {value}"
    extra = "task: {score: mine.py:idea, name: arithmetic}" if key == "task.score" else line
    (folder / "mine.yaml").write_text(f"extends: arithmetic\n{extra}\n")
    return recipe_file.load(folder / "mine.yaml")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_has_at_most_twelve_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 12


def test_the_readme_shows_an_example_as_it_is() -> None:
    readme = (recipe_file.SHIPPED.parent / "README.md").read_text()
    chapter = readme.partition("## Your own idea in ten lines")[2].partition("\n## ")[0]
    (shown,) = re.findall(r"```python\n(.+?)```", chapter, re.S)
    assert shown in (recipe_file.SHIPPED / "own" / "price.py").read_text()
    assert all(path.name in chapter for path in EXAMPLES)


def test_validate_says_what_it_runs_and_tries_it() -> None:
    done = mxa("validate", "recipes/own/ideas.yaml")
    assert done.returncode == 0, done.stderr
    for path in EXAMPLES:
        assert path.name in done.stderr
    assert "reward: price.py:reward" in done.stdout
    assert "heavy: []" in done.stderr


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("credit.reward", "def idea(e, q):\n    return 1 / 0\n", "mine.py line 2: ZeroDivision"),
        ("credit.reward", "def idea(e, q):\n    return e.cost\n", "no attribute 'cost'"),
        ("credit.reward", "\ndef idea(e, q):\n    pass\n", "line 2: idea must return a number"),
        ("credit.reward", "def idea(e, q):\n    return float('nan')\n", "number, not nan"),
        ("credit.reward", "def other(e, q):\n    return 1\n", "has no function 'idea'"),
        ("credit.reward", "import nowhere\n", "mine.py line 1: ModuleNotFoundError"),
        ("credit.advantage", "def idea(r):\n    return r[1:]\n", "there are rewards (4)"),
        ("credit.advantage", "def idea(r):\n    return [x / sum(r) for x in r]\n", "line 2: Zero"),
        ("credit.advantage", "def idea(r):\n    return r[0]\n", "line 1: idea must return as many"),
        ("schedule.mode", "def idea(step):\n    return 'critic'\n", "roles out of designer"),
        ("schedule.mode", "def idea(step):\n    return []\n", "roles out of designer"),
        ("task.name", "def idea(s, seed, n):\n    yield {'question': 1}\n", "question and answer"),
        ("task.name", "def idea(s, seed, n):\n    yield 1\n    1 / 0\n", "mine.py line 3: Zero"),
        ("task.score", "def idea(q, answer):\n    return 2\n", "a number in 0..1, not 2"),
        ("rollout.nodes", "x = 1\nclass A(Missing): pass\n", "mine.py line 2: NameError"),
        ("rollout.nodes", "x = 1\n", "defines no class"),
        ("prompts", "def designr(question):\n    return []\n", "designr is no prompt; there are"),
        ("prompts", "def judge(question, solutions):\n    return 3\n", "must return a text, not 3"),
        ("prompts", "def designer(question):\n    return 'x'\n", "must return messages"),
    ],
)
def test_what_goes_wrong_is_one_sentence(tmp_path: Path, key: str, text: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        try_all(recipe_with(tmp_path, key, text))
    assert message in str(refused.value)
    assert "mine.py" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ("credit.reward=none.py:f", 'the file "none.py" does not exist'),
        ("credit.reward=fair", "allowed: 'paper' or FILE.py:NAME"),
        ("prompts=long", "or 'examples' or FILE.py"),
    ],
)
def test_a_recipe_that_names_no_own_code_is_refused(sets: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        recipe_file.load("arithmetic", [sets])
    assert message in str(refused.value)


def test_a_file_that_is_no_python_is_refused_when_the_recipe_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mine\.py line 2: "):
        recipe_with(tmp_path, "credit.reward", "def idea(e, q):\n    return (\n")


def test_own_scripts_are_looked_at_before_a_run(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: arithmetic\neval: {systems: scripts}\n")
    with pytest.raises(InputError, match=r'no \*\.py in a folder "scripts" beside the recipe'):
        recipe_file.load(tmp_path / "mine.yaml")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "a.py").write_text("import numpy\nanswer(ask(question))\n")
    with pytest.raises(InputError, match=r"a\.py: .*unknown import numpy"):
        try_all(recipe_file.load(tmp_path / "mine.yaml"))
    (tmp_path / "scripts" / "a.py").write_text("x = (\n")
    with pytest.raises(InputError, match=r"a\.py line 1: "):
        recipe_file.load(tmp_path / "mine.yaml")


def tree(*corrects: float) -> Tree:
    """One design with an execution of one call for each verdict."""
    executions = [
        Execution(Outcome.OK, "7", [Call("a", "0", 0, [], "\\boxed{7}")], correct=correct)
        for correct in corrects
    ]
    return Tree(
        Question("q", "?", "t", gold="7"),
        [Design(Call("d", "", 0, []), "x", executions=executions)],
    )


def test_own_reward_and_advantage_are_what_a_step_learns_from() -> None:
    """Rewards with format 1/2: 1.2, 0.2, 0.2. Leave one out: 1.2 - 0.2 = 1, 0.2 - 0.7 = -0.5."""
    recipe = recipe_file.load("own/ideas")
    graded = tree(1, 0, 0)
    assign(graded, recipe.credit)
    (design,) = graded.designs
    assert [e.reward for e in design.executions] == pytest.approx([1.2, 0.2, 0.2])
    advantages = [e.calls[0].advantage for e in design.executions]
    assert advantages == pytest.approx([1.0, -0.5, -0.5])


def test_own_schedule_says_who_learns() -> None:
    schedule = recipe_file.load("own/ideas").schedule
    roles = [learning_roles(schedule, step) for step in (1, 2, 3)]
    assert roles == [("executor",), ("designer", "executor"), ("designer", "executor")]


def test_own_task_is_graded_by_its_scorer() -> None:
    recipe = recipe_file.load("own/task", ["task.limit=20"])
    data = tasks.load(recipe.task, 1)
    question = data.test[0]
    assert data.train and not {q.id for q in data.train} & {q.id for q in data.test}
    assert recipe.task.score is not None
    right = int(str(question.gold))
    with Grader(scores=[recipe.task.score]) as grader:
        pairs = [(question, text) for text in (str(right), str(right + 1), "many", "")]
        assert [verdict.correct for verdict in grader.grade_many(pairs)] == [1.0, 0.5, 0.0, 0.0]


def canned(tmp_path: Path, script: str, *replies: tuple[str, str]) -> dict[str, Any]:
    """A script under `own/ideas`, its agents' replies given."""
    lines = [json.dumps({"agent": agent, "reply": reply}) for agent, reply in replies]
    (tmp_path / "replies.jsonl").write_text("\n".join(lines))
    recipe = recipe_file.load("own/ideas")
    return execute_canned(script, "1+1?", "math", tmp_path / "replies.jsonl", recipe)


def test_scripts_use_own_nodes(tmp_path: Path) -> None:
    result = canned(tmp_path, SCRIPT, ("a", "\\boxed{1}"), ("b", "so it is \\boxed{2}"))
    assert (result["outcome"], result["answer"]) == ("ok", "2")
    assert "longest" in {node["kind"] for node in result["graph"]["nodes"]}


def test_own_prompts_stand_in_for_the_kit_s_inside_and_outside(tmp_path: Path) -> None:
    script = 'a = Agent("a", "A")\nc = Agent("c", "C")\nanswer(Reflection("r", a, c)(question))'
    result = canned(tmp_path, script, ("a", "\\boxed{2}"), ("c", "VERDICT: CORRECT"))
    critic = next(call for call in result["calls"] if call["agent"] == "c")
    assert "Add again." in critic["messages"][-1]["content"]
    kit = prompts.designer("1+1?")
    with prompts_of(recipe_file.load("own/ideas")):
        assert "Use few agents." in prompts.designer("1+1?")[0]["content"]
        assert prompts.follow_up("a", [("b", "c")])  # the others stay
    assert prompts.designer("1+1?") == kit


def stored(tmp_path: Path, text: str) -> Path:
    """A finished run whose recipe has an own reward, as `run` stores one."""
    recipe_with(tmp_path, "credit.reward", text)
    run_folder(tmp_path / "run", cold=((0, 0), (1, 0)), final=((1, 1), (1, 0)))
    (tmp_path / "run" / "own").mkdir()
    (tmp_path / "run" / "own" / "mine.py").write_text(text)
    trained = recipe_file.load(tmp_path / "mine.yaml", ["train.steps=4"])
    (tmp_path / "run" / "recipe.yaml").write_text(recipe_file.dump(trained, {}))
    return tmp_path / "run"


def test_a_run_takes_its_copy_and_refuses_a_file_that_differs(tmp_path: Path) -> None:
    run = stored(tmp_path, "def idea(e, q):\n    return 1\n")
    (tmp_path / "mine.py").unlink()
    again = stored_recipe(run)
    assert diff(again, again) is None
    (run / "own" / "mine.py").write_text("def idea(e, q):\n    return 2\n")
    with pytest.raises(InputError, match=r"own: mine\.py is not the file that the run was begun"):
        stored_recipe(run)


def test_a_resumed_run_refuses_another_file(tmp_path: Path) -> None:
    run = stored(tmp_path, "def idea(e, q):\n    return 1\n")
    (tmp_path / "mine.py").write_text("def idea(e, q):\n    return 2\n")
    done = mxa("run", tmp_path / "mine.yaml", "--set", "train.steps=4", "--output", run, "--resume")
    assert done.returncode == 2
    assert "own.mine.py differs" in done.stderr


def test_reports_and_comparisons_run_no_own_code(tmp_path: Path) -> None:
    """The file would end any process that runs it."""
    run = stored(tmp_path, "raise SystemExit(9)\n")
    other = run_folder(tmp_path / "other")
    assert mxa("report", run).returncode == 0
    done = mxa("compare", run, other, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "mine.py:idea" in done.stdout


@pytest.mark.slow
def test_six_ideas_run_and_are_compared_with_the_built_in(tmp_path: Path) -> None:
    sources = [str(recipe_file.SHIPPED / "own" / f"{name}.yaml") for name in ("ideas", "task")]
    result = compare.compare(sources, [1], tmp_path, 2, print, SMALL)
    assert [row["name"] for row in result["rows"]] == ["ideas", "task"]
    run = tmp_path / "runs" / "ideas-seed1"
    assert {path.name for path in (run / "own").iterdir()} == {path.name for path in EXAMPLES}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["role"] for line in lines] == ["executor", "both"]
    recipe = stored_recipe(run)
    assert recipe.own == recipe_file.load(sources[0]).own
    assert len(own_choices(recipe)) == 7
