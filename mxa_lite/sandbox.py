"""Runs scripts that a model wrote: the trainer's side of the sandbox.

    with Sandbox(Limits()) as sandbox:
        sandbox.start(Job(script, question))
        for event in sandbox.poll(None):  # CallRequest or Ended, until idle
            ...

Nothing from a script is trusted: lines are capped, types checked, calls counted here, the first
answer wins. Standard library only; no thread, no torch. One process, the warm fork server, is
started per `Sandbox`; it forks and confines one child per script (`confine.py` says how well).

A script's own time is wall time while it does not wait for the model. It is measured when `poll`
runs; what a script did while the caller was away from `poll` counts only if it still computes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mxa_lite.confine import LEVELS
from mxa_lite.sandbox_child import MAX_LINE, OUT_OF_MEMORY, path_key
from mxa_lite.tree import Outcome

OUTPUT_BYTES = 64 << 10  # of stdout, and of stderr, that are kept
_WIRE_BYTES = 16 << 20  # all a script may send
_MAX_NODES = 1000
_NAME = 200  # characters of an agent's name or a path
_YOUNG = 0.05  # seconds in which a script that computes holds back the start of others
_ROLES = ("system", "user", "assistant", "tool")


class SandboxError(Exception):
    """The demanded level is not to be had, or the server does not start."""


@dataclass(frozen=True)
class Limits:
    """Per script. seconds: own time; disk_mb: over all its files."""

    seconds: float = 10
    memory_mb: int = 512
    disk_mb: int = 64
    max_calls: int = 32


@dataclass(frozen=True)
class Job:
    """A script to run. kind: "math" or "code". seed: of the script's `random`."""

    source: str
    question: str
    kind: str = "math"
    seed: int = 0


@dataclass(frozen=True)
class CallRequest:
    """A call that waits for a reply. number: how often this path has called before, from 0."""

    job: int
    id: int
    agent: str
    path: str
    number: int
    messages: list[dict[str, str]]
    temperature: float | None


@dataclass(frozen=True)
class Ended:
    """How a script ended. message: the answering message, as sent; seconds: its own time."""

    job: int
    outcome: Outcome
    message: str | None
    nodes: list[dict[str, Any]]
    stdout: str
    stderr: str
    error: str | None
    seconds: float


@dataclass(frozen=True)
class CodeResult:
    """How a plain program ended. exit_code is negative for a signal.

    finished: it ran past its last line, which exit code 0 alone does not say (`sys.exit(0)`).
    outcome: ok, crashed, timeout or memory.
    """

    stdout: str
    stderr: str
    exit_code: int
    outcome: Outcome
    finished: bool


class _Broken(Exception):
    """A script's line is not what the client sends."""


@dataclass
class _Run:
    """A started or queued job, as the parent sees it."""

    number: int
    spec: dict[str, Any]
    limits: Limits
    done: Callable[[_Run, Ended, int], None]
    channel: socket.socket | None = None
    outputs: list[int] = field(default_factory=list)  # read ends of stdout and stderr
    texts: list[bytearray] = field(default_factory=lambda: [bytearray(), bytearray()])
    unread: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    received: int = 0
    started: float = 0.0
    used: float = 0.0
    since: float | None = None  # the clock runs since then; None while it waits for the model
    calls: int = 0
    tool_runs: int = 0
    replied: int = 0  # model calls that got their reply
    sent: int = 0  # replies of any kind
    pending: set[int] = field(default_factory=set)  # ids of calls without a reply
    tools: dict[int, int] = field(default_factory=dict)  # tool id -> the program's job
    numbers: Counter[str] = field(default_factory=Counter)
    verdict: Outcome | None = None  # decided here; the script is being killed
    error: str | None = None
    message: str | None = None
    nodes: list[dict[str, Any]] = field(default_factory=list)
    ended: bool = False  # it has told its end
    finished: bool = False

    def seconds(self, now: float) -> float:
        """Own time so far."""
        return self.used + (max(0.0, now - self.since) if self.since is not None else 0.0)

    def pause(self, now: float) -> None:
        self.used = self.seconds(now)
        self.since = None


