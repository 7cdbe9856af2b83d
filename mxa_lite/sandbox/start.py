"""Starts the warm fork server, in an environment that holds nothing of the trainer's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile


def start_server(at_most: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The server's process and our end of its control socket; its first packet says how it is."""
    kind = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    server = os.path.join(os.path.dirname(os.path.abspath(__file__)), "server.py")
    number, nothing = theirs.fileno(), subprocess.DEVNULL
    process = subprocess.Popen(
        [sys.executable, "-S", "-s", "-B", "-P", server, str(number), at_most],
        env={
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
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
    return process, ours
