"""Canned replies in the model's place, and `mxa-lite exec`: one script through the sampler."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from mxa_lite.errors import InputError, read_text
from mxa_lite.policy.request import Completion, Request
from mxa_lite.recipe.keys import Recipe
from mxa_lite.rollout.chosen import sandbox_for
from mxa_lite.rollout.sampler import Sampler
from mxa_lite.tree import Call, Execution, NodeRecord, Outcome, Question


class ShownCall(TypedDict):
    """A call, without its tokens."""

    agent: str
    path: str
    messages: list[dict[str, str]]
    reply: str


class Graph(TypedDict):
    """Visited nodes, and [from, to] of paths: what was shown to whom."""

    nodes: list[NodeRecord]
    edges: list[list[str]]


class Executed(TypedDict):
    """What `mxa-lite exec --json` prints; calls in the order they were made."""

    outcome: str
    answer: str | None
    calls: list[ShownCall]
    graph: Graph
    stdout: str
    stderr: str
    error: str | None
    seconds: float


class Canned:
    """An engine that says given texts: an agent's in their order, of which the last repeats.

    An agent without texts takes those of `"*"` the same way.
    """

    def __init__(self, texts: Mapping[str, Sequence[str]]) -> None:
        self.texts = texts
        self.used: Counter[str] = Counter()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in their order; without a text it is an error."""
        return [self._next(request.agent) for request in requests]

    def _next(self, agent: str) -> Completion:
        texts = self.texts.get(agent) or self.texts.get("*")
        if not texts:
            error = f"no reply for agent {agent!r}"
            if not self.texts:
                error += "; --replies FILE brings replies, --model RUN lets a run's executor reply"
            return Completion("", [], [], [], False, False, error)
        text = texts[min(self.used[agent], len(texts) - 1)]
        self.used[agent] += 1
        return Completion(text, [], [], [], False, False)


class Ungraded:
    """A grader for questions whose answer nobody knows, and its verdict."""

    correct = 0.0

    def grade_many(self, pairs: list[tuple[Question, str]]) -> list[Ungraded]:
        return [self] * len(pairs)


def read_replies(path: Path) -> dict[str, list[str]]:
    """Texts by agent from lines `{"agent", "reply"}`.

    Raises InputError for a file that cannot be read, and with the number of a line that is not so.
    """
    texts: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            agent, reply = row["agent"], row["reply"]
        except (ValueError, KeyError, TypeError, RecursionError):
            agent = reply = None
        if not isinstance(agent, str) or not isinstance(reply, str):
            raise InputError(f'{path} line {number}: not {{"agent": name, "reply": text}}')
        texts.setdefault(agent, []).append(reply)
    return texts


def execute_canned(
    source: str, question: str, kind: str, replies: Path | None, recipe: Recipe
) -> Executed:
    """`execute` with the replies of a file, or with none; limits are the recipe's."""
    engine: Any = Canned(read_replies(replies) if replies else {})
    with sandbox_for(recipe) as sandbox:
        return execute(Sampler(engine, sandbox, Ungraded(), recipe), source, question, kind)


def execute(sampler: Sampler, source: str, question: str, kind: str) -> Executed:
    design = sampler.design_of(source, Call("designer", "", 0, []))
    if design.outcome is None:
        pair = Question("exec", question, "exec", kind), design
        sampler.run_scripts([pair], sampler.recipe.rollout.temperature)
    refused = Execution(design.outcome or Outcome.REJECTED, error=design.error)
    run = design.executions[0] if design.executions else refused
    return {
        "outcome": str(run.outcome),
        "answer": run.answer,
        "calls": shown_calls(run.calls),
        "graph": graph(run.nodes),
        "stdout": run.stdout,
        "stderr": run.stderr,
        "error": run.error,
        "seconds": round(run.seconds, 4),
    }


def shown_calls(calls: Sequence[Call]) -> list[ShownCall]:
    return [
        {"agent": c.agent, "path": c.path, "messages": c.messages, "reply": c.reply} for c in calls
    ]


def graph(nodes: Sequence[NodeRecord]) -> Graph:
    """The graph of a run, as `--json` prints it."""
    edges = [[parent, node["path"]] for node in nodes for parent in node["parents"]]
    return {"nodes": list(nodes), "edges": edges}
