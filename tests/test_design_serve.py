import http.client
import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from contextlib import nullcontext

import pytest
from handmade import NASTY, SCRIPT, call, execution, run_folder, served

from mxa_lite.cli import runs as cli_runs
from mxa_lite.errors import InputError
from mxa_lite.evidence.evaluate import Exam, hand_written
from mxa_lite.mas import patterns
from mxa_lite.mas.check import check
from mxa_lite.policy.request import Completion
from mxa_lite.recipe.file import load
from mxa_lite.rollout.sampler import Sampler
from mxa_lite.runs import ask as asking
from mxa_lite.runs.serve import MAX_BODY
from mxa_lite.sandbox.box import Limits, Sandbox
from mxa_lite.tasks.grade import Verdict
from mxa_lite.tree import Design, Outcome, Question, Tree


class Speaker:
    """An engine that says what it is told: one text per role."""

    def __init__(self, designer, executor="<delivery>\\boxed{4}</delivery>"):
        self.texts = {"designer": designer, "executor": executor}

    def generate(self, requests):
        texts = [self.texts[r.role] for r in requests]
        return [Completion(t, [1, 2], [3, 4], [0.0, 0.0], False, False) for t in texts]


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(Limits(5)) as box:
        yield box


def asked(sandbox, reply, *sets, question="What is 2 + 2?"):
    seen = []
    recipe = load("arithmetic", sets)
    sampler = Sampler(Speaker(reply), sandbox, None, recipe)
    return asking.ask(sampler, question, "math", seen.append), seen


def test_a_design_answers_and_every_call_is_shown_in_order(sandbox):
    result, seen = asked(sandbox, f"```python\n{SCRIPT}```")
    assert (result.answer, result.reason) == ("4", None)
    assert isinstance(seen[0], Design)
    assert [made.path for made in seen[1:]] == ["0.0", "0.1", "0.2"]
    data = result.to_json()
    assert (data["pattern"], data["outcome"], data["fallback"]) == ("vote", "ok", False)
    assert len(data["calls"]) == 3
    json.dumps(data, allow_nan=False)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("no idea", "no_script"),
        ("```python\nx = (\n```", "syntax_error"),
        ("```python\nAgent('a', 'b')(question)\nraise ValueError('oh')\n```", "crashed"),
        ("```python\nAgent('a', 'b')(question)\n```", "no_answer"),
        ("```python\nanswer('4')\n```", "no_calls"),
    ],
)
def test_when_the_design_fails_a_single_agent_answers_and_it_is_said(sandbox, reply, reason):
    result, seen = asked(sandbox, reply)
    assert result.answer == "4"
    assert result.reason.startswith(reason)
    assert seen[-1].agent == "single"
    assert result.to_json()["fallback"] is True
    assert reason in result.page()


def test_a_single_agent_run_has_no_design_to_fail(sandbox):
    result, seen = asked(sandbox, "", "method=single_agent")
    assert (result.answer, result.reason, len(seen)) == ("4", None, 1)


def test_an_empty_question_is_refused(sandbox):
    with pytest.raises(InputError, match="empty"):
        asked(sandbox, "", question=" \n")


def test_bytes_that_are_no_text_are_marked(sandbox):
    assert asked(sandbox, "", question="2 + 2\udcff")[0].tree.question.text == "2 + 2?"


def test_a_page_that_cannot_be_written_is_wrong_input(tmp_path, monkeypatch):
    monkeypatch.setattr(cli_runs, "stored_recipe", lambda *_, **__: load("arithmetic"))
    monkeypatch.setattr(asking, "opened", nullcontext)
    monkeypatch.setattr(asking, "ask", lambda sampler, text, kind, watch: canned(text))
    with pytest.raises(InputError, match="is a folder"):
        cli_runs.design.callback(tmp_path, "2 + 2?", tmp_path, False)


def test_the_tree_on_a_terminal_nests_members_and_spells_out_escapes():
    nodes = [
        {"name": "a", "kind": "agent", "path": "0.0", "parents": [], "error": None},
        {"name": "b\x1b[2J", "kind": "agent", "path": "0.1", "parents": ["0.0"], "error": "bad"},
        {"name": "v", "kind": "ensemble", "path": "0", "parents": [], "error": None},
    ]
    assert asking.drawn(nodes) == [
        "└─ v (ensemble)",
        "   └─ a (agent)",
        "   └─ b\\x1b[2J (agent) <- a  failed: bad",
    ]


def test_the_kind_of_a_run_s_questions(tmp_path):
    run = run_folder(tmp_path / "mine")
    assert asking.kind_of(run, load("arithmetic")) == "math"
    assert asking.kind_of(tmp_path, load("arithmetic", ["task.kind=code"])) == "code"


