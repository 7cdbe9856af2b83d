"""The rollout tree of one question: designs, executions, calls. Plain data, no torch.

Shapes: a step holds B trees; a tree holds M designs; a design N executions; an execution C calls.
One tree is one line of `rollouts/step-NNNNN.jsonl`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, is_dataclass
from enum import StrEnum
from typing import Any, Literal, TypedDict

Role = Literal["designer", "executor"]
ROLES: tuple[Role, ...] = ("designer", "executor")


class Outcome(StrEnum):
    """Why an execution ended. Every outcome but `ok` has reward 0."""

    OK = "ok"  # an answer came and at least one call was made
    NO_SCRIPT = "no_script"  # no script in the designer's completion
    SYNTAX_ERROR = "syntax_error"  # the script does not parse
    REJECTED = "rejected"  # unknown import, or too large
    CRASHED = "crashed"  # an exception, a signal, or a broken protocol
    TIMEOUT = "timeout"  # its own time (computing or sleeping) ran out
    MEMORY = "memory"  # memory or disk ran out
    CALL_BUDGET = "call_budget"  # asked for more calls than `rollout.max_calls`
    TOKEN_BUDGET = "token_budget"  # asked for more tokens than allowed
    NO_ANSWER = "no_answer"  # ended without an answer
    NO_CALLS = "no_calls"  # answered without asking any agent


def path_key(path: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key of a node path: "0.2" comes before "0.10"."""
    components = [component[:20] for component in path.split(".")]
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in components)


@dataclass(frozen=True)
class Question:
    """One row of a task.

    kind: "math" (gold answer) or "code" (unit tests). tests: list of assert strings, or of
    {"input", "output"}. meta: whatever the task's own grader needs; never enters the sandbox.
    """

    id: str
    text: str
    task: str
    kind: str = "math"
    gold: str | None = None
    tests: list[Any] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass
class Call:
    """One LLM request of an agent: prompt ids, completion ids, and what credit made of it.

    path: the node path inside the workflow ("0.2" is the third child of the first node).
    number: how often this node has called before, from 0. logps: log-prob of each completion
    token as sampled, at `temperature`. advantage and weight are filled in by credit.
    """

    agent: str
    path: str
    number: int
    messages: list[dict[str, str]]
    reply: str = ""
    prompt_ids: list[int] = field(default_factory=list)
    completion_ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    temperature: float = 1.0
    truncated: bool = False  # the completion hit the token limit
    prompt_cut: bool = False  # the prompt lost its middle
    advantage: float = 0.0
    weight: float = 1.0


class NodeRecord(TypedDict):
    """A node of a workflow that was visited; parents: paths of the nodes whose output it saw."""

    name: str
    kind: str
    path: str
    parents: list[str]
    output: str | None
    error: str | None


@dataclass
class Execution:
    """One run of a design."""

    outcome: Outcome
    answer: str | None = None
    calls: list[Call] = field(default_factory=list)
    nodes: list[NodeRecord] = field(default_factory=list)
    stdout: str = ""
    stderr: str = ""
    error: str | None = None
    correct: float = 0.0
    format: float = 0.0
    reward: float = 0.0
    seconds: float = 0.0  # the script's own time; kept out of the rollout file (a clock decides it)


@dataclass
class Design:
    """One script for a question. outcome is set only when the check refused the script."""

    call: Call
    script: str | None = None
    pattern: str = "other"
    outcome: Outcome | None = None
    error: str | None = None
    executions: list[Execution] = field(default_factory=list)
    reward: float = 0.0


@dataclass
class Tree:
    """One question with its designs. step counts from 1; 0 means evaluation."""

    question: Question
    designs: list[Design]
    step: int = 0

    def to_json(self) -> dict[str, Any]:
        """The tree as plain JSON data, without anything a clock decides; its lists are shared."""
        data: dict[str, Any] = _plain(self)
        return data


def _plain(value: Any) -> Any:
    """Dataclasses as dicts. `dataclasses.asdict` copies every token id, which takes most of the
    time that writing a step down takes."""
    if isinstance(value, list):
        return [_plain(item) for item in value] if value and is_dataclass(value[0]) else value
    if is_dataclass(value):
        return {key: _plain(inner) for key, inner in vars(value).items() if key != "seconds"}
    return value
