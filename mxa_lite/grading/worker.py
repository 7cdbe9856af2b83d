"""A process for what may take long or crash on a model's text: it calls one function, again and
again, on a limited time of its own, and may read files and nothing more."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import resource
import select
import signal
import subprocess
import sys
from typing import Any

from mxa_lite.errors import RunError

_MEMORY = 4 << 30  # bytes a worker may map
_PATIENCE = 120  # seconds of waiting for a worker, which ends itself long before on an idle machine

# What parsers and scorers throw at text they cannot read. Anything else ends the worker, which is
# "not shown equal" too and costs a restart.
ODD_TEXT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,
    OSError,  # what the audit hook denies
    RuntimeError,  # recursion too
    SyntaxError,
    TypeError,
    ValueError,
)


class Worker:
    """One process that answers for `function`; replaced when it dies or runs out of time.

    function: "module:name", behind modules to be imported first and a comma, if any; it takes JSON
    values by name and returns a number or a bool. seconds: processor time of one call, so that no
    verdict depends on what else the machine does.
    """

    def __init__(self, function: str, seconds: float) -> None:
        self._command = [sys.executable, "-P", "-B", "-m", __name__, function, str(seconds)]
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: dict[str, Any]) -> float:
        """What the function says; 0.0 if that could not be told in time."""
        line = ""
        with contextlib.suppress(BrokenPipeError):
            process = self._process or self._started()
            assert process.stdin
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = self._read()
        if not line:
            self.close()
            return 0.0
        return float(json.loads(line))

    def _started(self) -> subprocess.Popen[str]:
        """A new process, ready: what its imports take is no answer's time.

        Raises RunError when it does not start, for then right answers would be unpaid in silence.
        """
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the run, which ends this by closing stdin
        )
        if not self._read():
            self.close()
            raise RunError(f"the grader's worker ({self._command[-2]}) does not start")
        return self._process

    def _read(self) -> str:
        """The worker's next line, "" if none comes."""
        assert self._process and self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], _PATIENCE)
        return self._process.stdout.readline() if ready else ""

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _deny(event: str, args: tuple[Any, ...]) -> None:
    """Audit hook: scorers and parsers see model text, so they may read files and nothing more."""
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    family = event.partition(".")[0]
    if writes or (
        family in ("os", "subprocess", "socket", "shutil", "ctypes", "fcntl")
        and event not in ("os.listdir", "os.scandir")
    ):
        raise PermissionError(event)


def main(function: str, seconds: float) -> None:
    """Says that it is ready, then answers one JSON line per JSON line, until stdin ends."""
    out, sys.stdout = sys.stdout, sys.stderr
    logging.disable(logging.CRITICAL)
    _, hard_limit = resource.getrlimit(resource.RLIMIT_AS)
    memory = _MEMORY if hard_limit == resource.RLIM_INFINITY else min(_MEMORY, hard_limit)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    modules, _, name = function.partition(":")
    *_, module = map(importlib.import_module, modules.split(","))
    call = getattr(module, name)
    sys.addaudithook(_deny)
    print(file=out, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, seconds)  # unhandled, so it ends this process
        try:
            value = float(call(**json.loads(line)))
        except ODD_TEXT:
            value = 0.0
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(value), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
