"""The warm fork server: started once per `Sandbox`, forks one confined process per script.

Started as `python -S -s -B -P server.py SOCKET LEVEL PACKAGE...` with an environment of its own
(not `-I`, which would ignore the fixed hash seed in it). It imports what scripts need, forks,
reaps, polls disk and threads, and removes folders. It never sees a script, a message or an answer:
those travel between the trainer and the child; so nothing of a script is in another's memory. It
ends, and all its children with it, when the trainer is gone.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mxa_lite import wire
from mxa_lite.sandbox import child as sandbox_child
from mxa_lite.sandbox.confine import Confiner

_PRELOADED = """abc ast asyncio base64 bisect calendar cmath collections concurrent.futures copy
csv ctypes dataclasses datetime decimal enum fractions functools hashlib heapq html inspect io
itertools json logging math numbers operator pathlib pprint queue random re statistics string
textwrap threading time traceback types typing unicodedata uuid"""
_MAX_THREADS = 256
_ENTRY_BYTES = 4096  # a file without content takes room too
_REMOVE = 'chmod -R u+rwx "$0" 2>/dev/null; rm -rf "$0"'
_TICK = 0.05  # seconds between two looks at disk and threads


@dataclass
class _Child:
    job: int
    folder: str
    disk_mb: int
    owner: int | None  # the job whose tool it is
    reason: str | None = None  # why the server killed it


def _usage(paths: list[str], enough: int) -> int:
    """Bytes of files and folders, up to `enough`; what cannot be looked into is enough."""
    total = 0
    while paths and total < enough:
        try:
            path = paths.pop()
            info = os.stat(path, follow_symlinks="/fd/" in path)
            total += info.st_blocks * 512 + _ENTRY_BYTES
            if stat.S_ISDIR(info.st_mode):
                with os.scandir(path) as entries:
                    paths += [entry.path for entry in entries]
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError:  # no right, or too deep a path: nothing an honest script makes
            return enough
    return total


def _unlinked(pid: int) -> list[str]:
    """Files that a process has removed but keeps open (Linux)."""
    folder, removed = f"/proc/{pid}/fd", list[str]()
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if os.readlink(f"{folder}/{name}").endswith(" (deleted)"):
                removed.append(f"{folder}/{name}")
    return removed


def _processes() -> dict[int, int]:
    """Every process and its parent (Linux)."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc") if sys.platform == "linux" else []):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
            parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
    return parents


