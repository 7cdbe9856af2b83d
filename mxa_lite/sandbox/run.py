"""One script as the trainer's side sees it: its lines checked, its calls counted, its time kept.

No process and no socket here: `Run.feed` takes bytes, whatever they are, and never raises.
"""

from __future__ import annotations

import contextlib
import math
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mxa_lite import wire
from mxa_lite.sandbox.child import OUT_OF_MEMORY
from mxa_lite.tree import NodeRecord, Outcome

_WIRE_BYTES = 16 << 20  # all that one script may send
_MAX_LINES = 10_000
_MAX_NODES = 1000
_NAME = 200  # characters of an agent's name or a path
_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Limits:
    """Per script. seconds: own time; disk_mb: over all its files, with what it prints; output_kb:
    of stdout, and of stderr, that are kept."""

    seconds: float = 10
    memory_mb: int = 512
    disk_mb: int = 64
    max_calls: int = 32
    output_kb: int = 64


@dataclass(frozen=True)
class Ended:
    """How a script ended, or a program: `ok`, `crashed`, `timeout` or `memory`.

    exit_code is negative for a signal; 0 alone does not say that a program ran to its last line.
    message: the answering message, as sent; seconds: its own time.
    """

    job: int
    outcome: Outcome
    exit_code: int
    message: str | None
    nodes: list[NodeRecord]
    stdout: str
    stderr: str
    error: str | None
    seconds: float

    def as_reply(self) -> str:
        """What a script's tool returns, of a program."""
        if self.outcome is Outcome.OK:
            return self.stdout
        last = self.stderr.strip().splitlines()[-1:] or [str(self.outcome)]
        return f"{self.stdout}error: {last[0]}"


Done = Callable[[Ended], None]


class _Broken(Exception):
    """A line is not what the client sends."""


def _text(value: Any, limit: int = wire.MAX_LINE) -> str:
    """A string of the script, fit for UTF-8 files."""
    if not isinstance(value, str):
        raise _Broken("a text is missing")
    return value[:limit].encode("utf-8", "replace").decode("utf-8")


def _optional(value: Any, limit: int = wire.MAX_LINE) -> str | None:
    return None if value is None else _text(value, limit)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _Broken("a list is missing")
    return value


def _messages(value: wire.Messages) -> wire.Messages:
    if not 0 < len(_list(value)) <= 1000 or any(m["role"] not in _ROLES for m in value):
        raise _Broken("messages are no chat")
    return [{"role": m["role"], "content": _text(m["content"])} for m in value]


