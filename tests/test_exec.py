"""`exec`: canned replies, what comes back, and what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mxa_lite.errors import InputError, RunError
from mxa_lite.rollout.canned import run_exec
from mxa_lite.sandbox.box import Limits

VOTE = """
solvers = [Agent(name) for name in ("ann", "bob", "cat")]
answer(Ensemble("vote", solvers).run(question))
"""


@pytest.fixture
def execute(tmp_path: Path) -> Any:
    def execute(source: str, replies: list[Any], **kwargs: Any) -> dict[str, Any]:
        (tmp_path / "s.py").write_text(source)
        lines = [reply if isinstance(reply, str) else json.dumps(reply) for reply in replies]
        (tmp_path / "r.jsonl").write_text("\n".join(lines))
        paths = {"script_path": tmp_path / "s.py", "replies_path": tmp_path / "r.jsonl"}
        given = {"question": "2+2?", "model_url": None, "kind": "math", "require": "rlimits"}
        return run_exec(**{**paths, **given, "limits": Limits(), **kwargs})

    return execute


def line(agent: str, reply: str) -> dict[str, str]:
    return {"agent": agent, "reply": reply}


def test_a_vote_with_canned_replies(execute: Any) -> None:
    found = execute(VOTE, [line("*", "\\boxed{4}"), line("bob", "\\boxed{5}"), line("zoe", "")])
    assert (found["outcome"], found["answer"], found["error"]) == ("ok", "4", None)
    assert [call["agent"] for call in found["calls"]] == ["ann", "bob", "cat"]
    assert found["calls"][1]["reply"] == "\\boxed{5}"
    assert found["calls"][0]["messages"][-1]["content"] == "2+2?"
    assert {"ann", "bob", "cat", "vote"} <= {node["name"] for node in found["graph"]["nodes"]}
    assert set(found) == {
        "outcome", "answer", "calls", "graph", "stdout", "stderr", "error", "seconds",
    }  # fmt: skip


def test_an_agents_lines_are_used_in_order_and_the_last_repeats(execute: Any) -> None:
    source = "a, b = Agent('a'), Agent('b')\nprint(*[x(question) for x in (a, b, a, a, b)])"
    found = execute(source, [line("a", "1"), line("*", "8"), line("*", "9"), line("a", "2")])
    assert found["stdout"] == "1 8 2 2 9\n"


def test_an_agent_without_a_line_is_named(execute: Any) -> None:
    found = execute(VOTE, [line("ann", "x")])
    assert found["outcome"] == "crashed" and "'bob'" in found["error"]


@pytest.mark.parametrize("bad", ["{", "[]", '{"agent": "a"}', '{"agent": 1, "reply": "x"}'])
def test_a_bad_line_is_wrong_input_with_its_number(execute: Any, bad: str) -> None:
    with pytest.raises(InputError, match=r"r\.jsonl line 2"):
        execute(VOTE, [line("*", "x"), bad])


def test_a_missing_script_is_wrong_input(execute: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.py cannot be read"):
        execute(VOTE, [], script_path=tmp_path / "none.py")


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
    found = execute(source, [line("*", "x")])
    assert (found["outcome"], found["answer"]) == (outcome, None)
    assert found["error"]


def test_the_last_traceback_line_is_the_error(execute: Any) -> None:
    found = execute("print(1)\n1 / 0", [])
    assert (found["stdout"], found["error"]) == ("1\n", "ZeroDivisionError: division by zero")
    assert found["stderr"].splitlines()[1:3] == [
        '  File "script.py", line 2, in <module>',
        "    1 / 0",
    ]


def test_a_budget_counts_calls_that_were_made(execute: Any) -> None:
    source = "a = Agent('a')\nwhile True: a(question)"
    found = execute(source, [line("*", "x")], limits=Limits(max_calls=3))
    assert len(found["calls"]) == 3


def test_a_code_task_answers_with_its_solution(execute: Any) -> None:
    reply = "<solution>\n```python\nprint(1)\n```\n</solution>"
    found = execute("answer(Agent('a')(question))", [line("*", reply)], kind="code")
    assert found["answer"].strip() == "print(1)"


class Endpoint(BaseHTTPRequestHandler):
    """A small OpenAI-compatible server that adds up its users' words."""

    def do_GET(self) -> None:
        self._send({"data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = f"{body['model']}: {body['messages'][-1]['content']} \\boxed{{4}}"
        self._send({"choices": [{"message": {"content": text}}]} if "messages" in body else {})

    def _send(self, data: Any) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(data).encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_a_model_behind_a_url_replies(execute: Any, endpoint: str) -> None:
    found = execute(VOTE, [], model_url=endpoint)
    assert (found["outcome"], found["answer"]) == ("ok", "4")
    assert found["calls"][0]["reply"] == "tiny: 2+2? \\boxed{4}"


def test_no_model_behind_the_url(execute: Any) -> None:
    with pytest.raises(RunError, match="gives no reply"):
        execute(VOTE, [], model_url="http://127.0.0.1:9/v1")
