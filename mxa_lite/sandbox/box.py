"""Runs scripts that a model wrote: the trainer's side of the sandbox.

    with Sandbox(Limits()) as sandbox:
        sandbox.start(Job(script, question))
        for event in sandbox.poll(None):  # CallRequest or Ended; again until idle
            ...

Nothing from a script is trusted (`run.py`). Standard library only; no thread, no torch. One
process, the warm fork server, is started per `Sandbox`; it forks and confines one child per script
(`confine.py` says how well). A script's own time is wall time while it does not wait for the model,
and, as far as its limit goes, not for a core of a busy machine.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import selectors
import socket
import time
from collections import deque
from dataclasses import replace
from typing import Any

from mxa_lite import wire
from mxa_lite.mas.script import node_names
from mxa_lite.sandbox.confine import LEVELS
from mxa_lite.sandbox.process import SandboxError, ServerProcess
from mxa_lite.sandbox.run import Done, Ended, Limits, Run
from mxa_lite.tree import Outcome, path_key
from mxa_lite.wire import Call as CallRequest
from mxa_lite.wire import Script as Job

__all__ = ["CallRequest", "Ended", "Job", "Limits", "Sandbox", "SandboxError"]

_SPARE = 64  # file handles that are left to others; a script takes one, and one for its tool


class Sandbox:
    """A warm fork server and the scripts it runs; to be used from one thread at a time.

    level: the strongest of `confine.LEVELS` this machine gave. alive: scripts at once, fewer where
    file handles are scarce; more wait in a queue. at_most: the highest level to try. nodes: text of
    a file of further node classes, which every script has too; `node_names` are their names.
    prompts: that of a file of own prompts. Raises SandboxError below `require`.
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
        self._own_nodes, self._own_prompts = nodes, prompts
        self.node_names = node_names(nodes)
        handles = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - len(os.listdir("/dev/fd"))
        self._alive = max(1, min(alive, (handles - _SPARE) // 2))
        self._at_most = at_most
        self._selector = selectors.DefaultSelector()
        self._queue: deque[Run] = deque()
        self._runs: dict[int, Run] = {}  # started and not yet reaped
        self._ready: deque[Run] = deque()  # those of them that wait for their script
        self._channels: dict[int, tuple[socket.socket, bytearray]] = {}  # and what is to be sent
        self._events: list[CallRequest | Ended] = []
        self._jobs = 0
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
            run = Run(self._jobs, None, self.limits)
            self._jobs += 1
            self._open(run)
            self._ready.append(run)

    def start(self, job: Job) -> int:
        """Queues a script; returns its number. Numbers grow, with programs between."""
        spec = job._replace(nodes=self._own_nodes, prompts=self._own_prompts)
        if not self._ready:
            return self._enqueue(spec, self.limits)
        run = self._ready.popleft()
        run.spec, run.since = spec, time.monotonic()
        self._send(run, spec)
        return run.number

    def poll(self, timeout: float | None) -> list[CallRequest | Ended]:
        """New events, sorted by job and path; waits for one, `timeout` s at most, unless idle."""
        deadline = time.monotonic() + (math.inf if timeout is None else timeout)
        self._pump(0)
        while not self._events and not self.idle() and (rest := deadline - time.monotonic()) > 0:
            self._pump(rest)
        events, self._events = self._events, []
        return sorted(events, key=_order)

    def idle(self) -> bool:
        """Every live script waits for the model: none computes, starts or is being ended."""
        runs = self._runs.values()
        busy = (run.since is not None or run.verdict is not None or run.dead for run in runs)
        return not self._startable() and not any(busy)

    def reply(self, job: int, call_id: int, text: str) -> None:
        """Answers a call. Nothing happens if the script has ended meanwhile.

        ValueError when the script did not make this call or already has its reply.
        """
        run = self._runs.get(job)
        if run is None or run.over():
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

    def run_codes(self, programs: list[tuple[str, str]]) -> list[Ended]:
        """Runs plain Python programs, pairs of (source, stdin), in the same confinement."""
        ended: list[Ended] = []
        for source, stdin in programs:
            self._enqueue(wire.Program(source, stdin), self.limits, ended.append)
        while len(ended) < len(programs):
            self._pump(math.inf)
        return sorted(ended, key=lambda program: program.job)

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

    def _enqueue(
        self,
        spec: wire.Script | wire.Program,
        limits: Limits,
        done: Done | None = None,
        owner: int | None = None,
    ) -> int:
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
        while self._startable():
            run = self._queue.popleft()
            run.since = time.monotonic()
            self._open(run)
            if run.spec is not None:
                self._send(run, run.spec)

    def _open(self, run: Run) -> None:
        """Has the server start a process for the run, which then waits for its first line."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._runs[run.number] = run
        self._channels[run.number] = (ours, bytearray())
        self._selector.register(ours, selectors.EVENT_READ, run)
        limits = run.limits.seconds, run.limits.memory_mb, run.limits.disk_mb
        self.server.tell(wire.Start(run.number, run.owner, *limits), theirs)
        theirs.close()

    # the loop

    def _pump(self, wait: float) -> None:
        """Waits for something to happen, `wait` seconds at most, and handles it."""
        now = time.monotonic()
        for run in self._runs.values():
            if run.since is not None and run.pid is not None:
                wait = min(wait, run.limits.seconds - run.seconds(now))
        wait = max(0.0, wait)
        for key, mask in self._selector.select(None if wait == math.inf else wait + 0.001):
            if key.data is None:
                self._read_control()
            elif key.data.number in self._runs:
                if mask & selectors.EVENT_WRITE:
                    self._flush(key.data)
                if mask & selectors.EVENT_READ:
                    self._read(key.data)
        if (later := time.monotonic()) >= now + wait:
            for run in self._runs.values():
                if run.verdict is None and run.late(later):
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
                self.server.tell(wire.Kill(run.number))
            return False
        for request in run.feed(data, time.monotonic()):
            if isinstance(request, CallRequest):
                self._events.append(request)
            else:
                self._tool(run, request)
        if run.verdict is not None:
            self._kill(run, run.verdict, "")
        return True

    def _tool(self, run: Run, tool: wire.Tool) -> None:
        """Runs a script's program on the script's own time."""
        if run.tool_runs > run.limits.max_calls:
            self._answer(run, tool.id, "error: too many tool runs")
            return

        def done(ended: Ended) -> None:
            run.tools.discard(tool.id)
            if run.number in self._runs and not run.over():
                self._answer(run, tool.id, ended.as_reply())

        rest = (run.limits.seconds - run.seconds(time.monotonic())) / 2  # so it can tell of it
        limits = replace(run.limits, seconds=rest)
        run.tools.add(tool.id)
        self._enqueue(wire.Program(tool.code, ""), limits, done, run.number)

    def _read_control(self) -> None:
        message: wire.Started | wire.Dead | wire.Gone | None = self.server.receive()
        if message is None:  # it is dead, out of memory perhaps; its scripts with it
            self._close_server()
            for run in [*self._runs.values()]:
                run.fail(Outcome.CRASHED, "the sandbox server died")
                self._finish(run, -9, None)
            self._open_server()
            return
        run = self._runs[message.job]
        if isinstance(message, wire.Gone):
            self._finish(run, message.status, message.reason)
        elif isinstance(message, wire.Started):
            run.pid, run.since = message.pid, run.since and time.monotonic()  # its time begins
        else:  # the time that removing its folder takes is not its own
            run.pause(time.monotonic())
            run.dead = True

    # what is sent

    def _answer(self, run: Run, ident: int, text: str) -> None:
        run.sent += 1
        run.since = time.monotonic() if run.since is None else run.since
        self._send(run, wire.Reply(ident, text[: wire.MAX_LINE]))

    def _send(self, run: Run, line: wire.Script | wire.Program | wire.Reply) -> None:
        self._channels[run.number][1].extend(wire.encode(line) + b"\n")
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
            writing = selectors.EVENT_WRITE if unsent else 0
            self._selector.modify(channel, selectors.EVENT_READ | writing, run)

    # ending

    def _kill(self, run: Run, outcome: Outcome, error: str) -> None:
        run.fail(outcome, error)
        run.pause(time.monotonic())
        self._events = [event for event in self._events if event.job != run.number]
        self.server.tell(wire.Kill(run.number))

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
        ended = Ended(run.number, outcome, status, message, run.nodes, out, err, error, run.used)
        if run.done is not None:
            run.done(ended)
        elif run.spec:  # else it was prepared and died before it had a script
            self._events.append(ended)

    def _output(self, run: Run, name: str) -> str:
        path = os.path.join(self.server.folder, f"{run.number}.{name}")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # it may be anything, below Landlock
        with contextlib.suppress(OSError):  # killed before it was started
            with open(os.open(path, flags), "rb") as file:
                text = file.read(run.limits.output_kb << 10).decode("utf-8", "replace")
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

    def _open_server(self) -> None:
        self.server = ServerProcess(self._at_most)
        self.level = self.server.level
        self._selector.register(self.server.control, selectors.EVENT_READ, None)

    def _close_server(self) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(self.server.control)
        self.server.close()


def _order(event: CallRequest | Ended) -> tuple[Any, ...]:
    """By job, whose end is not told together with calls of it; its calls by path and number."""
    if isinstance(event, Ended):
        return (event.job,)
    return event.job, path_key(event.path), event.number