class Server:
    """Forks and reaps; one loop, one thread."""

    def __init__(self, control: socket.socket, at_most: str, packages: list[str]) -> None:
        sandbox_child.prepare()
        self._control = control
        self._parent = os.getppid()
        self._children: dict[int, _Child] = {}
        self._removers: dict[int, wire.Gone] = {}  # and what is reported when they are done
        self._outbox: deque[bytes] = deque()
        self._next_look = 0.0
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("900")  # short of memory, the kernel ends a script and not the trainer
        self._folder = tempfile.mkdtemp(prefix="mxa-lite-")
        links = os.path.join(self._folder, sandbox_child.PACKAGES)
        os.mkdir(links)
        for package in packages:
            os.symlink(package, os.path.join(links, os.path.basename(package)))
        self._confiner = Confiner(at_most, [links, *packages])
        self._wake, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._send(wire.Ready(self._confiner.level, self._folder))

    def run(self) -> None:
        """Serves until the trainer closes the control socket or is gone."""
        reading: list[Any] = [self._control, self._wake]
        try:
            while os.getppid() == self._parent:
                wait = max(0.0, self._next_look - time.monotonic()) if self._children else 1.0
                writing: list[Any] = [self._control] if self._outbox else []
                ready, _, _ = select.select(reading, writing, [], wait)
                if self._wake in ready:
                    os.read(self._wake, 4096)
                self._reap(os.WNOHANG)
                if self._control in ready and not self._receive():
                    break
                if self._children and time.monotonic() >= self._next_look:
                    self._look()
                self._push()
        finally:
            for pid in (*self._children, *self._removers):
                os.kill(pid, signal.SIGKILL)
            self._reap(0)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, message: wire.Ready | wire.Started | wire.Dead | wire.Gone) -> None:
        self._outbox.append(wire.encode(message))
        self._push()

    def _push(self) -> None:
        """Sends without waiting, else a busy trainer and this process could wait for each other."""
        with contextlib.suppress(OSError):
            while self._outbox:
                self._control.send(self._outbox[0], socket.MSG_DONTWAIT)
                self._outbox.popleft()

    def _receive(self) -> bool:
        data, fds = b"", list[int]()
        with contextlib.suppress(OSError):
            data, fds, _, _ = socket.recv_fds(self._control, 4096, 1)
        if not data:
            return False
        message: wire.Start | wire.Kill = wire.decode(data)
        if isinstance(message, wire.Kill):
            for pid in self._pids(lambda child: child.job == message.job):
                os.kill(pid, signal.SIGKILL)
        elif message.owner is None or self._pids(lambda child: child.job == message.owner):
            self._start(message, fds[0])
        else:  # its script has ended meanwhile
            self._send(wire.Gone(message.job, -signal.SIGKILL, None))
        for fd in fds:
            os.close(fd)
        return True

    def _pids(self, condition: Callable[[_Child], bool]) -> list[int]:
        return [pid for pid, child in self._children.items() if condition(child)]

    def _start(self, start: wire.Start, channel: int) -> None:
        folder = os.path.join(self._folder, str(start.job))
        os.mkdir(folder, 0o700)
        me, tasks = os.getpid(), 0 if self._confiner.seccomp else len(_processes())
        pid = os.fork()
        if pid == 0:
            try:
                self._confiner.belong_to(me)
                for name, number in (("out", 1), ("err", 2)):
                    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                    os.dup2(os.open(f"{folder}.{name}", flags, 0o600), number)
                os.dup2(channel, 3)
                os.chdir(folder)
                self._confiner.enter(folder, start, tasks)
                os.closerange(5, 1024)
                sandbox_child.main(folder)
            except OSError:  # the kernel refused a step of the confinement
                traceback.print_exc()
            finally:  # nothing may come back into the server's loop
                os._exit(1)
        self._children[pid] = _Child(start.job, folder, start.disk_mb, start.owner)
        self._send(wire.Started(start.job, pid))

    def _reap(self, options: int) -> None:
        with contextlib.suppress(ChildProcessError):  # there is none left
            while (ended := os.waitpid(-1, options)) != (0, 0):
                if ended[0] in self._children:
                    self._bury(*ended)
                elif ended[0] in self._removers:  # else an orphan that was adopted
                    self._send(self._removers.pop(ended[0]))

    def _bury(self, pid: int, status: int) -> None:
        """Reports a dead child once nothing of it is left. Many files take seconds to remove, so a
        process does that while this one serves the other scripts."""
        child = self._children.pop(pid)
        for tool in self._pids(lambda other: other.owner == child.job):
            os.kill(tool, signal.SIGKILL)
            self._bury(*os.waitpid(tool, 0))
        if not self._confiner.seccomp:
            self._sweep(pid)
        code = os.waitstatus_to_exitcode(status)
        gone = wire.Gone(child.job, code, child.reason)
        try:
            os.rmdir(child.folder)
            self._send(gone)
        except OSError:  # it is not empty
            self._send(wire.Dead(child.job))
            self._removers[self._removing(child.folder)] = gone

    def _removing(self, folder: str) -> int:
        """Starts a process that removes a folder; minds no depth and no missing right."""
        if os.path.islink(folder):  # by a script below Landlock; what it leads to stays
            os.unlink(folder)
        return os.posix_spawn("/bin/sh", ["sh", "-c", _REMOVE, folder], {"PATH": "/usr/bin:/bin"})

    def _sweep(self, group: int) -> None:
        """Ends processes that a dead script left behind: orphans became children of the server."""
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)
        while True:
            ours = [pid for pid, parent in _processes().items() if parent == os.getpid()]
            strays = [pid for pid in ours if pid not in {*self._children, *self._removers}]
            if not strays:
                return
            for pid in strays:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _look(self) -> None:
        """Ends scripts with too much on disk or too many threads; takes about 5 % of a core."""
        start = time.monotonic()
        for pid, child in self._children.items():
            child.reason = child.reason or self._excess(pid, child)
            if child.reason:
                os.kill(pid, signal.SIGKILL)
        now = time.monotonic()
        self._next_look = now + min(1.0, max(_TICK, 20 * (now - start)))

    def _excess(self, pid: int, child: _Child) -> str | None:
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}/task").st_nlink - 2 > _MAX_THREADS:
                return f"more than {_MAX_THREADS} threads"
        paths = [child.folder, f"{child.folder}.out", f"{child.folder}.err", *_unlinked(pid)]
        if _usage(paths, child.disk_mb << 20) >= child.disk_mb << 20:
            return f"more than {child.disk_mb} MB on disk"
        return None


def main() -> None:
    """Takes the control socket's number and the highest level to try from the command line."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for number in {3, 4} - {control.fileno()}:
        os.dup2(0, number)  # taken, so that no handle a child needs lies where its own will be
    for name in [*_PRELOADED.split(), "mxa_lite.mas.script"]:
        importlib.import_module(name)
    sys.path.pop(0)  # the kit's folder
    threading.stack_size(1 << 20)  # so that a few hundred threads fit into the memory limit
    server = Server(control, sys.argv[2], sys.argv[3:])
    for name in ("PYTHONPATH", "PYTHONHASHSEED", "MALLOC_ARENA_MAX"):  # not for scripts
        del os.environ[name]
    gc.freeze()  # a collection in a child leaves the shared pages alone
    server.run()


if __name__ == "__main__":
    main()