# serve


def canned(text):
    if "broken" in text:
        raise InputError("no checkpoint yet")
    design = Design(call("designer", "", SCRIPT), SCRIPT, "vote", executions=[execution(True)])
    tree = Tree(Question("asked", text, "asked"), [design])
    return asking.Asked(tree, f"4 {NASTY}", None)


@pytest.fixture
def server(tmp_path):
    with served(run_folder(tmp_path / "mine"), canned) as made:
        yield made


def get(url, data=None, **headers):
    body = None if data is None else urllib.parse.urlencode(data).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as response:
            return response.status, response.read().decode(), response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def test_the_link_shows_the_report_and_a_box(server):
    status, html, headers = get(server.link)
    assert status == 200
    assert '<form method="post" action="ask">' in html
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_it_listens_on_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1"


def test_without_the_token_or_from_another_host_there_is_nothing(server):
    base = f"http://127.0.0.1:{server.server_port}"
    for url in (base, f"{base}/", f"{base}/wrong/", server.link[:-2] + "/", f"{server.link}x"):
        assert get(url)[0] == 404
    assert get(server.link, Host="evil.example")[0] == 404
    assert get(f"{base}/wrong/ask", {"question": "1 + 1"})[0] == 404
    assert get(server.link, {"question": "1 + 1"})[0] == 404


def test_other_methods_and_broken_requests_get_what_a_wrong_link_gets(server):
    for first in ("HEAD / HTTP/1.1", "OPTIONS * HTTP/1.1", "nonsense"):
        with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
            connection.sendall(f"{first}\r\n\r\n".encode())
            assert b"not found" in connection.makefile("rb").read()


def test_two_servers_have_two_tokens(server, tmp_path):
    with served(run_folder(tmp_path / "other"), canned) as other:
        assert other.token != server.token


def test_a_question_is_answered_and_stays_text(server):
    status, html, _ = get(f"{server.link}ask", {"question": f"What? {NASTY}"})
    assert status == 200
    assert "What? &lt;/script&gt;" in html
    assert "<img" not in html
    assert html.count("<script") == 2  # the packed rollout and our own


def test_what_cannot_be_answered_is_said(server):
    status, html, _ = get(f"{server.link}ask", {"question": "broken"})
    assert status == 400
    assert "no checkpoint yet" in html


def test_a_long_body_is_refused_unread(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.putrequest("POST", f"/{server.token}/ask")
    connection.putheader("Content-Length", str(MAX_BODY + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_the_page_follows_the_run(server):
    before = get(f"{server.link}version")[1]
    assert f'data-version="{before}"' in get(server.link)[1]
    with (server.run / "metrics.jsonl").open("a") as file:
        file.write((server.run / "metrics.jsonl").read_text().splitlines()[-1] + "\n")
    assert get(f"{server.link}version")[1] != before
    assert f'data-version="{before}"' not in get(server.link)[1]


def test_outcomes_of_a_design_without_answer():
    design = Design(call("designer", "", SCRIPT), SCRIPT, "vote")
    design.executions.append(execution(False, Outcome.OK))
    design.executions[0].answer = ""
    assert asking._failure(design) == "no_answer"


class Right:
    """A grader that finds everything right."""

    def grade_many(self, pairs):
        return [Verdict(1.0, "right")] * len(pairs)


def test_every_fixed_system_runs_and_is_of_its_pattern(sandbox):
    sampler = Sampler(Speaker(""), sandbox, Right(), load("arithmetic"))
    question = Question("q", "2.\n2.\nThe sum? The sum of both?", "arithmetic", gold="4")
    for name, script in patterns.SYSTEMS.items():
        assert check(script).pattern == name.partition("_")[0]
        attempts = hand_written(Exam(sampler, [question], 2, 1.0), script, name)
        assert [(a.outcome, a.answer, a.correct) for a in attempts] == [("ok", "4", 1.0)] * 2
        assert len(attempts[0].calls) == patterns.CALLS[name]
    assert "debate" not in patterns.within(4) and "vote_4" in patterns.within(4)


@pytest.mark.parametrize(
    ("text", "calls"), [("1.\n1.\nSum?", 3), ("1. " * 7, 4), ("1. 1. Sum?", 4)]
)
def test_the_hand_written_router_runs_on_every_kind(sandbox, text, calls):
    sampler = Sampler(Speaker(""), sandbox, Right(), load("arithmetic"))
    question = Question("q", text, "stories", gold="4")
    (attempt,) = hand_written(Exam(sampler, [question], 1, 1.0), patterns.ROUTER, "router")
    assert (attempt.outcome, len(attempt.calls)) == ("ok", calls)
