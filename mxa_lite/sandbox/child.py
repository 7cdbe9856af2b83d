"""Inside a script's process: talks to the parent, batches calls, runs the script.

Standard library only. Runs confined, after the fork; whatever a script does to this module harms
only its own process. `mxa_lite/wire.py` says what is sent.

A call is held until every registered thread of the script is blocked; then all held calls go out
in the order of their paths, and one `wait`. So the parent sees whole rounds, whatever the threads'
timing, and knows when the script computes and when it waits.
"""

from __future__ import annotations

import atexit
import builtins
import gc
import linecache
import os
import random
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Sequence
from typing import Any

from mxa_lite import wire
from mxa_lite.tree import NodeRecord, path_key

CHANNEL = 3  # the file descriptor of the wire
TASKS = 4  # the file descriptor of this process's threads in /proc
_OWN = {"nodes.py": "rollout.nodes", "prompts.py": "prompts"}  # and the keys that name them
_FILES = ("script.py", "program.py", *_OWN)  # names of the source in tracebacks
PACKAGES = "packages"  # the folder beside those of scripts that programs may import from
OUT_OF_MEMORY = 77  # exit status when not even the end could be reported

_Held = tuple[tuple[tuple[int, int, str], ...], int, bytes, int]


class Client:
    """The wire as `mas` sees it. Calls block; threads made by `spawn` are counted, others are
    watched. ValueError for what is longer than a line of the wire may be."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._unread = b""
        self._held: list[_Held] = []
        self._replies: dict[int, str] = {}
        self._registered = {threading.get_ident()}
        self._counted: set[int] = set()  # ids of requests made by registered threads
        self._running = 1  # registered threads that are not blocked in a request
        self._seen = 0
        self._requests = 0
        self._reading = False
        self._watched = False

    def call(
        self, agent: str, path: str, number: int, messages: wire.Messages, temperature: float | None
    ) -> str:
        return self._ask(wire.Call(0, agent, path, messages, temperature), number)

    def tool(self, code: str) -> str:
        return self._ask(wire.Tool(0, code), 0)

    def node(self, record: NodeRecord) -> None:
        self._send(wire.Node(record))

    def answer(self, message: str) -> None:
        self._send(wire.Answer(message))

    def end(self, error: str | None) -> None:
        self._send(wire.End(error))

    def spawn(self, functions: Sequence[Callable[[], Any]]) -> list[Any]:
        """Runs the functions in registered threads; results or exceptions, in order."""
        results: list[Any] = [None] * len(functions)
        left = len(functions)

        def finish() -> None:
            nonlocal left
            with self._change:
                left -= 1
                # the caller counts again from the moment its last thread is done
                self._running += int(left == 0) - 1
                self._settle()

        def work(index: int) -> None:
            me = threading.get_ident()
            with self._change:
                self._registered.add(me)
            try:
                results[index] = functions[index]()
            except BaseException as error:  # the script's own, for the caller to raise
                results[index] = error
            finally:
                with self._change:
                    self._registered.discard(me)
                finish()

        threads = [threading.Thread(target=work, args=(i,)) for i in range(left)]
        if not threads:
            return results
        with self._change:
            self._running += left - 1
        for index, thread in enumerate(threads):
            try:
                thread.start()
            except RuntimeError as error:  # no room for another thread
                results[index] = error
                finish()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        return results

    def _ask(self, line: wire.Call | wire.Tool, number: int) -> str:
        """number: of the calls of one path, by which they are sorted."""
        with self._change:
            self._requests += 1
            ident = self._requests
            data = _line(line._replace(id=ident))
            registered = threading.get_ident() in self._registered
            if registered:
                self._counted.add(ident)
                self._running -= 1
            if isinstance(line, wire.Call):
                self._held.append((path_key(line.path), number, data, ident))
            else:
                self._write(data)
            self._settle()
            if isinstance(line, wire.Call) and not registered:
                self._watch()
            return self._receive(ident)

    def _settle(self) -> None:
        """With the lock held: every registered thread is blocked, so the round is complete."""
        if self._running <= 0:
            self._flush()

    def _flush(self) -> None:
        lines = [data for _, _, data, _ in sorted(self._held)]
        self._held.clear()
        self._write(b"".join(lines) + _line(wire.Wait(self._seen)))

    def _watch(self) -> None:
        """A thread the script made itself asks: no count tells when the others are blocked (in a
        join, a future, an event loop), so the round is complete when the kernel says they sleep."""
        if self._watched:
            return
        self._watched = True
        calm, used = 0, 0.0
        while self._held and calm < 20:
            self._change.wait(0.005)
            before, used = used, time.process_time() - time.thread_time()
            asleep = _others_sleep()
            still = used - before < 0.0005 and asleep is not False
            calm = calm + (10 if asleep else 1) if still else 0
        if self._held:
            self._flush()
        self._watched = False

    def _receive(self, ident: int) -> str:
        """With the lock held: one waiting thread reads for all of them."""
        while ident not in self._replies:
            if self._reading:
                self._change.wait()
                continue
            self._reading = True
            self._change.release()
            try:
                line: wire.Reply = self._read_line()
            finally:
                self._change.acquire()
                self._reading = False
                self._change.notify_all()
            self._seen += 1
            self._replies[line.id] = line.reply
            self._running += int(line.id in self._counted)
        return self._replies.pop(ident)

    def _read_line(self) -> Any:
        parts = [self._unread]
        while b"\n" not in parts[-1]:
            chunk = os.read(CHANNEL, 1 << 16)
            if not chunk:
                os._exit(1)  # the parent is gone
            parts.append(chunk)
        line, _, self._unread = b"".join(parts).partition(b"\n")
        return wire.decode(line)

    def _send(self, line: wire.FromScript) -> None:
        data = _line(line)
        with self._change:
            self._write(data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(CHANNEL, view) :]


def _others_sleep() -> bool | None:
    """Whether all other threads of this process are blocked; None where that cannot be seen."""
    try:
        for thread in {int(name) for name in os.listdir(TASKS)} - {threading.get_native_id()}:
            stat = os.open(f"{thread}/stat", os.O_RDONLY, dir_fd=TASKS)
            state = os.read(stat, 500).rpartition(b")")[2][1:2]
            os.close(stat)
            if state != b"S":
                return False
    except OSError:
        return None
    return True


def _line(message: wire.FromScript) -> bytes:
    data = wire.encode(message) + b"\n"
    if len(data) > wire.MAX_LINE:
        raise ValueError(f"a message of {len(data)} bytes, more than the {wire.MAX_LINE} allowed")
    return data


def _run_program(source: str, stdin: str, packages: str) -> None:
    """A plain Python program, as `python program.py` would run it; it may import what lies in the
    folder `packages` too."""
    with tempfile.TemporaryFile() as file:  # not a pipe: it holds input of any length
        file.write(stdin.encode("utf-8", "replace"))
        file.seek(0)
        os.dup2(file.fileno(), 0)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.path.append(packages)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each of its threads would take memory of the limit
    linecache.cache["program.py"] = (len(source), None, source.splitlines(True), "program.py")
    sys.set_int_max_str_digits(0)  # the memory limit is limit enough
    try:
        exec(compile(source, "program.py", "exec", dont_inherit=True), module.__dict__)
    finally:  # an interpreter's own end: what is still to be printed is the program's output
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        del module, sys.modules["__main__"]
        gc.collect()  # runs each `__del__`


def prepare() -> None:
    """In the server, before the fork: streams written line by line, `exit` and `quit`."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        errors = "backslashreplace" if number else "replace"
        stream = os.fdopen(number, "w" if number else "r", 1, "utf-8", errors, closefd=False)
        vars(sys).update({name: stream, f"__{name}__": stream})
    vars(builtins).update(exit=sys.exit, quit=sys.exit)