def _temperature(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _Broken("a temperature is no number")
    return min(max(float(value), 0.0), 5.0)


def _node(value: NodeRecord) -> NodeRecord:
    return {
        "name": _text(value["name"], _NAME),
        "kind": _text(value["kind"], _NAME),
        "path": _text(value["path"], _NAME),
        "parents": [_text(parent, _NAME) for parent in _list(value["parents"])[:100]],
        "output": _optional(value["output"]),
        "error": _optional(value["error"]),
    }


def _queued(pid: int) -> float:
    """Seconds for which a process could run and had no core (Linux; 0 elsewhere).

    Source: https://docs.kernel.org/scheduler/sched-stats.html, /proc/<pid>/schedstat.
    """
    with (
        contextlib.suppress(OSError, ValueError, IndexError),
        open(f"/proc/{pid}/schedstat") as file,
    ):
        return int(file.read().split()[1]) / 1e9
    return 0.0


@dataclass
class Run:
    """A queued or started script or program, or a process prepared for one."""

    number: int
    spec: wire.Script | wire.Program | None  # the first line it is sent
    limits: Limits
    done: Done | None = None  # None: its end is an event
    owner: int | None = None  # of a tool: the script that asked for it
    pid: int | None = None  # once it is started
    used: float = 0.0
    queued: float = 0.0  # that was given back
    since: float | None = None  # the clock runs since then; None while it waits for the model
    verdict: Outcome | None = None  # decided before it ended by itself: it is being killed
    error: str | None = None
    message: str | None = None
    nodes: list[NodeRecord] = field(default_factory=list)
    calls: int = 0
    replied: int = 0  # calls that got their reply
    sent: int = 0  # replies of any kind
    pending: set[int] = field(default_factory=set)  # ids of calls without a reply
    tools: set[int] = field(default_factory=set)  # ids of tool requests without a reply
    tool_runs: int = 0
    ended: bool = False  # it has told its end
    dead: bool = False  # only its folder is still there
    _unread: bytearray = field(default_factory=bytearray)
    _received: int = 0
    _lines: int = 0
    _numbers: Counter[str] = field(default_factory=Counter)

    def seconds(self, now: float) -> float:
        return self.used + (max(0.0, now - self.since) if self.since is not None else 0.0)

    def late(self, now: float) -> bool:
        """Whether its own time is over. Time for which it waited for a core is given back."""
        if self.pid is None or self.seconds(now) <= self.limits.seconds:
            return False
        waited = _queued(self.pid)
        self.used -= waited - self.queued
        self.queued = waited
        return self.seconds(now) > self.limits.seconds

    def over(self) -> bool:
        """It needs no replies any more."""
        return self.verdict is not None or self.ended or self.dead

    def pause(self, now: float) -> None:
        self.used, self.since = self.seconds(now), None

    def fail(self, outcome: Outcome, error: str) -> None:
        """Decides the outcome, unless it is decided already."""
        if self.verdict is None:
            self.verdict, self.error = outcome, error

    def feed(self, data: bytes, now: float) -> list[wire.Call | wire.Tool]:
        """Takes what the script sent; returns its valid requests.

        Anything else than the client's lines makes it `crashed`, one call too many `call_budget`:
        of such a round nothing is returned, so nothing is generated for it.
        """
        requests: list[wire.Call | wire.Tool] = []
        self._unread += data if self._open() else b""
        self._received += len(data)
        try:
            while self._open() and (end := self._unread.find(b"\n")) >= 0:
                self._lines += 1
                if end > wire.MAX_LINE or self._lines > _MAX_LINES:
                    raise _Broken("too much")
                line = bytes(self._unread[:end])
                del self._unread[: end + 1]
                requests += self._line(wire.decode(line), now)
            if len(self._unread) > wire.MAX_LINE or self._received > _WIRE_BYTES:
                raise _Broken("too much")
        except (_Broken, LookupError, TypeError, ValueError, RecursionError) as error:
            self.fail(Outcome.CRASHED, f"broken protocol: {error}"[:_NAME])
        return requests if self._open() else []

    def _open(self) -> bool:
        return self.verdict is None and not self.ended

    def _line(self, line: wire.FromScript, now: float) -> list[wire.Call | wire.Tool]:
        if isinstance(line, wire.Call | wire.Tool):
            if type(line.id) is not int or line.id in self.pending or line.id in self.tools:
                raise _Broken("a request without an id of its own")
            if not isinstance(self.spec, wire.Script):
                raise _Broken("a program has no agents and no tools")
            if isinstance(line, wire.Call):
                return self._call(line)
            self.tool_runs += 1
            return [wire.Tool(line.id, _text(line.code))]
        if isinstance(line, wire.Wait):
            # older than our last reply, or with nothing to wait for: it computes
            if line.seen == self.sent and self.pending and not self.tools:
                self.pause(now)
        elif isinstance(line, wire.Node):
            self.nodes += [_node(line.node)] if len(self.nodes) < _MAX_NODES else []
        elif isinstance(line, wire.Answer):
            message = _text(line.message)
            self.message = message if self.message is None else self.message
        elif isinstance(line, wire.End):
            self.error = _optional(line.error, 2000)
            self.ended = True
        else:
            raise _Broken("an unknown line")
        return []

    def _call(self, line: wire.Call) -> list[wire.Call | wire.Tool]:
        agent, path = _text(line.agent, _NAME), _text(line.path, _NAME)
        messages, warmth = _messages(line.messages), _temperature(line.temperature)
        if self.calls >= self.limits.max_calls:
            self.fail(Outcome.CALL_BUDGET, f"call budget: more than {self.calls} calls")
            return []
        self.calls += 1
        self.pending.add(line.id)
        number = self._numbers[path]
        self._numbers[path] += 1
        return [wire.Call(line.id, agent, path, messages, warmth, self.number, number)]

    def outcome(self, status: int, reason: str | None) -> tuple[Outcome, str | None]:
        """Why the dead script ended, and its last line.

        status: exit code, negative for a signal; reason: why the server killed it, if it did.
        """
        if self.verdict is not None:
            return self.verdict, self.error
        if reason is not None:
            return Outcome.MEMORY, reason
        if self.error is not None:
            memory = self.error.startswith("MemoryError")
            return Outcome.MEMORY if memory else Outcome.CRASHED, self.error
        if status == -signal.SIGXCPU:
            return Outcome.TIMEOUT, "timeout: processor time"
        if status == OUT_OF_MEMORY:
            return Outcome.MEMORY, "MemoryError"
        if status != 0:
            return Outcome.CRASHED, f"the process ended with status {status}"
        if isinstance(self.spec, wire.Program):  # it neither calls nor answers
            return Outcome.OK, None
        if self.message is None or not self.ended:
            return Outcome.NO_ANSWER, None
        return Outcome.OK if self.replied else Outcome.NO_CALLS, None
