"""The warm fork server: started once per `Sandbox`, forks one confined process per script.

Started as `python -S -s -B -P sandbox_server.py SOCKET LEVEL` with an environment of its own (not
`-I`, which would ignore the fixed hash seed in it). It imports what scripts need, forks, reaps,
polls disk and threads, and removes folders. It never sees a script, a message or an answer: those
travel between the parent and the child, so nothing of one script is in the memory of another.

Control messages are JSON in packets. From the parent: {"start": job, "limits": […]} with three
descriptors (channel, stdout, stderr), {"kill": job}. To the parent: {"level", "folder"} once, then
{"ended": job, "status", "reason"}. It ends, and all its children with it, when the parent is gone.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import json
import os
import secrets
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
from dataclasses import dataclass

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
_PRELOADED = """abc ast asyncio base64 bisect calendar cmath collections concurrent.futures copy
csv ctypes dataclasses datetime decimal enum fractions functools hashlib heapq html inspect io
itertools json logging math numbers operator pathlib pprint queue random re statistics string
textwrap threading time traceback types typing unicodedata uuid"""
_MAX_THREADS = 256
_ENTRY_BYTES = 4096  # a file without content takes room too
_TICK = 0.05


@dataclass
class _Child:
    job: int
    folder: str
    disk_bytes: int
    reason: str | None = None  # why the server killed it
    untouched: int | None = None  # time stamp of the folder while nothing was ever made in it


def _remove(folder: str) -> None:
    """Removes a dead script's folder; follows no link, minds no depth and no missing right.

    Folders inside are first moved up beside each other, so nothing here recurses.
    """
    if os.path.islink(folder):
        os.unlink(folder)
        return
    todo, tag = [folder], secrets.token_hex(8)
    moved = itertools.count()
    while todo:
        os.chmod(todo[-1], 0o700)
        here = os.open(todo[-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            with os.scandir(here) as entries:
                inner = [(e.name, e.is_dir(follow_symlinks=False)) for e in entries]
            for name, is_folder in inner:
                if is_folder:
                    os.chmod(name, 0o700, dir_fd=here)
                    todo.append(os.path.join(folder, f"{tag}-{next(moved)}"))
                    os.rename(name, todo[-1], src_dir_fd=here)
                else:
                    os.unlink(name, dir_fd=here)
        finally:
            os.close(here)
        if not any(is_folder for _, is_folder in inner):
            os.rmdir(todo.pop())


def _usage(folder: str, enough: int) -> int:
    """Bytes under a folder, up to `enough`; a folder the server cannot look into is enough."""
    total, todo = 0, [folder]
    while todo and total < enough:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    info = entry.stat(follow_symlinks=False)
                    total += info.st_blocks * 512 + _ENTRY_BYTES
                    if stat.S_ISDIR(info.st_mode):
                        todo.append(entry.path)
                    if total >= enough:
                        break
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError:  # no right, or too deep a path: nothing an honest script makes
            return enough
    return total


def _unlinked(pid: int) -> int:
    """Bytes of files that a process has removed but keeps open (Linux)."""
    total = 0
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                info = os.stat(f"/proc/{pid}/fd/{name}")
                if info.st_nlink == 0 and stat.S_ISREG(info.st_mode):
                    total += info.st_blocks * 512 + _ENTRY_BYTES
    return total


def _parents() -> dict[int, int]:
    """Every process and its parent (Linux)."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else []):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
            found[int(name)] = int(file.read().rpartition(")")[2].split()[1])
    return found