def _complain(crash: BaseException) -> str:
    """Prints the traceback from the script's own first line on; returns its last line."""
    trace = crash.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename not in _FILES:
        trace = trace.tb_next
    crash.__traceback__ = trace or crash.__traceback__
    traceback.print_exception(crash)
    last = "".join(traceback.format_exception_only(crash)).strip().splitlines()[-1]
    if isinstance(crash, SyntaxError):
        file, line = crash.filename, crash.lineno
    else:
        file, line = (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace else ("", 0)
    return f"{_OWN[file]} line {line}: {last}" if file in _OWN else last


def main(folder: str) -> None:
    """Reads the job, runs it, reports its end; never returns."""
    os.environ.update(HOME=folder, TMPDIR=folder)
    tempfile.tempdir = None  # the server's
    client = Client()
    job: wire.Script | wire.Program = client._read_line()
    error: str | None = None
    status = 0
    vars(sys).update({key: [f"{type(job).__name__.lower()}.py"] for key in ("argv", "orig_argv")})
    try:
        if isinstance(job, wire.Program):
            random.seed(0)
            _run_program(job.source, job.stdin, os.path.join(folder, "..", PACKAGES))
        else:
            from mxa_lite.mas import script as mas

            arguments = job.question, job.kind, client, job.seed, job.nodes, job.prompts
            mas.run_script(job.source, *arguments)
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        error = f"SystemExit: {leaving.code}" if status else None
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
    except BaseException as crash:  # the script's code: whatever it raises is its outcome
        status = 1
        try:
            error = _complain(crash)
        except MemoryError:
            status = OUT_OF_MEMORY
    try:
        sys.stdout.flush()
        client.end(None if error is None else error[:2000])
    except MemoryError:
        status = OUT_OF_MEMORY
    finally:
        os._exit(status & 0xFF)  # threads still running end here
