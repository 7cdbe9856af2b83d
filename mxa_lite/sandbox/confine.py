"""What a script's process may do, enforced by the kernel: rlimits, Landlock, seccomp, namespaces.

Standard library only; the fork server loads it, each child calls `Confiner.enter` after its fork.
Linux on x86-64 and aarch64; elsewhere only rlimits hold. Sources: landlock(7), seccomp(2),
`linux/landlock.h`, `asm/unistd.h`.

Covered, from which level on, is the table `COVERS`. Not covered at any level: a bug in the kernel,
timing side channels, and seeing that a path exists and how large it is (stat needs no right).
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Callable
from typing import Any

LEVELS = ("rlimits", "landlock", "seccomp", "namespaces")  # each includes those before it
COVERS = (
    ("environment variables and open files of the trainer", "rlimits"),
    ("own time, memory, output, disk and thread caps; ended by force", "rlimits"),
    ("forged, doubled or oversized messages to the trainer", "rlimits"),
    ("reading files: only Python itself, system libraries and its own folder", "landlock"),
    ("writing files: only its own folder", "landlock"),
    ("memory and environment of other processes (/proc, ptrace)", "landlock"),
    ("signals to other processes (Landlock ABI 6, or seccomp)", "seccomp"),
    ("TCP (Landlock ABI 4, or seccomp), UDP and unix sockets", "seccomp"),
    ("starting processes or programs, leaving its session, outliving its run", "seccomp"),
    ("changing modes, owners and times of files", "seccomp"),
    ("new namespaces, mounts, io_uring, bpf, keyrings, shared memory", "seccomp"),
    ("no network interface and no IPC object of the machine, even with a hole above", "namespaces"),
)

# Refused system calls, "name x86-64 aarch64"; 0 where an architecture has none.
_DENIED = """
fork 57 0,vfork 58 0,execve 59 221,execveat 322 281,socket 41 198,connect 42 203,bind 49 200,
listen 50 201,accept 43 202,accept4 288 242,sendmsg 46 211,sendmmsg 307 269,recvmsg 47 212,
recvmmsg 299 243,setsockopt 54 208,tkill 200 130,rt_sigqueueinfo 129 138,rt_tgsigqueueinfo 297 240,
pidfd_open 434 434,pidfd_getfd 438 438,pidfd_send_signal 424 424,ptrace 101 117,
process_vm_readv 310 270,process_vm_writev 311 271,process_madvise 440 440,
process_mrelease 448 448,kcmp 312 272,unshare 272 97,setns 308 268,mount 165 40,umount2 166 39,
pivot_root 155 41,chroot 161 51,move_mount 429 429,open_tree 428 428,fsopen 430 430,
fsconfig 431 431,fsmount 432 432,fspick 433 433,mount_setattr 442 442,io_uring_setup 425 425,
io_uring_enter 426 426,io_uring_register 427 427,bpf 321 280,perf_event_open 298 241,
userfaultfd 323 282,keyctl 250 219,add_key 248 217,request_key 249 218,memfd_create 319 279,
memfd_secret 447 447,shmget 29 194,shmat 30 196,shmctl 31 195,msgget 68 186,msgsnd 69 189,
msgctl 71 187,semget 64 190,semctl 66 191,semop 65 193,mq_open 240 180,mq_unlink 241 181,
setsid 112 157,setpgid 109 154,setuid 105 146,setgid 106 144,setreuid 113 145,setregid 114 143,
setresuid 117 147,setresgid 119 149,setfsuid 122 151,setfsgid 123 152,setgroups 116 159,
capset 126 91,personality 135 92,init_module 175 105,finit_module 313 273,delete_module 176 106,
kexec_load 246 104,kexec_file_load 320 294,reboot 169 142,swapon 167 224,swapoff 168 225,
quotactl 179 60,quotactl_fd 443 443,acct 163 89,settimeofday 164 170,clock_settime 227 112,
adjtimex 159 171,clock_adjtime 305 266,sethostname 170 161,setdomainname 171 162,iopl 172 0,
ioperm 173 0,modify_ldt 154 0,vhangup 153 58,syslog 103 116,fanotify_init 300 262,
inotify_init 253 0,inotify_init1 294 26,name_to_handle_at 303 264,open_by_handle_at 304 265,
mknod 133 0,mknodat 259 33,sched_setaffinity 203 122,sched_setscheduler 144 119,
sched_setparam 142 118,sched_setattr 314 274,setpriority 141 140,ioprio_set 251 30,
migrate_pages 256 238,move_pages 279 239,mbind 237 235,get_robust_list 274 100,chmod 90 0,
fchmod 91 52,fchmodat 268 53,chown 92 0,fchown 93 55,lchown 94 0,fchownat 260 54,setxattr 188 5,
lsetxattr 189 6,fsetxattr 190 7,removexattr 197 14,lremovexattr 198 15,fremovexattr 199 16,
utime 132 0,utimes 235 0,futimesat 261 0,utimensat 280 88,truncate 76 45,seccomp 317 277,
vmsplice 278 75,sync 162 81,syncfs 306 267"""
# System calls that are looked at, or made, by name here.
_CHECKED = """
clone 56 220,clone3 435 435,kill 62 129,tgkill 234 131,prctl 157 167,prlimit64 302 261,
fcntl 72 25,ioctl 16 29,socketpair 53 199,sendto 44 206,capset 126 91,seccomp 317 277,
unshare 272 97,landlock_create_ruleset 444 444,landlock_add_rule 445 445,
landlock_restrict_self 446 446"""
_FIRST_UNKNOWN = 451  # newer calls, and the x32 ones, answer "not implemented"

_COLUMN = {"x86_64": 1, "aarch64": 2}.get(platform.machine() if sys.platform == "linux" else "", 0)
_AUDIT_ARCH = (0, 0xC000003E, 0xC00000B7)[_COLUMN]


def _table(text: str) -> dict[str, int]:
    rows = [row.split() for row in text.split(",")]
    return {row[0]: int(row[_COLUMN]) for row in rows if _COLUMN and row[_COLUMN] != "0"}


_NR = _table(_CHECKED)
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


def adopt_orphans() -> None:
    """Descendants whose parents died become children of this process, on Linux."""
    with contextlib.suppress(OSError):
        _syscall("prctl", 36, 1, 0, 0, 0)


def _enter_namespaces() -> None:
    """Own user, net, ipc and uts namespaces for the calling, single-threaded process."""
    uid, gid = os.getuid(), os.getgid()
    _syscall("unshare", 0x10000000 | 0x40000000 | 0x08000000 | 0x04000000)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


# Landlock: rights are bits, see linux/landlock.h.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_SPECIAL = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 15  # making devices, sockets, fifos; ioctl
_FS_BITS = (0, 13, 14, 15, 15)  # how many rights an ABI knows; 16 from 5 on


def _readable() -> list[tuple[int, int]]:
    """Handle and rights of what an honest script needs: Python, libraries, time zones."""
    here = [os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "lib")]
    folders = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store", "/usr/share/zoneinfo"]
    files = ["/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/zero", "/dev/urandom"]
    found = []
    for path in filter(os.path.exists, [*here, *folders, *files]):
        rights = _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0)
        rights |= _WRITE_FILE if path == "/dev/null" else 0
        found.append((os.open(path, os.O_PATH | os.O_CLOEXEC), rights))
    return found


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


def _one_of(offset: int, values: list[int], found: _Step, other: _Step) -> list[_Step]:
    """Answers `found` when what lies at `offset` is one of `values`, else `other`."""
    tests = [(0x15, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_load(offset), *tests, other, found]


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
    denied = sorted(_table(_DENIED).values())
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


def _set_limits(limits: dict[str, Any], processes: int | None) -> None:
    seconds = math.ceil(limits["seconds"])
    wanted = {
        "AS": limits["memory_mb"] << 20,
        "FSIZE": limits["disk_mb"] << 20,
        # behind the wall clock: for threads that compute while another waits for the model
        "CPU": seconds if limits["patience"] > 1 else 2 * seconds + 2,
        "NOFILE": 64,
        "CORE": 0,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
    } | ({} if processes is None else {"NPROC": processes})
    for name, value in wanted.items():
        # macOS lacks some, and refuses AS
        with contextlib.suppress(AttributeError, ValueError, OSError):
            kind: int = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))


class Confiner:
    """The strongest confinement this machine gives; made once, in the server.

    level: the highest of LEVELS all of whose parts work. A part above a missing one still holds.
    """

    def __init__(self, at_most: str = LEVELS[-1]) -> None:
        wanted = LEVELS.index(at_most)
        self.namespaces = wanted >= 3 and _trial(_enter_namespaces)
        if self.namespaces:
            _enter_namespaces()
        self.landlock = 0
        with contextlib.suppress(OSError):
            self.landlock = _syscall("landlock_create_ruleset", None, 0, 1) if wanted >= 1 else 0
        self._readable = _readable() if self.landlock else []
        self.seccomp = wanted >= 2 and bool(_COLUMN and _filter()) and _trial(_enter_seccomp)
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

    def enter(self, folder: str, limits: dict[str, Any], tasks: int) -> None:
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