class Server:
    """Forks and reaps; one loop, one thread."""

    def __init__(self, control: socket.socket, at_most: str) -> None:
        from mxa_lite import confine

        self._confine = confine
        self._control = control
        self._parent = os.getppid()
        self._children: dict[int, _Child] = {}
        self._next_look = 0.0
        if sys.platform == "linux":
            confine.adopt_orphans()
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("900")  # short of memory, the kernel ends a script and not the trainer
        self._confiner = confine.Confiner(at_most)
        self._folder = tempfile.mkdtemp(prefix="mxa-lite-")
        self._wake, write = os.pipe()
        os.set_blocking(write, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._send({"level": self._confiner.level(), "folder": self._folder})

    def run(self) -> None:
        """Serves until the parent closes the control socket or is gone."""
        try:
            while os.getppid() == self._parent:
                wait = max(0.0, self._next_look - time.monotonic()) if self._children else 1.0
                ready, _, _ = select.select([self._control, self._wake], [], [], wait)
                if self._wake in ready:
                    os.read(self._wake, 4096)
                self._reap()
                if self._control in ready and not self._receive():
                    return
                if self._children and time.monotonic() >= self._next_look:
                    self._look()
        finally:
            for pid in self._children:
                os.kill(pid, signal.SIGKILL)
            while self._children:
                self._reap(block=True)
            self._sweep()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, message: dict[str, object]) -> None:
        with contextlib.suppress(OSError):  # the parent is gone: the loop sees that itself
            self._control.send(json.dumps(message).encode())

    def _receive(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, 4096, 3)
        except OSError:
            return False
        if not data:
            return False
        message = json.loads(data)
        if "kill" in message:
            for pid, child in self._children.items():
                if child.job == message["kill"]:
                    os.kill(pid, signal.SIGKILL)
        else:
            self._start(message["start"], message["limits"], fds)
            for fd in fds:
                os.close(fd)
        return True

    def _start(self, job: int, limits: list[float], fds: list[int]) -> None:
        folder = os.path.join(self._folder, str(job))
        os.mkdir(folder, 0o700)
        seconds, memory_mb, disk_mb = limits[0], int(limits[1]), int(limits[2])
        tasks = 0 if self._confiner.seccomp else len(_parents())
        me = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._become_child(me, folder, fds)
                self._confiner.enter(folder, memory_mb, disk_mb, seconds, tasks)
                os.closerange(4, 1024)
                from mxa_lite import sandbox_child

                sandbox_child.main(folder)
            except BaseException:  # nothing may come back into the server's loop
                traceback.print_exc()
            finally:
                os._exit(1)
        self._children[pid] = _Child(job, folder, disk_mb << 20)
        self._next_look = self._next_look or time.monotonic() + _TICK

    def _become_child(self, server: int, folder: str, fds: list[int]) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if sys.platform == "linux":
            self._confine.die_with_parent()
        if os.getppid() != server:
            os._exit(1)
        os.setsid()
        os.umask(0o077)
        os.chdir(folder)
        channel, out, err = (os.dup(fd) for fd in fds)
        for source, target in ((out, 1), (err, 2), (channel, 3)):
            os.dup2(source, target)

    def _reap(self, block: bool = False) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, 0 if block else os.WNOHANG)
            except ChildProcessError:
                self._children.clear()
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is not None:
                if not self._confiner.seccomp:
                    with contextlib.suppress(OSError):
                        os.killpg(pid, signal.SIGKILL)
                    self._sweep()
                with contextlib.suppress(OSError):  # the rest goes when the server ends
                    _remove(child.folder)
                code = os.waitstatus_to_exitcode(status)
                self._send({"ended": child.job, "status": code, "reason": child.reason})
            if block and not self._children:
                return

    def _sweep(self) -> None:
        """Ends processes that a dead script left behind: orphans became children of the server."""
        while sys.platform == "linux":
            ours = [p for p, parent in _parents().items() if parent == os.getpid()]
            strays = [pid for pid in ours if pid not in self._children]
            killed = []
            for pid in strays:
                os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    killed.append(os.waitpid(pid, 0))
            if not killed:
                return

    def _look(self) -> None:
        """Ends scripts with too much on disk or too many threads. Takes 5 % of a core at most."""
        start = time.monotonic()
        for pid, child in self._children.items():
            over = self._over(pid, child)
            if over and child.reason is None:
                child.reason = over
                os.kill(pid, signal.SIGKILL)
        now = time.monotonic()
        self._next_look = now + max(_TICK, 20 * (now - start))

    def _over(self, pid: int, child: _Child) -> str | None:
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}/task").st_nlink - 2 > _MAX_THREADS:
                return f"more than {_MAX_THREADS} threads"
            changed = os.stat(child.folder).st_mtime_ns
            if changed == child.untouched:
                return None
            used = _usage(child.folder, child.disk_bytes) + _unlinked(pid)
            # the file system's clock is coarse; below seccomp a script can set the time itself
            sure = self._confiner.seccomp and time.time_ns() - changed > 50_000_000
            if used or child.untouched is not None:
                child.untouched = 0
            elif sure:
                child.untouched = changed
            if used >= child.disk_bytes:
                return f"more than {child.disk_bytes >> 20} MB on disk"
        return None


def main() -> None:
    """Takes the control socket's number and the highest level to try from the command line."""
    control = socket.socket(fileno=int(sys.argv[1]))
    if control.fileno() != 3:
        os.dup2(0, 3)  # taken, so that no handle a child needs lies where its channel will be
    sys.path.insert(0, os.path.dirname(_PACKAGE))
    for name in [*_PRELOADED.split(), "mxa_lite.sandbox_child", "mxa_lite.mas"]:
        importlib.import_module(name)
    sys.path.pop(0)
    threading.stack_size(1 << 20)  # so that a few hundred threads fit into the memory limit
    server = Server(control, sys.argv[2])
    gc.freeze()  # a collection in a child leaves the shared pages alone
    server.run()


if __name__ == "__main__":
    main()
