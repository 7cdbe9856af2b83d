"""`exec`: canned replies, what comes back, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mxa_lite.errors import InputError
from mxa_lite.recipe.file import load
from mxa_lite.rollout.canned import Canned, Ungraded, execute_canned
from mxa_lite.rollout.sampler import Sampler
from mxa_lite.sandbox.box import Limits, Sandbox
from mxa_lite.tree import Call, Design, Outcome, Question

VOTE = """
solvers = [Agent(name) for name in ("ann", "bob", "cat")]
answer(Ensemble("vote", solvers).run(question))
"""


@pytest.fixture
def execute(tmp_path: Path) -> Any:
    def execute(source: str, replies: list[Any], *sets: str, kind: str = "math") -> dict[str, Any]:
        lines = [reply if isinstance(reply, str) else json.dumps(reply) for reply in replies]
        (tmp_path / "r.jsonl").write_text("\n".join(lines))
        return execute_canned(source, "2+2?", kind, tmp_path / "r.jsonl", load("arithmetic", sets))

    return execute


def line(agent: str, reply: str) -> dict[str, str]:
    return {"agent": agent, "reply": reply}


def test_a_vote_with_canned_replies(execute: Any) -> None:
    result = execute(VOTE, [line("*", "\\boxed{4}"), line("bob", "\\boxed{5}"), line("zoe", "")])
    assert (result["outcome"], result["answer"], result["error"]) == ("ok", "4", None)
    assert [call["agent"] for call in result["calls"]] == ["ann", "bob", "cat"]
    assert result["calls"][1]["reply"] == "\\boxed{5}"
    assert result["calls"][0]["messages"][-1]["content"] == "2+2?"
    assert {"ann", "bob", "cat", "vote"} <= {node["name"] for node in result["graph"]["nodes"]}
    assert set(result) == {
        "outcome", "answer", "calls", "graph", "stdout", "stderr", "error", "seconds",
    }  # fmt: skip


def test_an_agents_lines_are_used_in_order_and_the_last_repeats(execute: Any) -> None:
    source = "a, b = Agent('a'), Agent('b')\nprint(*[x(question) for x in (a, b, a, a, b)])"
    result = execute(source, [line("a", "1"), line("*", "8"), line("*", "9"), line("a", "2")])
    assert result["stdout"] == "1 8 2 2 9\n"


def test_an_agent_without_a_line_is_named(execute: Any) -> None:
    result = execute(VOTE, [line("ann", "x")])
    assert result["outcome"] == "crashed" and "'bob'" in result["error"]


@pytest.mark.parametrize("bad", ["{", "[]", '{"agent": "a"}', '{"agent": 1, "reply": "x"}'])
def test_a_bad_line_is_wrong_input_with_its_number(execute: Any, bad: str) -> None:
    with pytest.raises(InputError, match=r"r\.jsonl line 2"):
        execute(VOTE, [line("*", "x"), bad])


def test_of_a_round_whose_replies_run_out_the_given_ones_are_shown(execute: Any) -> None:
    result = execute(VOTE, [line("ann", "x"), line("cat", "y")])
    assert [call["reply"] for call in result["calls"]] == ["x", "y"]
    assert (result["outcome"], result["error"]) == ("crashed", "no reply for agent 'bob'")


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("def (", "syntax_error"),
        ("import numpy", "rejected"),
        ("a = Agent('a')\nwhile True: a(question)", "call_budget"),
        ("a = Agent('a')\nwhile a(question): a = a", "call_budget"),
        ("1 / 0", "crashed"),
        ("print(Agent('a')(question), '\\\\boxed{4}')\n1 / 0", "crashed"),
        ("print('Final answer: \\\\boxed{4}')\nraise SystemExit('\\\\boxed{4}')", "crashed"),
    ],
)
def test_scripts_that_come_to_nothing(execute: Any, source: str, outcome: str) -> None:
    result = execute(source, [line("*", "x")])
    assert (result["outcome"], result["answer"]) == (outcome, None)
    assert result["error"]


def test_the_last_traceback_line_is_the_error(execute: Any) -> None:
    result = execute("print(1)\n1 / 0", [])
    assert (result["stdout"], result["error"]) == ("1\n", "ZeroDivisionError: division by zero")
    assert result["stderr"].splitlines()[1:3] == [
        '  File "script.py", line 2, in <module>',
        "    1 / 0",
    ]


def test_a_budget_counts_calls_that_were_made(execute: Any) -> None:
    source = "a = Agent('a')\nwhile True: a(question)"
    result = execute(source, [line("*", "x")], "rollout.max_calls=3")
    assert len(result["calls"]) == 3


def test_a_code_task_answers_with_its_solution(execute: Any) -> None:
    reply = "<solution>\n```python\nprint(1)\n```\n</solution>"
    result = execute("answer(Agent('a')(question))", [line("*", reply)], kind="code")
    assert result["answer"].strip() == "print(1)"


def test_own_node_classes_run_in_the_sandbox_and_their_errors_name_the_line() -> None:
    question = Question("q", "2+2?", "t", gold="4")
    twice = (
        "class Twice(WorkflowNode):\n"
        "    def process(self, context):\n"
        "        return Agent('a')(Agent('a')(context))\n"
    )

    def rolled(nodes: str, script: str) -> Design:
        engine: Any = Canned({"*": ["\\boxed{4}"]})
        with Sandbox(Limits(5), nodes=nodes) as sandbox:
            sampler = Sampler(engine, sandbox, Ungraded(), load("arithmetic"))
            design = sampler.design_of(script, Call("designer", "", 0, []))
            sampler.run_scripts([(question, design)] * (design.outcome is None), 0.0)
        return design

    (run,) = rolled(twice, "from mas import Twice\nanswer(Twice('t')(question))").executions
    assert (run.outcome, run.answer) == (Outcome.OK, "4")
    assert [node["kind"] for node in run.nodes] == ["agent", "agent", "twice"]
    missing = rolled("", "from mas import Twice\nanswer(Twice('t')(question))")
    assert missing.outcome is Outcome.REJECTED
    for nodes, error in (
        ("\nx = y\n", "rollout.nodes line 2: NameError: name 'y' is not defined"),
        ("x = 1\nclass (", "rollout.nodes line 2: SyntaxError: "),
        ("open('/etc/passwd')", "rollout.nodes line 1: PermissionError: "),
    ):
        (run,) = rolled(nodes, "answer(Agent('a')(question))").executions
        assert run.outcome is Outcome.CRASHED and (run.error or "").startswith(error)
