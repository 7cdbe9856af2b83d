"""Runs scripts that a model wrote: the trainer's side of the sandbox.

    with Sandbox(Limits()) as sandbox:
        sandbox.start(Job(script, question))
        for event in sandbox.poll(None):  # CallRequest or Ended; again until idle
            ...

Nothing from a script is trusted (`sandbox_run.py`). Standard library only; no thread, no torch. One
process, the warm fork server, is started per `Sandbox`; it forks and confines one child per script
(`confine.py` says how well). A script's own time is wall time while it does not wait for the model.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import shutil
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, replace
from typing import Any

from mxa_lite.errors import RunError
from mxa_lite.mas.script import node_names
from mxa_lite.sandbox.child import MAX_LINE, path_key
from mxa_lite.sandbox.confine import LEVELS
from mxa_lite.sandbox.start import start_server
from mxa_lite.sandbox.wire import (
    CallRequest,
    CodeResult,
    Done,
    Ended,
    Job,
    Limits,
    Run,
    ToolRequest,
)
from mxa_lite.tree import Outcome

__all__ = ["CallRequest", "CodeResult", "Ended", "Job", "Limits", "Sandbox", "SandboxError"]

_OUTPUT_BYTES = 64 << 10  # of stdout, and of stderr, that are kept
_YOUNG = 0.05  # seconds in which a script that computes takes a core, as far as starts go
_CROWD = 8  # scripts that compute, per core: with more, time spent in the queue is better spent
_AWAY = 1.0  # seconds at most that are charged for a time in which nobody polls


class SandboxError(RunError):
    """The demanded level is not to be had, or the server does not start."""


class Sandbox:
    """A warm fork server and the scripts it runs; to be used from one thread at a time.

    level: the strongest of `confine.LEVELS` this machine gave. alive: scripts at once; more wait
    in a queue. at_most: the highest level to try. nodes: the text of a file of further node
    classes, which each script has too, and `node_names` their names. prompts: that of own prompts.
    Raises SandboxError below `require`, and where `nodes` is no Python.
    """

    def __init__(
        self,
        limits: Limits,
        require: str = LEVELS[0],
        *,
        alive: int = 512,
        at_most: str = LEVELS[-1],
        nodes: str = "",
        prompts: str = "",
    ) -> None:
        self.limits = limits
        self._own = {"nodes": nodes, "prompts": prompts}
        try:
            self.node_names = node_names(nodes)
        except SyntaxError as error:
            raise SandboxError(f"rollout.nodes line {error.lineno}: {error.msg}") from error
        self._alive = alive
        self._at_most = at_most
        self._cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 2
        self._selector = selectors.DefaultSelector()
        self._queue: deque[Run] = deque()
        self._runs: dict[int, Run] = {}  # started and not yet reaped
        self._ready: deque[Run] = deque()  # those of them that wait for their script
        self._channels: dict[int, tuple[socket.socket, bytearray]] = {}  # and what is to be sent
        self._events: list[CallRequest | Ended] = []
        self._jobs = 0
        self._left = time.monotonic()  # when somebody last polled
        self._open_server()
        if LEVELS.index(self.level) < LEVELS.index(require):
            self.close()
            raise SandboxError(f"this machine's sandbox level is {self.level}, not {require}")

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prepare(self, count: int) -> None:
        """Has processes started and confined for the next scripts, and does not wait for them."""
        for _ in range(min(count, self._alive - len(self._runs)) - len(self._ready)):
            run = Run(self._jobs, {}, self.limits, lambda ended, status: None)
            self._jobs += 1
            self._open(run)
            self._ready.append(run)

    def start(self, job: Job) -> int:
        """Queues a script; returns its number. Numbers grow, with programs between."""

        def done(ended: Ended, status: int) -> None:
            self._events.append(ended)

        spec = {**asdict(job), **self._own, "program": False}
        if not self._ready:
            return self._enqueue(spec, self.limits, done)
        run = self._ready.popleft()
        run.spec, run.done = spec, done
        run.started = run.since = time.monotonic()
        self._send(run, spec)
        return run.number

    def poll(self, timeout: float | None) -> list[CallRequest | Ended]:
        """New events, sorted by job and path.

        Blocks until there is one, or all scripts wait for replies, or the timeout (s) is over.
        """
        deadline = time.monotonic() + (math.inf if timeout is None else timeout)
        self._pump(0)
        while not self._events and not self.idle() and (rest := deadline - time.monotonic()) > 0:
            self._pump(rest)
        events, self._events = self._events, []
        return sorted(events, key=_event_key)

    def idle(self) -> bool:
        """Every live script waits for the model: none computes, starts or is being ended."""
        busy = (run.since is not None or run.verdict is not None for run in self._runs.values())
        return not self._startable() and not any(busy)

    def reply(self, job: int, call_id: int, text: str) -> None:
        """Answers a call. Nothing happens if the script has ended meanwhile.

        ValueError when the script did not make this call or already has its reply.
        """
        run = self._runs.get(job)
        if run is None or run.verdict is not None or run.ended:
            return
        if call_id not in run.pending:
            raise ValueError(f"job {job} does not wait for call {call_id}")
        run.pending.remove(call_id)
        run.replied += 1
        self._answer(run, call_id, text)

    def stop(self, job: int, outcome: Outcome, error: str | None = None) -> None:
        """Ends a started script with an outcome, for instance `token_budget`; `Ended` follows."""
        if job in self._runs:
            self._kill(self._runs[job], outcome, error or f"{outcome}: stopped")

    def run_codes(self, programs: list[tuple[str, str]]) -> list[CodeResult]:
        """Runs plain Python programs, pairs of (source, stdin), in the same confinement."""
        results: dict[int, CodeResult] = {}
        for index, (source, stdin) in enumerate(programs):

            def done(ended: Ended, status: int, index: int = index) -> None:
                results[index] = CodeResult.of(ended, status)

            self._enqueue(_program(source, stdin), self.limits, done)
        while len(results) < len(programs):
            self._pump(math.inf)
        return [results[index] for index in range(len(programs))]

    def close(self) -> None:
        """Ends every script and the server, and removes their folders."""
        if self._selector.get_map() is None:
            return  # closed already
        for run in [*self._runs.values()]:
            self._forget(run)
        self._queue.clear()
        self._close_server()
        self._selector.close()

    # starting

    def _enqueue(self, spec: dict[str, Any], limits: Limits, done: Done, owner: Any = None) -> int:
        run = Run(self._jobs, spec, limits, done, owner)
        self._jobs += 1
        # a tool goes first: the script that waits for it must not wait for others to end
        self._queue.append(run) if owner is None else self._queue.appendleft(run)
        self._launch()
        return run.number

    def _startable(self) -> bool:
        full = len(self._runs) >= self._alive
        return bool(self._queue) and (self._queue[0].owner is not None or not full)

    def _launch(self) -> None:
        """Starts queued scripts, as many at once as there are cores."""
        if not self._startable():
            return
        now = time.monotonic()
        ages = [
            now - run.started
            for run in self._runs.values()
            if run.since is not None and not run.tools
        ]
        free = min(
            self._cores - sum(age < _YOUNG for age in ages), _CROWD * self._cores - len(ages)
        )
        while self._startable() and free > 0:
            run = self._queue.popleft()
            run.started = run.since = now
            self._open(run)
            self._send(run, run.spec)
            free -= 1

    def _open(self, run: Run) -> None:
        """Has the server start a process for the run, which then waits for its first line."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._runs[run.number] = run
        self._channels[run.number] = (ours, bytearray())
        self._selector.register(ours, selectors.EVENT_READ, run)
        message = {"job": run.number, "owner": run.owner, "limits": asdict(run.limits)}
        self._tell(message, theirs)
        theirs.close()

    # the loop

    def _pump(self, wait: float) -> None:
        """Waits for something to happen, `wait` seconds at most, and handles it."""
        now = time.monotonic()
        for run in self._runs.values():
            if run.since is not None:
                run.since += max(0.0, now - max(run.since, self._left) - _AWAY)
                wait = min(wait, run.limits.seconds - run.seconds(now))
        wait = max(0.0, min(wait, _YOUNG / 5) if self._startable() else wait)
        for key, mask in self._selector.select(None if wait == math.inf else wait + 0.001):
            if key.data is None:
                self._read_control()
            elif key.data.number in self._runs:
                if mask & selectors.EVENT_WRITE:
                    self._flush(key.data)
                if mask & selectors.EVENT_READ:
                    self._read(key.data)
        self._left = time.monotonic()
        if self._left >= now + wait:
            for run in self._runs.values():
                if run.verdict is None and run.seconds(self._left) > run.limits.seconds:
                    error = f"timeout: {run.limits.seconds:g} s of own time"
                    self._kill(run, Outcome.TIMEOUT, error)
        self._launch()

    def _read(self, run: Run) -> bool:
        """Handles what a script sent; whether there may be more."""
        channel, _ = self._channels[run.number]
        try:
            data = channel.recv(1 << 18)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(channel)
            if not run.ended:  # it has closed its channel, or is dead: then this does no harm
                self._tell({"job": run.number})
            return False
        for request in run.feed(data, time.monotonic()):
            if isinstance(request, CallRequest):
                self._events.append(request)
            else:
                self._tool(run, request)
        if run.verdict is not None:
            self._kill(run, run.verdict, "")
        return True

    def _tool(self, run: Run, request: ToolRequest) -> None:
        """Runs a script's program on the script's own time."""
        if run.tool_runs > run.limits.max_calls:
            self._answer(run, request.id, "error: too many tool runs")
            return

        def done(ended: Ended, status: int) -> None:
            run.tools.discard(request.id)
            if run.number in self._runs and run.verdict is None:
                self._answer(run, request.id, CodeResult.of(ended, status).as_reply())

        rest = (run.limits.seconds - run.seconds(time.monotonic())) / 2  # so it can tell of it
        limits = replace(run.limits, seconds=rest)
        run.tools.add(request.id)
        self._enqueue(_program(request.code, ""), limits, done, run.number)

    def _read_control(self) -> None:
        try:
            data = self._control.recv(4096)
        except OSError:
            data = b""
        if data:
            message = json.loads(data)
            self._finish(self._runs[message["job"]], message["status"], message["reason"])
            return
        self._close_server()  # it is dead, out of memory perhaps; its scripts with it
        for run in [*self._runs.values()]:
            run.fail(Outcome.CRASHED, "the sandbox server died")
            self._finish(run, -9, None)
        self._open_server()

    # what is sent

    def _answer(self, run: Run, ident: int, text: str) -> None:
        run.sent += 1
        run.since = time.monotonic() if run.since is None else run.since
        self._send(run, {"id": ident, "reply": text[:MAX_LINE]})

    def _send(self, run: Run, line: dict[str, Any]) -> None:
        self._channels[run.number][1].extend(json.dumps(line).encode() + b"\n")
        self._flush(run)

    def _flush(self, run: Run) -> None:
        channel, unsent = self._channels[run.number]
        try:
            del unsent[: channel.send(unsent)]
        except BlockingIOError:
            pass
        except OSError:  # it has closed its channel
            return
        with contextlib.suppress(KeyError):
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0)
            if self._selector.get_key(channel).events != wanted:
                self._selector.modify(channel, wanted, run)

    def _tell(self, message: dict[str, Any], channel: socket.socket | None = None) -> None:
        with contextlib.suppress(OSError):  # a dead server is noticed where it is read
            fds = [] if channel is None else [channel.fileno()]
            socket.send_fds(self._control, [json.dumps(message).encode()], fds)

    # ending

    def _kill(self, run: Run, outcome: Outcome, error: str) -> None:
        run.fail(outcome, error)
        run.pause(time.monotonic())
        self._events = [event for event in self._events if event.job != run.number]
        self._tell({"job": run.number})

    def _finish(self, run: Run, status: int, reason: str | None) -> None:
        """The script is dead and reaped: reads what it left, decides the outcome, reports."""
        with contextlib.suppress(KeyError, ValueError):
            while self._selector.get_key(self._channels[run.number][0]) and self._read(run):
                pass
        run.pause(time.monotonic())
        self._events = [event for event in self._events if event.job != run.number]
        self._forget(run)
        self._queue = deque(waiting for waiting in self._queue if waiting.owner != run.number)
        outcome, error = run.outcome(status, reason)
        out, err = self._output(run, "out"), self._output(run, "err")
        message = run.message if outcome in (Outcome.OK, Outcome.NO_CALLS) else None
        wall = time.monotonic() - run.started
        ended = Ended(run.number, outcome, message, run.nodes, out, err, error, run.used, wall)
        run.done(ended, status)

    def _output(self, run: Run, name: str) -> str:
        path = os.path.join(self._folder, f"{run.number}.{name}")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # it may be anything, below Landlock
        with contextlib.suppress(OSError):  # killed before it was started
            with open(os.open(path, flags), "rb") as file:
                text = file.read(_OUTPUT_BYTES).decode("utf-8", "replace")
            os.unlink(path)
            return text
        return ""

    def _forget(self, run: Run) -> None:
        channel, _ = self._channels.pop(run.number)
        with contextlib.suppress(KeyError):
            self._selector.unregister(channel)
        channel.close()
        del self._runs[run.number]
        if not run.spec:  # dead before it had a script
            self._ready = deque(ready for ready in self._ready if ready is not run)

    # the server

    def _open_server(self) -> None:
        self._server, self._control = start_server(self._at_most)
        self._control.settimeout(60)
        hello = b""
        with contextlib.suppress(OSError):
            hello = self._control.recv(4096)
        self._control.settimeout(None)
        if not hello:
            self._server.kill()
            _, complaint = self._server.communicate()
            last = complaint.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise SandboxError(f"the sandbox server did not start: {' '.join(last)}")
        self.level, self._folder = json.loads(hello)
        self._selector.register(self._control, selectors.EVENT_READ, None)

    def _close_server(self) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(self._control)
        self._control.close()
        try:
            self._server.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)


def _program(source: str, stdin: str) -> dict[str, Any]:
    return {"source": source, "stdin": stdin, "program": True}


def _event_key(event: CallRequest | Ended) -> tuple[Any, ...]:
    if isinstance(event, Ended):
        return (event.job, 1)
    return (event.job, 0, path_key(event.path), event.number)
