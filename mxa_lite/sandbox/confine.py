"""What a script's process may do, enforced by the kernel: rlimits, Landlock, seccomp, namespaces.

Standard library only; the fork server loads it, each child calls `Confiner.enter` after its fork.
Linux on x86-64 and aarch64; elsewhere only rlimits hold. Sources: landlock(7), seccomp(2),
`linux/landlock.h`, `asm/unistd.h`.

`doctor.COVERS` says what is covered from which level on. Never covered: a bug in the kernel, timing
side channels, and seeing that a path exists and how large it is (stat needs no right).
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import errno
import functools
import math
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Callable, Sequence

from mxa_lite import wire

LEVELS = ("rlimits", "landlock", "seccomp", "namespaces")  # each includes those before it
_FIRST_UNKNOWN = 451  # newer calls, and the x32 ones, answer "not implemented"
_MACHINE = platform.machine() if sys.platform == "linux" else ""
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}.get(_MACHINE, 0)
with open(os.path.join(os.path.dirname(__file__), "syscalls.csv"), encoding="ascii") as _file:
    _ROWS = [row for row in csv.DictReader(_file.readlines()[1:]) if row.get(_MACHINE)]
_NR = {row["call"]: int(row[_MACHINE]) for row in _ROWS}
_libc = ctypes.CDLL(None, use_errno=True)


def _syscall(name: str, *args: int | bytes | None) -> int:
    """One system call; raises OSError with its errno. Numbers travel as 64 bits."""
    if name not in _NR:
        raise OSError(errno.ENOSYS, name)
    wide = [ctypes.c_ulong(arg) if isinstance(arg, int) else arg for arg in args]
    result: int = _libc.syscall(ctypes.c_long(_NR[name]), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def _enter_namespaces() -> None:
    """Own user, net, ipc and uts namespaces for the calling, single-threaded process."""
    uid, gid = os.getuid(), os.getgid()
    _syscall("unshare", 0x10000000 | 0x40000000 | 0x08000000 | 0x04000000)
    maps = {"setgroups": "deny", "uid_map": f"{uid} {uid} 1", "gid_map": f"{gid} {gid} 1"}
    for name, text in maps.items():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


# Landlock: rights are bits, see linux/landlock.h.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_SPECIAL = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 15  # making devices, sockets, fifos; ioctl
_FS_BITS = (0, 13, 14, 15, 15)  # how many rights an ABI knows; 16 from 5 on


def _readable(packages: list[str]) -> list[tuple[int, int]]:
    """Handle and rights of what an honest script needs: Python, libraries, time zones, packages."""
    here = [os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "lib")]
    folders = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store", "/usr/share/zoneinfo"]
    files = ["/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/zero", "/dev/urandom"]
    readable = []
    for path in filter(os.path.exists, [*here, *folders, *files, *packages]):
        rights = _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0)
        rights |= _WRITE_FILE if path == "/dev/null" else 0
        readable.append((os.open(path, os.O_PATH | os.O_CLOEXEC), rights))
    return readable


def _enter_landlock(abi: int, readable: list[tuple[int, int]], folder: str) -> None:
    """A domain of its own: reads `readable`, writes in `folder`, no TCP, no signals to others."""
    handled = (1 << (_FS_BITS[abi] if abi < len(_FS_BITS) else 16)) - 1
    net, scope = 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0
    attributes = struct.pack("=QQQ", handled, net, scope)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = _syscall("landlock_create_ruleset", attributes, len(attributes), 0)
    own = (os.open(folder, os.O_PATH | os.O_CLOEXEC), handled & ~(_EXECUTE | _SPECIAL))
    for handle, rights in [*readable, own]:
        _syscall("landlock_add_rule", ruleset, 1, struct.pack("=Qi", rights, handle), 0)
    _syscall("landlock_restrict_self", ruleset, 0)


# Seccomp: classic BPF over struct seccomp_data: nr at 0, arch at 4, arguments of 8 bytes from 16.
# A step is (code, jump if true, jump if false, value).
_Step = tuple[int, int, int, int]
_ALLOW = (0x06, 0, 0, 0x7FFF0000)
_KILL = (0x06, 0, 0, 0x80000000)


def _load(offset: int) -> _Step:
    return (0x20, 0, 0, offset)


def _refuse(number: int) -> _Step:
    return (0x06, 0, 0, 0x00050000 | number)


_EPERM, _ENOSYS = _refuse(errno.EPERM), _refuse(errno.ENOSYS)


def _one_of(offset: int, values: list[int], match: _Step, other: _Step) -> list[_Step]:
    """Answers `match` when what lies at `offset` is one of `values`, else `other`."""
    tests = [(0x15, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_load(offset), *tests, other, match]


_OWN_PID = 0x5E1F5E1F  # stands for the child's number until that is known


def _rules() -> dict[str, list[_Step]]:
    """Calls whose arguments decide. Every list ends in an answer on all its ways."""
    threads_only = [_load(16), (0x45, 0, 1, 0x10000), (0x45, 0, 1, 0x7E020080), _EPERM, _ALLOW]
    # asyncio wakes itself through a stream pair; a datagram pair could send to any address
    stream = [_load(24), (0x54, 0, 0, 0xF), (0x15, 0, 1, 1), _ALLOW, _EPERM]
    harmless_ioctl = [0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451]  # isatty, size, fd flags
    return {
        "clone": threads_only,
        "clone3": [_ENOSYS],  # its flags are behind a pointer; the C library then uses clone
        "kill": _one_of(16, [_OWN_PID], _ALLOW, _EPERM),
        "tgkill": _one_of(16, [_OWN_PID], _ALLOW, _EPERM),
        "prctl": _one_of(16, [15, 16, 0x53564D41], _ALLOW, _EPERM),  # names of threads and memory
        "prlimit64": _one_of(16, [0, _OWN_PID], _ALLOW, _EPERM),
        "fcntl": _one_of(24, [8, 10, 15, 1026], _EPERM, _ALLOW),  # signals by file events
        "ioctl": _one_of(24, harmless_ioctl, _ALLOW, _refuse(errno.ENOTTY)),
        "socketpair": [_load(16), (0x15, 1, 0, 1), _EPERM, *stream],
        "sendto": [_load(48), (0x15, 1, 0, 0), _EPERM, *_one_of(52, [0], _ALLOW, _EPERM)],
    }


@functools.cache
def _filter() -> bytes:
    denied = sorted(_NR[row["call"]] for row in _ROWS if row["refused"] == "yes")
    steps = [_load(4), (0x15, 1, 0, _AUDIT_ARCH), _KILL, _load(0)]
    steps += [(0x35, 0, 1, _FIRST_UNKNOWN), _ENOSYS]
    steps += [(0x15, len(denied) - i, 0, number) for i, number in enumerate(denied)]
    steps += [(0x05, 0, 0, 1), _EPERM]
    for name, body in _rules().items():
        steps += [(0x15, 0, len(body), _NR[name]), *body]
    return b"".join(struct.pack("=HBBI", *step) for step in [*steps, _ALLOW])


def _enter_seccomp() -> None:
    steps = _filter().replace(struct.pack("=I", _OWN_PID), struct.pack("=I", os.getpid()))
    code = ctypes.create_string_buffer(steps, len(steps))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(code))
    _syscall("seccomp", 1, 4, program)  # 4: no speculation penalty where a kernel would add one


def _drop_privileges() -> None:
    """No new privileges and no capabilities; so limits and file modes hold for root too."""
    _syscall("prctl", 38, 1, 0, 0, 0)
    _syscall("capset", struct.pack("=Ii", 0x20080522, 0), bytes(24))


def _set_limits(limits: wire.Start, processes: int | None) -> None:
    values = {
        "AS": limits.memory_mb << 20,
        "FSIZE": limits.disk_mb << 20,
        # behind the wall clock: for threads that compute while another waits for the model
        "CPU": 2 * math.ceil(limits.seconds) + 2,
        "NOFILE": 64,
        "CORE": 0,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
    } | ({} if processes is None else {"NPROC": processes})
    for name, value in values.items():
        # macOS lacks some, and refuses AS
        with contextlib.suppress(AttributeError, ValueError, OSError):
            kind: int = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))


class Confiner:
    """The strongest confinement this machine gives; made once, in the server.

    level: the highest of LEVELS all of whose parts work. A part above a missing one still holds.
    packages: folders that may be read too.
    """

    def __init__(self, at_most: str = LEVELS[-1], packages: Sequence[str] = ()) -> None:
        highest = LEVELS.index(at_most)
        with contextlib.suppress(OSError):  # descendants whose parents die become children of this
            _syscall("prctl", 36, 1, 0, 0, 0)
        self.namespaces = highest >= 3 and _trial(_enter_namespaces)
        if self.namespaces:
            _enter_namespaces()
        self.landlock = 0
        with contextlib.suppress(OSError):
            self.landlock = _syscall("landlock_create_ruleset", None, 0, 1) if highest >= 1 else 0
        self._readable = _readable(list(packages)) if self.landlock else []
        self.seccomp = highest >= 2 and bool(_NR and _filter()) and _trial(_enter_seccomp)
        parts = [True, self.landlock > 0, self.seccomp, self.namespaces, False]
        self.level = LEVELS[parts.index(False) - 1]

    def belong_to(self, server: int) -> None:
        """Right after the fork: this process dies with its server and has a session of its own."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if _NR:
            _syscall("prctl", 1, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != server:
            os._exit(1)
        os.setsid()
        os.umask(0o077)

    def enter(self, folder: str, limits: wire.Start, tasks: int) -> None:
        """Confines the calling process for good. tasks: processes on this machine right now."""
        _set_limits(limits, None if self.seccomp else tasks + 64)
        if _NR:
            _drop_privileges()
        own = []
        with contextlib.suppress(OSError):  # its own threads: the client looks whether they sleep
            os.dup2(os.open("/proc/self/task", os.O_RDONLY), 4)
            own = [(4, _READ_FILE | _READ_DIR)]
        if self.landlock:
            _enter_landlock(self.landlock, [*self._readable, *own], folder)
        if self.seccomp:
            _enter_seccomp()


def _trial(step: Callable[[], None]) -> bool:
    """Whether `step` works, tried in a child so that this process stays free."""
    pid = os.fork()
    if pid == 0:
        try:
            if step is _enter_seccomp:
                _drop_privileges()
            step()
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0
