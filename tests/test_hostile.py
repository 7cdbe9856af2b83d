"""What a script may not do, one promise per script, at the machine's best level.

Every script runs as the user of the tests and, when that is root, also as `nobody`. A script prints
OPEN where an attack worked. After each one nothing around it may have changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_world import HONEST, SECRET

from mxa_lite.sandbox.confine import LEVELS

pytestmark = pytest.mark.slow
WORLD = Path(__file__).parent / "hostile_world.py"
TRIED = ("crashed", "no_answer")  # the attack was refused, with an exception or without
SYSCALL = "import ctypes, os\ncall = ctypes.CDLL(None, use_errno=True).syscall\n"

# name: (script, allowed outcomes[, seconds of own time])
HOSTILE: dict[str, tuple[Any, ...]] = {
    # secrets
    "environment": ("import os\nprint(dict(os.environ))", TRIED),
    "own environ file": ("print(open('/proc/self/environ').read(), 'OPEN')", TRIED),
    "what its own threads lead to": (
        "import os\nfor name in os.listdir(4):\n"
        "    for path in ('root/etc/passwd', 'cwd/../../$TOKEN', 'fd/../../../$SERVER/environ'):\n"
        "        try: print(os.open(f'{name}/{path}', os.O_RDONLY, dir_fd=4), 'OPEN')\n"
        "        except OSError: pass\n"
        "print(os.open('../../$TRAINER/mem', os.O_RDONLY, dir_fd=4), 'OPEN')",
        TRIED,
    ),
    "token file": ("print(open('$TOKEN').read())", TRIED),
    "token by symlink": ("import os\nos.symlink('$TOKEN', 'x')\nprint(open('x').read())", TRIED),
    "token by hard link": ("import os\nos.link('$TOKEN', 'x')\nprint('OPEN')", TRIED),
    "token by dot dot": ("print(open('../../..$TOKEN').read())", TRIED),
    "passwd": ("print(open('/etc/passwd').read(), 'OPEN')", TRIED),
    "listing": ("import os\nprint(os.listdir('/'), 'OPEN')", TRIED),
    "trainer environ": ("print(open('/proc/$TRAINER/environ').read(), 'OPEN')", TRIED),
    "trainer memory": ("print(open('/proc/$TRAINER/mem', 'rb'), 'OPEN')", TRIED),
    "trainer files": ("import os\nprint(os.listdir('/proc/$TRAINER/fd'), 'OPEN')", TRIED),
    "server memory": ("print(open('/proc/$SERVER/mem', 'rb'), 'OPEN')", TRIED),
    "server maps": ("print(open('/proc/$SERVER/maps').read(), 'OPEN')", TRIED),
    "inherited files": (
        "import os\nfor n in range(5, 1024):\n    try: print(os.fstat(n), 'OPEN')\n"
        "    except OSError: pass",
        TRIED,
    ),
    "sibling folder": ("import os\nprint(os.listdir('$SIBLING_FOLDER'), 'OPEN')", TRIED),
    "sibling file": ("print(open('$SIBLING_FOLDER/notes.txt').read(), 'OPEN')", TRIED),
    "sibling memory": ("print(open('/proc/$SIBLING_PID/mem', 'rb'), 'OPEN')", TRIED),
    "secrets in own memory": (
        "import gc\nwanted = 'the-gold-' + 'answer'\n"
        "print([o for o in gc.get_objects() if isinstance(o, dict) and wanted in str(o)][:1])",
        TRIED,
    ),
    # other processes
    "kill trainer": ("import os\nos.kill($TRAINER, 0)\nprint('OPEN')", TRIED),
    "kill server": ("import os\nos.kill(os.getppid(), 9)\nprint('OPEN')", TRIED),
    "kill victim": ("import os\nos.kill($VICTIM, 9)\nprint('OPEN')", TRIED),
    "kill sibling": ("import os\nos.kill($SIBLING_PID, 9)\nprint('OPEN')", TRIED),
    "kill everybody": ("import os\nos.kill(-1, 9)\nprint('OPEN')", TRIED),
    "kill own group": ("import os\nos.killpg(0, 9)\nprint('OPEN')", TRIED),
    "pidfd": ("import os\nprint(os.pidfd_open($VICTIM), 'OPEN')", TRIED),
    "signal by file owner": (
        "import fcntl, os, struct\nr, w = os.pipe()\n"
        "fcntl.fcntl(r, 15, struct.pack('ii', 1, $VICTIM))\nprint('OPEN')",
        TRIED,
    ),
    "ptrace": (SYSCALL + "assert call(101, 16, $VICTIM, 0, 0) == 0\nprint('OPEN')", TRIED),
    "sibling limits": (
        "import resource\nresource.prlimit($SIBLING_PID, resource.RLIMIT_CPU, (1, 1))\n"
        "print('OPEN')",
        TRIED,
    ),
    "sibling priority": (
        "import os\nos.setpriority(os.PRIO_PROCESS, $SIBLING_PID, 19)\nprint('OPEN')",
        TRIED,
    ),
    "sibling affinity": (
        "import os\nos.sched_setaffinity($SIBLING_PID, [0])\nprint('OPEN')",
        TRIED,
    ),
    # network
    "tcp": (
        "import socket\nsocket.create_connection(('127.0.0.1', $TCP), 1)\nprint('OPEN')",
        TRIED,
    ),
    "udp": (
        "import socket\ns = socket.socket(type=socket.SOCK_DGRAM)\n"
        "s.sendto(b'x', ('127.0.0.1', $UDP))\nprint('OPEN')",
        TRIED,
    ),
    "unix socket": (
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('$OUTSIDE/stream')\n"
        "print('OPEN')",
        TRIED,
    ),
    "abstract socket": (
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('\\0$ABSTRACT')\n"
        "print('OPEN')",
        TRIED,
    ),
    "datagram pair to another address": (
        "import socket\na, b = socket.socketpair(type=socket.SOCK_DGRAM)\n"
        "a.sendto(b'x', '$OUTSIDE/dgram')\nprint('OPEN')",
        TRIED,
    ),
    "stream pair to another address": (
        "import socket\na, b = socket.socketpair()\na.sendto(b'x', '$OUTSIDE/dgram')\n"
        "print('OPEN')",
        TRIED,
    ),
    "server socket": (
        "import socket\ns = socket.socket()\ns.bind(('', 0))\ns.listen()\nprint('OPEN')",
        TRIED,
    ),
    "channel hands over a file": (
        "import socket\ns = socket.socket(fileno=3)\nsocket.send_fds(s, [b'x'], [0])\n"
        "print('OPEN')",
        TRIED,
    ),
    # files
    "write outside": ("open('$OUTSIDE/new', 'w')\nprint('OPEN')", TRIED),
    "write in /tmp": ("open('/tmp/mxa-open', 'w')\nprint('OPEN')", TRIED),
    "write in /dev/shm": ("open('/dev/shm/mxa-open', 'w')\nprint('OPEN')", TRIED),
    "overwrite token": ("open('$TOKEN', 'a').write('x')\nprint('OPEN')", TRIED),
    "truncate token": ("import os\nos.truncate('$TOKEN', 0)\nprint('OPEN')", TRIED),
    "delete token": ("import os\nos.remove('$TOKEN')\nprint('OPEN')", TRIED),
    "mode of token": ("import os\nos.chmod('$TOKEN', 0o777)\nprint('OPEN')", TRIED),
    "times of token": ("import os\nos.utime('$TOKEN', (1, 1))\nprint('OPEN')", TRIED),
    "rename out": ("import os\nopen('a', 'w')\nos.rename('a', '$OUTSIDE/a')\nprint('OPEN')", TRIED),
    "beside its folder": ("open('$BOX/open', 'w')\nprint('OPEN')", TRIED),
    "patch the standard library": ("import os\nopen(os.__file__, 'a')\nprint('OPEN')", TRIED),
    "link out of the folder": (
        "import os\nos.symlink('$OUTSIDE', 'out')\nos.mkdir('d')\nos.symlink('$TOKEN', 'd/t')",
        TRIED,
    ),
    "folder nobody may enter": ("import os\nos.makedirs('a/b')\nos.mkdir('a/c', 0)", TRIED),
    "deep folder": (
        "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')",
        (*TRIED, "memory", "timeout"),
    ),
    "device": ("import os\nos.mknod('d', 0o20666, os.makedev(1, 1))\nprint('OPEN')", TRIED),
    "setuid file": ("import os\nopen('f', 'w')\nos.chmod('f', 0o4777)\nprint('OPEN')", TRIED),
    # processes
    "fork": ("import os\nos.fork()\nprint('OPEN')", TRIED),
    "fork bomb": (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: break",
        TRIED,
    ),
    "vfork": (SYSCALL + "call(58)\nprint(ctypes.get_errno(), os.getpid())", TRIED),
    "clone3": (
        SYSCALL + "args = (ctypes.c_ulonglong * 11)(0, 0, 0, 0, 17)\n"
        "if call(435, args, 88) >= 0: print('OPEN')",
        TRIED,
    ),
    "subprocess": ("import subprocess\nprint(subprocess.check_output('id'), 'OPEN')", TRIED),
    "exec": ("import os\nos.execv('/bin/echo', ['echo', 'OPEN'])", TRIED),
    "multiprocessing": (
        "import multiprocessing as m\np = m.get_context('fork').Process(target=print)\np.start()\n"
        "print('OPEN')",
        TRIED,
    ),
    "program in memory": (
        "import os\nn = os.memfd_create('x')\nos.execv(f'/proc/self/fd/{n}', ['x'])",
        TRIED,
    ),
    "new session": ("import os\nos.setsid()\nprint('OPEN')", TRIED),
    "survive the server": (SYSCALL + "if call(157, 1, 0, 0, 0, 0) == 0: print('OPEN')", TRIED),
    "user namespace": (SYSCALL + "if call(272, 0x10000000) == 0: print('OPEN')", TRIED),
    "mount": (SYSCALL + "if call(165, b'x', b'.', b'tmpfs', 0, 0) == 0: print('OPEN')", TRIED),
    "io_uring": (SYSCALL + "if call(425, 8, b'\\0' * 120) >= 0: print('OPEN')", TRIED),
    "bpf": (SYSCALL + "if call(321, 0, b'\\0' * 64, 64) >= 0: print('OPEN')", TRIED),
    "keyring": (SYSCALL + "if call(250, 0, -3, 1) >= 0: print('OPEN')", TRIED),
    "shared memory": (SYSCALL + "if call(29, 7, 1 << 20, 0o1666) >= 0: print('OPEN')", TRIED),
    "x32 calls": (SYSCALL + "if call(0x40000000 + 39) >= 0: print('OPEN')", TRIED),
    "root again": (
        "import os\nprint(open('/proc/self/status').read(), 'OPEN') if os.setuid(0) else 0",
        TRIED,
    ),
    # resources
    "2 GB": ("x = bytearray(2 << 30)", ("memory",)),
    "growing list": ("x = []\nwhile True: x.append(bytes(1 << 20))", ("memory",)),
    "memory by mapping": ("import mmap\nm = mmap.mmap(-1, 2 << 30)\nprint('OPEN')", TRIED),
    "one large file": (
        "f = open('f', 'wb')\nwhile True: f.write(bytes(1 << 20))",
        ("memory", "crashed"),
    ),
    "many files": (
        "import time\nfor i in range(40): open(f'f{i}', 'wb').write(bytes(1 << 20))\n"
        "time.sleep(30)",
        ("memory",),
    ),
    "many empty files": (
        "import time\nfor i in range(10_000): open(f'f{i}', 'wb').close()\ntime.sleep(30)",
        ("memory",),
    ),
    "removed files": (
        "import os, time\nkept = []\nfor i in range(40):\n    kept.append(open('f', 'wb'))\n"
        "    os.remove('f')\n    kept[-1].write(bytes(1 << 20))\n    kept[-1].flush()\n"
        "time.sleep(30)",
        ("memory",),
    ),
    "many open files": ("x = [open('/dev/null') for _ in range(10_000)]\nprint('OPEN')", TRIED),
    "stdout flood": ("while True: print('x' * 100_000)", ("memory", "timeout", "crashed")),
    "stderr flood": (
        "import sys\nwhile True: sys.stderr.write('x' * 100_000)",
        ("memory", "timeout", "crashed"),
    ),
    "thread bomb": (
        "import threading, time\nthreading.stack_size(32768)\n"
        "while True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        ("memory", "crashed"),
    ),
    "busy loop": ("while True: pass", ("timeout",), 1),
    "sleep": ("import time\ntime.sleep(1000)", ("timeout",), 1),
    "signals ignored": (
        "import signal\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\n"
        "while True: pass",
        ("timeout",),
        1,
    ),
    "exceptions ignored": (
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        ("timeout",),
        1,
    ),
    "stopped": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", ("timeout",), 1),
    "threads at the end": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()",
        TRIED,
    ),
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
        ("crashed", "memory", "timeout"),
    ),
    "segfault": ("import ctypes\nctypes.string_at(0)", ("crashed",)),
    "leaves at once": ("import os\nanswer('4')\nos._exit(0)", ("no_answer",)),
    "leaves politely": ("import sys\nanswer('4')\nsys.exit()", ("no_calls",)),
    "source that does not parse": ("def (", ("crashed",)),
    "output that is not text": (
        "import os\nos.write(1, bytes(range(256)))\nprint(chr(0xDC80) + chr(0))",
        TRIED,
    ),
    # the channel
    "closed channel": ("import os, time\nos.close(3)\ntime.sleep(60)", TRIED),
    "garbage": ("import os, time\nos.write(3, b'garbage\\n')\ntime.sleep(60)", ("crashed",)),
    "deep nesting": (
        "import os, time\nos.write(3, b'[' * 100_000 + b'\\n')\ntime.sleep(60)",
        ("crashed",),
    ),
    "line without end": (
        "import os\nwhile True: os.write(3, b'x' * 60_000)",
        ("crashed",),
    ),
    "endless lines": (
        'import os\nwhile True: os.write(3, b\'{"t": "wait"}\\n\' * 1000)',
        ("crashed",),
    ),
    "forged answer": (
        'import os\nos.write(3, b\'{"t": "answer", "message": "42"}\\n{"t": "end"}\\n\')\n'
        "os._exit(0)",
        ("no_calls",),
    ),
    "printed answer": ("print('\\\\boxed{42}')", ("no_answer",)),
    "answer without a call": ("answer('\\\\boxed{42}')", ("no_calls",)),
    "wait without a call": (
        'import os, time\nos.write(3, b\'{"t": "wait", "seen": 0}\\n\')\ntime.sleep(60)',
        ("timeout",),
        1,
    ),
    "forged reply": (
        'import os\nos.write(3, b\'{"id": 1, "reply": "x"}\\n\')\nprint(Agent("a")("q"))',
        ("crashed",),
    ),
    "call without waiting": (
        'import os\nos.write(3, b\'{"t":"call","id":1,"agent":"a","path":"0","messages":'
        '[{"role":"user","content":"q"}]}\\n{"t":"answer","message":"4"}\\n{"t":"end"}\\n\')\n'
        "os._exit(0)",
        ("no_calls",),
    ),
    "a million calls": ("a = Agent('a')\nwhile True: a(question)", ("call_budget",)),
    "a million calls, caught": (
        "a = Agent('a')\nwhile True:\n    try: a(question)\n    except BaseException: pass",
        ("call_budget",),
    ),
    "client replaced": (
        "from mxa_lite.sandbox import child\n"
        "child.Client.call = lambda *a: '\\\\boxed{42}'\nanswer(Agent('a')(question))",
        ("no_calls",),
    ),
    "tool bomb": (
        "from utils.environments import MathEnvironment\n"
        "for _ in range(50): MathEnvironment().execute('import os; os.fork()')",
        TRIED,
    ),
    "hanging tool": (
        "from utils.environments import MathEnvironment\n"
        "while True: MathEnvironment().execute('while True: pass')",
        ("timeout",),
        2,
    ),
    # start-up
    "modules beside it": (
        "import sys\nopen('sitecustomize.py', 'w').write('print(1)')\n"
        "open('colorsys.py', 'w').write('print(\"OPEN\")')\nimport colorsys",
        TRIED,
    ),
}


def _users() -> list[tuple[str, str]]:
    """Users and a Python each may run."""
    users = [("self", sys.executable)]
    if os.getuid() == 0:
        test = "import sys; sys.exit(sys.version_info < (3, 11))"
        system = [
            shutil.which(name, path="/usr/bin:/usr/local/bin") for name in ("python3", "python")
        ]
        for python in filter(None, [sys.executable, *system]):
            with contextlib.suppress(OSError):  # in a folder that only root may enter
                found = subprocess.run([python, "-c", test], user="nobody", check=False)
                if found.returncode == 0:
                    return [*users, ("nobody", python)]
    return users


class Attacker:
    """The world as one user; a script in, its end out."""

    def __init__(self, user: str, python: str, level: str) -> None:
        extra: dict[str, Any] = {}
        if user != "self":
            extra = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
        self.process = subprocess.Popen(
            [python, "-B", str(WORLD), level],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            **extra,
        )
        self.level = self._line()["level"]

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line: dict[str, Any] = json.loads(self.process.stdout.readline())
        return line

    def run(self, source: str, seconds: float = 10) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(
            json.dumps({"source": source, "seconds": seconds}), file=self.process.stdin, flush=True
        )
        return self._line()

    def close(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.close()
        last = self._line()
        self.process.wait()
        return last


@pytest.fixture(scope="module", params=_users(), ids=lambda user: user[0])
def attacker(request: pytest.FixtureRequest) -> Iterator[Attacker]:
    attacker = Attacker(*request.param, LEVELS[-1])
    yield attacker
    assert attacker.close() == {"sibling": "True", "left": False}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(attacker: Attacker, name: str) -> None:
    source, outcomes, *seconds = HOSTILE[name]
    ended = attacker.run(source, *seconds)
    shown = ended["stdout"] + ended["stderr"].replace(source, "")
    assert "OPEN" not in ended["stdout"], ended
    assert SECRET not in shown, ended
    assert not ended["changed"], ended
    assert ended["outcome"] in outcomes, ended
    assert ended["seconds"] < 12  # its own: those it waited for a core are not counted


def test_after_all_of_them_an_honest_script_runs(attacker: Attacker) -> None:
    ended = attacker.run(HONEST)
    assert (ended["outcome"], ended["message"]) == ("ok", "\\boxed{4}")
