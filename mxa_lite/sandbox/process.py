"""The warm fork server as a process: started in an environment that holds nothing of the trainer's,
told what to start and to kill, and asked what has ended."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from typing import Any

from mxa_lite import wire
from mxa_lite.errors import RunError

_PACKAGES = ("numpy", "sympy", "mpmath")  # programs may import them where they are installed


class SandboxError(RunError):
    """The demanded level is not to be had, or the server does not start."""


def _packages() -> list[str]:
    """Folders of the packages, and of the libraries that a wheel puts beside its package."""
    specs = [importlib.util.find_spec(name) for name in _PACKAGES]
    folders = [place for s in specs if s for place in s.submodule_search_locations or ()]
    return [
        path for folder in folders for path in (folder, f"{folder}.libs") if os.path.isdir(path)
    ]


class ServerProcess:
    """level: the confinement it gives its scripts; folder: where they and their output lie.

    at_most: the highest level to try. Raises SandboxError when it does not start.
    """

    def __init__(self, at_most: str) -> None:
        kind = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
        self.control, theirs = socket.socketpair(socket.AF_UNIX, kind)
        here = os.path.dirname(os.path.abspath(__file__))
        program = os.path.join(here, "server.py")
        number, nothing = theirs.fileno(), subprocess.DEVNULL
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-s", "-B", "-P", program, str(number), at_most, *_packages()],
            env={
                "PATH": "/usr/bin:/bin",
                "LC_ALL": "C.UTF-8",
                "PYTHONPATH": os.path.dirname(os.path.dirname(here)),
                "PYTHONHASHSEED": "0",  # of all scripts: a forked interpreter cannot change it
                "MALLOC_ARENA_MAX": "1",  # else every thread takes 64 MB of the memory limit
                "TMPDIR": tempfile.gettempdir(),
            },
            cwd="/",
            pass_fds=[number],
            stdin=nothing,
            stdout=nothing,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        theirs.close()
        self.control.settimeout(60)
        ready: wire.Ready | None = self.receive()
        self.control.settimeout(None)
        if ready is None:
            self.process.kill()
            _, complaint = self.process.communicate()
            last = complaint.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise SandboxError(f"the sandbox server did not start: {' '.join(last)}")
        self.level, self.folder = ready.level, ready.folder

    def tell(self, message: wire.Start | wire.Kill, channel: socket.socket | None = None) -> None:
        """Sends a control message, with a script's end of its channel."""
        with contextlib.suppress(OSError):  # a dead server is noticed where it is read
            fds = [] if channel is None else [channel.fileno()]
            socket.send_fds(self.control, [wire.encode(message)], fds)

    def receive(self) -> Any:
        """The next control message; None from a server that is dead or does not speak."""
        with contextlib.suppress(OSError):
            if data := self.control.recv(4096):
                return wire.decode(data)
        return None

    def close(self) -> None:
        """Ends it and its scripts, and removes their folders."""
        self.control.close()
        try:
            self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)