def _text(value: Any, limit: int = MAX_LINE) -> str:
    """A string of the script, fit for UTF-8 files."""
    if not isinstance(value, str):
        raise _Broken("a text is missing")
    return value[:limit].encode("utf-8", "replace").decode("utf-8")


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not 0 < len(value) <= 1000:
        raise _Broken("messages are no list")
    for message in value:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise _Broken("a message without a role")
    return [{"role": m["role"], "content": _text(m.get("content"))} for m in value]


def _temperature(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _Broken("a temperature is no number")
    return min(max(float(value), 0.0), 5.0)


def _node(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not isinstance(value.get("parents", []), list):
        raise _Broken("a node is no record")
    node: dict[str, Any] = {k: _text(value.get(k), _NAME) for k in ("name", "kind", "path")}
    node["parents"] = [_text(parent, _NAME) for parent in value.get("parents", [])[:100]]
    for key in ("output", "error"):
        node[key] = None if value.get(key) is None else _text(value[key])
    return node


class Sandbox:
    """A warm fork server and the scripts it runs. A context manager; not for many threads.

    level: the strongest of `confine.LEVELS` this machine gave. alive: scripts at once; more wait
    in a queue. at_most: the highest level to try. Raises SandboxError below `require`.
    """

    def __init__(
        self,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        require: str = "rlimits",
        *,
        alive: int = 1024,
        at_most: str = LEVELS[-1],
    ) -> None:
        self.limits = limits
        self._alive = alive
        self._at_most = at_most
        self._cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 2
        self._selector = selectors.DefaultSelector()
        self._queue: deque[_Run] = deque()
        self._runs: dict[int, _Run] = {}  # started and not yet reaped
        self._events: list[CallRequest | Ended] = []
        self._jobs = 0
        self._left = time.monotonic()  # when poll last returned
        self._now = self._left
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 4 * alive + 256 if hard == resource.RLIM_INFINITY else min(hard, 4 * alive + 256)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        self._open_server()
        if LEVELS.index(self.level) < LEVELS.index(require):
            self.close()
            raise SandboxError(
                f"sandbox.require is {require!r}, but this machine gives {self.level!r} at most"
            )

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # the seam: start, poll, idle, reply, stop, close

    def start(self, job: Job) -> int:
        """Queues a script and returns its number, counted from 0 with programs between."""
        return self._enqueue({**asdict(job), "program": False}, self.limits, self._report)

    def poll(self, timeout: float | None) -> list[CallRequest | Ended]:
        """New events, sorted by job and path.

        Blocks until there is one, or all scripts wait for replies, or the timeout (s) is over.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._pump(0, self._left)
        while not self._events and not self.idle():
            rest = None if deadline is None else deadline - time.monotonic()
            if rest is not None and rest <= 0:
                break
            self._pump(rest)
        events, self._events = self._events, []
        self._left = time.monotonic()
        return sorted(events, key=_event_key)

    def idle(self) -> bool:
        """Every live script waits for the model: none computes, starts or is being ended."""
        if self._queue and len(self._runs) < self._alive:
            return False
        return all(run.since is None and run.verdict is None for run in self._runs.values())

    def reply(self, job: int, call_id: int, text: str) -> None:
        """Answers a call. Nothing happens if the script has ended meanwhile.

        ValueError when the script did not make this call or already has its reply.
        """
        run = self._runs.get(job)
        if run is None or run.verdict is not None:
            return
        if call_id not in run.pending:
            raise ValueError(f"job {job} does not wait for call {call_id}")
        run.pending.remove(call_id)
        run.replied += 1
        self._answer(run, call_id, text)

    def stop(self, job: int, outcome: Outcome) -> None:
        """Ends a script with an outcome, for instance `token_budget`; `Ended` follows."""
        run = self._runs.get(job)
        if run is not None:
            self._end(run, outcome, f"{outcome}: stopped")
            return
        for run in [run for run in self._queue if run.number == job]:
            self._queue.remove(run)
            run.verdict = outcome
            self._finish(run, 0, None)

    def run_codes(self, programs: list[tuple[str, str]]) -> list[CodeResult]:
        """Runs plain Python programs, pairs of (source, stdin), in the same confinement."""
        results: dict[int, CodeResult] = {}

        def done(run: _Run, ended: Ended, status: int) -> None:
            results[run.number] = _code_result(run, ended, status)

        numbers = [self._program(source, stdin, self.limits, done) for source, stdin in programs]
        self._pump(0, self._left)
        while any(number not in results for number in numbers):
            self._pump(None)
        self._left = time.monotonic()
        return [results[number] for number in numbers]

    def close(self) -> None:
        """Ends every script and the server, and removes their folders."""
        for run in [*self._runs.values()]:
            self._forget(run)
        self._runs.clear()
        self._queue.clear()
        self._close_server()
        self._selector.close()

    # starting

    def _enqueue(
        self, spec: dict[str, Any], limits: Limits, done: Callable[[_Run, Ended, int], None]
    ) -> int:
        number = self._jobs
        self._jobs += 1
        self._queue.append(_Run(number, spec, limits, done))
        self._launch()
        return number

    def _program(
        self, source: str, stdin: str, limits: Limits, done: Callable[[_Run, Ended, int], None]
    ) -> int:
        nonce = os.urandom(16).hex()  # the program does not know it, so it cannot claim its end
        spec = {"source": source, "stdin": stdin, "program": True, "nonce": nonce}
        return self._enqueue(spec, limits, done)

    def _launch(self) -> None:
        """Starts queued scripts, as many at once as there are cores."""
        now = time.monotonic()
        young = sum(r.since is not None and now - r.started < _YOUNG for r in self._runs.values())
        while self._queue and young < self._cores and len(self._runs) < self._alive:
            self._begin(self._queue.popleft(), now)
            young += 1

    def _begin(self, run: _Run, now: float) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        run.channel = ours
        pipes = [os.pipe(), os.pipe()]
        run.outputs = [read for read, _ in pipes]
        run.started = run.since = now
        self._runs[run.number] = run
        limits = [run.limits.seconds, run.limits.memory_mb, run.limits.disk_mb]
        request = json.dumps({"start": run.number, "limits": limits}).encode()
        fds = [theirs.fileno(), *(write for _, write in pipes)]
        with contextlib.suppress(OSError):  # a dead server is seen in _pump
            socket.send_fds(self._control, [request], fds)
        theirs.close()
        for index, (read, write) in enumerate(pipes):
            os.close(write)
            os.set_blocking(read, False)
            self._selector.register(read, selectors.EVENT_READ, (run, index))
        self._selector.register(ours, selectors.EVENT_READ, (run, None))
        self._send(run, {"nonce": None, **run.spec})

    # the loop

    def _pump(self, timeout: float | None, as_of: float | None = None) -> None:
        """Handles what is there, after waiting for it; own time is charged up to `as_of`."""
        for key, mask in self._selector.select(self._patience(timeout)):
            self._now = as_of if as_of is not None else time.monotonic()
            if key.data is None:
                self._read_control()
                continue
            run, index = key.data
            if run.number not in self._runs:
                continue  # gone with an event of this round
            if index is not None:
                self._read_output(run, index)
                continue
            if mask & selectors.EVENT_WRITE:
                self._flush(run)
            if mask & selectors.EVENT_READ:
                self._read_channel(run)
        self._now = time.monotonic()
        for run in [*self._runs.values()]:
            if run.verdict is None and run.seconds(self._now) > run.limits.seconds:
                self._end(run, Outcome.TIMEOUT, f"timeout: {run.limits.seconds:g} s of own time")
        self._launch()

    def _patience(self, timeout: float | None) -> float | None:
        now = time.monotonic()
        live = [run for run in self._runs.values() if run.verdict is None and run.since is not None]
        waits = [run.limits.seconds - run.seconds(now) + 0.001 for run in live]
        waits += [] if timeout is None else [timeout]
        waits += [_YOUNG / 5] if self._queue and len(self._runs) < self._alive else []
        return max(0.0, min(waits)) if waits else None

    def _read_output(self, run: _Run, index: int) -> None:
        try:
            data = os.read(run.outputs[index], 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(run.outputs[index])
            return
        text = run.texts[index]
        text += data[: OUTPUT_BYTES - len(text)]

    def _read_channel(self, run: _Run) -> None:
        assert run.channel is not None
        try:
            data = run.channel.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(run.channel)
            if not run.ended and run.verdict is None:
                self._kill(run)  # it has closed its channel, or is gone
            return
        run.unread += data
        run.received += len(data)
        try:
            while (end := run.unread.find(b"\n")) >= 0:
                line = bytes(run.unread[:end])
                del run.unread[: end + 1]
                if run.verdict is None and not run.ended:
                    self._handle(run, line)
            if len(run.unread) > MAX_LINE or run.received > _WIRE_BYTES:
                raise _Broken("too much")
        except (_Broken, ValueError, RecursionError) as error:
            self._end(run, Outcome.CRASHED, f"broken protocol: {error}"[:_NAME])

    def _read_control(self) -> None:
        try:
            data = self._control.recv(4096)
        except OSError:
            data = b""
        if not data:
            self._restart()
            return
        message = json.loads(data)
        run = self._runs.get(message["ended"])
        if run is not None:
            self._finish(run, message["status"], message["reason"])

    # what a script says

    def _handle(self, run: _Run, data: bytes) -> None:
        if len(data) > MAX_LINE:
            raise _Broken("a line is too long")
        line = json.loads(data)
        if not isinstance(line, dict):
            raise _Broken("a line is no object")
        match line.get("t"):
            case "call":
                self._call(run, line)
            case "wait":
                # older than our last reply, or with nothing to wait for: it computes
                if line.get("seen") == run.sent and run.pending and not run.tools:
                    run.pause(self._now)
            case "tool":
                self._tool(run, line)
            case "node":
                if len(run.nodes) < _MAX_NODES:
                    run.nodes.append(_node(line.get("node")))
            case "answer":
                message = _text(line.get("message"))
                run.message = message if run.message is None else run.message
            case "end":
                run.error = None if line.get("error") is None else _text(line["error"], 2000)
                run.finished = line.get("nonce") == run.spec.get("nonce")
                run.ended = True
            case other:
                raise _Broken(f"unknown line {other!r}")

    def _fresh_id(self, run: _Run, line: dict[str, Any]) -> int:
        ident = line.get("id")
        if type(ident) is not int or ident in run.pending or ident in run.tools:
            raise _Broken("a request without an own id")
        return ident

    def _call(self, run: _Run, line: dict[str, Any]) -> None:
        if run.spec["program"]:
            raise _Broken("a program does not call")
        ident = self._fresh_id(run, line)
        agent, path = _text(line.get("agent"), _NAME), _text(line.get("path"), _NAME)
        messages, temperature = _messages(line.get("messages")), _temperature(line["temperature"])
        if run.calls >= run.limits.max_calls:
            self._drop_calls(run)  # of the round that is one too many nothing is generated
            error = f"call_budget: more than {run.limits.max_calls} calls"
            self._end(run, Outcome.CALL_BUDGET, error)
            return
        run.calls += 1
        number = run.numbers[path]
        run.numbers[path] += 1
        run.pending.add(ident)
        request = CallRequest(run.number, ident, agent, path, number, messages, temperature)
        self._events.append(request)

    def _tool(self, run: _Run, line: dict[str, Any]) -> None:
        if run.spec["program"]:
            raise _Broken("a program has no tools")
        ident, code = self._fresh_id(run, line), _text(line.get("code"))
        run.tool_runs += 1
        if run.tool_runs > run.limits.max_calls:
            self._answer(run, ident, "error: too many tool runs")
            return

        def done(program: _Run, ended: Ended, status: int) -> None:
            run.tools.pop(ident, None)
            if run.number in self._runs and run.verdict is None:
                self._answer(run, ident, _tool_reply(_code_result(program, ended, status)))

        rest = max(0.1, run.limits.seconds - run.seconds(self._now))  # a tool uses its time
        run.tools[ident] = self._program(code, "", replace(run.limits, seconds=rest), done)

    def _answer(self, run: _Run, ident: int, text: str) -> None:
        run.sent += 1
        if run.since is None:
            run.since = time.monotonic()
        text = text[: MAX_LINE // 8].encode("utf-8", "replace").decode("utf-8")
        self._send(run, {"id": ident, "reply": text})

    # what a script is sent

    def _send(self, run: _Run, line: dict[str, Any]) -> None:
        run.unsent += json.dumps(line).encode() + b"\n"
        self._flush(run)

    def _flush(self, run: _Run) -> None:
        channel = run.channel
        if channel is None:
            return
        try:
            del run.unsent[: channel.send(run.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            run.unsent.clear()  # it has closed its channel
        with contextlib.suppress(KeyError):  # unregistered: it has closed its channel
            writing = selectors.EVENT_WRITE if run.unsent else 0
            key = self._selector.get_key(channel)
            if key.events != selectors.EVENT_READ | writing:
                self._selector.modify(channel, selectors.EVENT_READ | writing, key.data)

    # ending

    def _end(self, run: _Run, outcome: Outcome, error: str) -> None:
        if run.verdict is None:
            run.verdict, run.error = outcome, error
            self._kill(run)

    def _kill(self, run: _Run) -> None:
        for number in run.tools.values():
            tool = self._runs.get(number)
            if tool is not None:
                self._end(tool, Outcome.CRASHED, "its script has ended")
        self._queue = deque(r for r in self._queue if r.number not in run.tools.values())
        with contextlib.suppress(OSError):
            self._control.send(json.dumps({"kill": run.number}).encode())

    def _drop_calls(self, run: _Run) -> None:
        self._events = [event for event in self._events if event.job != run.number]

    def _finish(self, run: _Run, status: int, reason: str | None) -> None:
        """The script is dead and reaped: reads what it left, decides the outcome, reports."""
        self._now = time.monotonic()
        for index in range(len(run.outputs)):
            with contextlib.suppress(KeyError):
                self._selector.get_key(run.outputs[index])
                self._read_output(run, index)
        if run.channel is not None and run.verdict is None:
            for _ in range(8):
                with contextlib.suppress(KeyError):
                    self._selector.get_key(run.channel)
                    self._read_channel(run)
        run.pause(self._now)
        self._forget(run)
        self._drop_calls(run)
        outcome, error = _outcome(run, status, reason)
        texts = [bytes(text).decode("utf-8", "replace") for text in run.texts]
        message = run.message if outcome in (Outcome.OK, Outcome.NO_CALLS) else None
        ended = Ended(run.number, outcome, message, run.nodes, *texts, error, run.used)
        run.done(run, ended, status)

    def _report(self, run: _Run, ended: Ended, status: int) -> None:
        self._events.append(ended)

    def _forget(self, run: _Run) -> None:
        self._runs.pop(run.number, None)
        for handle in [*run.outputs, *([run.channel] if run.channel else [])]:
            with contextlib.suppress(KeyError):
                self._selector.unregister(handle)
        for read in run.outputs:
            os.close(read)
        if run.channel is not None:
            run.channel.close()
        run.outputs, run.channel = [], None

    # the server

    def _open_server(self) -> None:
        kind = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
        self._control, theirs = socket.socketpair(socket.AF_UNIX, kind)
        server = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sandbox_server.py")
        environment = {
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "PYTHONHASHSEED": "0",  # of all scripts: a forked interpreter cannot change it
            "MALLOC_ARENA_MAX": "1",  # else every thread takes 64 MB of the memory limit
            "OMP_NUM_THREADS": "1",
            "TMPDIR": tempfile.gettempdir(),
        }
        number = str(theirs.fileno())
        self._server = subprocess.Popen(
            [sys.executable, "-S", "-s", "-B", "-P", server, number, self._at_most],
            env=environment,
            cwd="/",
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        theirs.close()
        self._control.settimeout(30)
        try:
            hello = json.loads(self._control.recv(4096) or b"{}")
        except OSError:
            hello = {}
        if not hello:
            self._server.kill()
            _, complaint = self._server.communicate()
            last = complaint.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise SandboxError(f"the sandbox server did not start: {' '.join(last)}")
        self._control.settimeout(None)
        self.level: str = hello["level"]
        self._folder: str = hello["folder"]
        self._selector.register(self._control, selectors.EVENT_READ, None)

    def _close_server(self) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(self._control)
        self._control.close()
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        if self._server.stderr is not None:
            self._server.stderr.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _restart(self) -> None:
        """The server is dead (out of memory?): its scripts have crashed, a new one takes over."""
        self._close_server()
        self._open_server()
        for run in [*self._runs.values()]:
            self._end(run, Outcome.CRASHED, "the sandbox server died")
            self._finish(run, -9, None)


def _event_key(event: CallRequest | Ended) -> tuple[Any, ...]:
    if isinstance(event, Ended):
        return (event.job, 1)
    return (event.job, 0, path_key(event.path), event.number)


def _outcome(run: _Run, status: int, reason: str | None) -> tuple[Outcome, str | None]:
    """Why a dead script ended, and its last line. status: exit code, negative for a signal."""
    if run.verdict is not None:
        return run.verdict, run.error
    if reason is not None:
        return Outcome.MEMORY, reason
    if run.error is not None:
        memory = run.error.startswith("MemoryError")
        return (Outcome.MEMORY if memory else Outcome.CRASHED), run.error
    if run.ended and status == 0:
        if run.message is None:
            return Outcome.NO_ANSWER, None
        return (Outcome.OK if run.replied else Outcome.NO_CALLS), None
    if status == 0:
        return Outcome.NO_ANSWER, "the process left before the script ended"
    if status == -24:  # SIGXCPU
        return Outcome.TIMEOUT, "timeout: processor time"
    if status == OUT_OF_MEMORY:
        return Outcome.MEMORY, "MemoryError"
    if status == -9 and not run.ended:
        return Outcome.CRASHED, "the process closed its channel or was killed"
    return Outcome.CRASHED, f"the process ended with status {status}"


def _code_result(run: _Run, ended: Ended, status: int) -> CodeResult:
    outcome = ended.outcome
    if outcome in (Outcome.NO_ANSWER, Outcome.NO_CALLS, Outcome.OK):
        outcome = Outcome.OK
    return CodeResult(ended.stdout, ended.stderr, status, outcome, run.ended and run.finished)


def _tool_reply(result: CodeResult) -> str:
    if result.outcome is Outcome.OK:
        return result.stdout
    last = result.stderr.strip().splitlines()[-1:] or [str(result.outcome)]
    return f"{result.stdout}error: {last[0]}"


def run_code(
    source: str,
    stdin: str = "",
    limits: Limits = Limits(),
    require: str = "rlimits",  # noqa: B008
) -> CodeResult:
    """One plain Python program in a sandbox of its own; `Sandbox.run_codes` is for many."""
    with Sandbox(limits, require) as sandbox:
        return sandbox.run_codes([(source, stdin)])[0]
