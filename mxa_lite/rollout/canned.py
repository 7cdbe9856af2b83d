"""`mxa-lite exec`: any script in the sandbox, with canned replies or a model behind a URL."""

from __future__ import annotations

import json
import os
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mxa_lite.errors import InputError, RunError
from mxa_lite.mas import answers
from mxa_lite.mas.check import check
from mxa_lite.sandbox.box import CallRequest, Ended, Job, Limits, Sandbox
from mxa_lite.tree import Outcome

ReplyFn = Callable[[list[CallRequest]], list[str]]


class NoReply(Exception):
    """A reply function has nothing for an agent; its text is the script's error."""


def run_exec(
    script_path: str | Path,
    question: str,
    replies_path: str | Path | None,
    model_url: str | None,
    kind: str,
    limits: Limits,
    require: str,
) -> dict[str, Any]:
    """What `mxa-lite exec --json` prints; see `execute`. Without replies and model, none comes.

    Raises InputError for files that cannot be read, RunError when the model cannot be asked.
    """
    try:
        source = Path(script_path).read_bytes().decode("utf-8-sig", "replace")
    except OSError as error:
        raise InputError(f"{script_path} cannot be read: {error.strerror}") from error
    reply_fn = ask_model(model_url) if model_url else canned(replies_path)
    return execute(source, question, kind, reply_fn, limits, require)


def execute(
    source: str,
    question: str,
    kind: str,
    reply_fn: ReplyFn,
    limits: Limits,
    require: str = "rlimits",
    seed: int = 0,
) -> dict[str, Any]:
    """Checks and runs one script; `reply_fn` gets every round of calls and returns their replies.

    Keys: outcome, answer, calls [{agent, path, messages, reply}] in the order they were made, graph
    {nodes, edges: [from, to]}, stdout, stderr, error, seconds.
    """
    calls: list[dict[str, Any]] = []
    checked = check(source)
    if checked.outcome is not None:
        ended = Ended(0, checked.outcome, None, [], "", "", checked.error, 0.0, 0.0)
    else:
        with Sandbox(limits, require) as sandbox:
            ended = _run(sandbox, Job(source, question, kind, seed), reply_fn, calls)
    answer = answers.extract(ended.message, kind) if ended.message is not None else None
    edges = [[parent, node["path"]] for node in ended.nodes for parent in node["parents"]]
    return {
        "outcome": str(ended.outcome),
        "answer": answer,
        "calls": calls,
        "graph": {"nodes": ended.nodes, "edges": edges},
        "stdout": ended.stdout,
        "stderr": ended.stderr,
        "error": ended.error,
        "seconds": round(ended.seconds, 4),
    }


def _run(sandbox: Sandbox, job: Job, reply_fn: ReplyFn, calls: list[dict[str, Any]]) -> Ended:
    number = sandbox.start(job)
    error: str | None = None
    while True:
        waiting: list[CallRequest] = []
        while not waiting or not sandbox.idle():
            for event in sandbox.poll(None):
                if isinstance(event, Ended):
                    last = error or event.error
                    return Ended(**{**vars(event), "error": last})
                waiting.append(event)
        try:
            replies = reply_fn(waiting)
        except NoReply as missing:
            error = str(missing)
            sandbox.stop(number, Outcome.CRASHED)
            continue
        for call, text in zip(waiting, replies, strict=True):
            record = {"agent": call.agent, "path": call.path, "messages": call.messages}
            calls.append({**record, "reply": text})
            sandbox.reply(number, call.id, text)


def canned(path: str | Path | None) -> ReplyFn:
    """Replies from lines `{"agent", "reply"}`: an agent's in their order, its last one repeats.

    An agent without lines takes those of `"*"` the same way. None: no lines at all. Raises
    InputError with the number of a line that is not such.
    """
    lines: dict[str, list[str]] = {}
    try:
        text = Path(path).read_text(encoding="utf-8-sig") if path is not None else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            agent, reply = row["agent"], row["reply"]
        except (ValueError, KeyError, TypeError, RecursionError):
            agent = reply = None
        if not isinstance(agent, str) or not isinstance(reply, str):
            raise InputError(f'{path} line {number}: not {{"agent": name, "reply": text}}')
        lines.setdefault(agent, []).append(reply)
    used: Counter[str] = Counter()

    def replies(calls: list[CallRequest]) -> list[str]:
        found = []
        for call in calls:
            own = lines.get(call.agent) or lines.get("*")
            if not own:
                raise NoReply(f"no reply for agent {call.agent!r}")
            found.append(own[min(used[call.agent], len(own) - 1)])
            used[call.agent] += 1
        return found

    return replies


def ask_model(url: str) -> ReplyFn:
    """Replies from an OpenAI-compatible endpoint; a round's calls are asked side by side.

    url: up to `/v1`. The first model it lists is used; `OPENAI_API_KEY` is sent if it is set.
    """
    base = url.rstrip("/")

    def fetch(path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(base + path, data, headers)
            with urllib.request.urlopen(request, timeout=600) as response:
                return json.load(response)
        except (OSError, ValueError) as error:  # URLError is an OSError
            raise RunError(f"the model at {base} gives no reply: {error}") from error

    listed: list[str] = []

    def one(call: CallRequest) -> str:
        body: dict[str, Any] = {"model": listed[0], "messages": call.messages}
        if call.temperature is not None:
            body["temperature"] = call.temperature
        reply = fetch("/chat/completions", body)
        try:
            return str(reply["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError) as error:
            raise RunError(f"the model at {base} sent no completion") from error

    def replies(calls: list[CallRequest]) -> list[str]:
        if not listed:
            try:
                listed.append(str(fetch("/models")["data"][0]["id"]))
            except (KeyError, IndexError, TypeError) as error:
                raise RunError(f"the endpoint at {base} lists no model") from error
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(one, calls))

    return replies
