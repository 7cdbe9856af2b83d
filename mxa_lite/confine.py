"""What a script's process may do, enforced by the kernel: rlimits, Landlock, seccomp, namespaces.

Standard library only; the fork server loads it, each child calls `Confiner.enter` after its fork.
Linux on x86-64 and aarch64; elsewhere only rlimits hold. Sources: landlock(7), seccomp(2),
`linux/landlock.h`, `asm/unistd.h`.

Covered, from which level on, is the table `COVERS`. Not covered at any level: a bug in the kernel,
timing side channels, and seeing that a path exists and how large it is (stat needs no right).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys

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
# Calls that are looked at or made by name here.
_CHECKED = """
clone 56 220,clone3 435 435,kill 62 129,tgkill 234 131,prctl 157 167,prlimit64 302 261,
fcntl 72 25,ioctl 16 29,socketpair 53 199,sendto 44 206,capset 126 91,seccomp 317 277,
unshare 272 97,landlock_create_ruleset 444 444,landlock_add_rule 445 445,
landlock_restrict_self 446 446"""
_FIRST_UNKNOWN = 451  # newer calls, and the x32 ones, answer "not implemented"

_COLUMN = {"x86_64": 1, "aarch64": 2, "arm64": 2}.get(platform.machine(), 0)
_AUDIT_ARCH = {1: 0xC000003E, 2: 0xC00000B7}


def _table(text: str) -> dict[str, int]:
    rows = [row.split() for row in text.split(",")]
    return {row[0]: int(row[_COLUMN]) for row in rows if _COLUMN and row[_COLUMN] != "0"}


_NR = _table(_CHECKED)
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _syscall(name: str, *args: int | ctypes.Array[ctypes.c_char] | None) -> int:
    """One system call; raises OSError with its errno. Addresses travel as 64 bit values."""
    if _libc is None or name not in _NR:
        raise OSError(errno.ENOSYS, name)
    wide = [ctypes.c_ulong(arg) if isinstance(arg, int) else arg for arg in args]
    result: int = _libc.syscall(ctypes.c_long(_NR[name]), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    if _libc is not None and _libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero) < 0:
        raise OSError(ctypes.get_errno(), "prctl")


def die_with_parent() -> None:
    """The kernel kills this process when the one that forked it is gone (Linux)."""
    _prctl(1, 9)


def adopt_orphans() -> None:
    """Descendants whose parents died become children of this process (Linux)."""
    _prctl(36, 1)


def enter_namespaces() -> bool:
    """Moves the calling, single-threaded process into own user, net, ipc and uts namespaces."""
    user, rest = 0x10000000, 0x40000000 | 0x08000000 | 0x04000000
    ids = (("uid_map", os.getuid()), ("gid_map", os.getgid()))
    try:
        _syscall("unshare", user | rest)
    except OSError:
        return False
    with open("/proc/self/setgroups", "w") as file:
        file.write("deny")
    for name, number in ids:
        with open(f"/proc/self/{name}", "w") as file:
            file.write(f"{number} {number} 1")
    return True


# Landlock: rights by number of the bit, see linux/landlock.h.
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_DEVICES = (1 << 6) | (1 << 9) | (1 << 10) | (1 << 11) | (1 << 15)  # devices, sockets, fifos
_FS_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_WRITE_FILE = 1 << 1


def landlock_abi() -> int:
    """Version of Landlock this kernel offers, 0 for none."""
    try:
        return _syscall("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def _readable() -> list[str]:
    """Folders and files an honest script needs: Python, shared libraries, time zones."""
    here = [os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "lib")]
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store", "/usr/share/zoneinfo"]
    files = ["/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/zero", "/dev/urandom"]
    return [path for path in [*here, *system, *files] if os.path.exists(path)]


class Landlock:
    """Builds a fresh domain per child; path handles are opened once, in the server."""

    def __init__(self) -> None:
        self.abi = landlock_abi()
        self._paths = []
        if not self.abi:
            return
        for path in _readable():
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rights = _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0)
            self._paths.append((handle, rights | (_WRITE_FILE if path == "/dev/null" else 0)))

    def enter(self, folder: str) -> None:
        """Confines the calling process: reads what `_readable` lists, writes only in `folder`."""
        handled = _FS_RIGHTS.get(self.abi, (1 << 16) - 1)
        net = 0b11 if self.abi >= 4 else 0
        scope = 0b11 if self.abi >= 6 else 0
        size = 8 if self.abi < 4 else 16 if self.abi < 6 else 24
        head = ctypes.create_string_buffer(struct.pack("=QQQ", handled, net, scope)[:size], size)
        ruleset = _syscall("landlock_create_ruleset", head, size, 0)
        own = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        everything = handled & ~(_EXECUTE | _DEVICES)
        for handle, rights in [*self._paths, (own, everything)]:
            rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, handle), 12)
            _syscall("landlock_add_rule", ruleset, 1, rule, 0)
        _syscall("landlock_restrict_self", ruleset, 0)


# Seccomp: classic BPF over struct seccomp_data (nr at 0, arch at 4, args from 16, 8 bytes each).
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
_Step = tuple[int, int, int, int]


def _load(offset: int) -> _Step:
    return (0x20, 0, 0, offset)


def _arg(number: int) -> _Step:
    return _load(16 + 8 * number)


def _ret(value: int) -> _Step:
    return (0x06, 0, 0, value)


def _equal(value: int, yes: int, no: int) -> _Step:
    return (0x15, yes, no, value)


def _one_of(number: int, values: list[int], found: int, other: int) -> list[_Step]:
    """Answers `found` when argument `number` is one of `values`, else `other`."""
    tests = [_equal(value, len(values) - i, 0) for i, value in enumerate(values)]
    return [_arg(number), *tests, _ret(other), _ret(found)]


def _rules(pid: int) -> dict[str, list[_Step]]:
    """Calls whose arguments decide. Every list ends in a return on all its ways."""
    thread, new_namespace = 0x10000, 0x7E020080
    harmless_ioctl = [0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451]  # isatty, size, flags of fds
    return {
        "clone": [
            _arg(0),
            (0x45, 0, 1, thread),
            (0x45, 0, 1, new_namespace),
            _ret(_EPERM),
            _ret(_ALLOW),
        ],
        "clone3": [_ret(_ENOSYS)],  # its flags are behind a pointer; the C library uses clone then
        "kill": _one_of(0, [pid], _ALLOW, _EPERM),
        "tgkill": _one_of(0, [pid], _ALLOW, _EPERM),
        "prctl": _one_of(0, [15, 16, 0x53564D41], _ALLOW, _EPERM),  # names of threads and memory
        "prlimit64": _one_of(0, [0, pid], _ALLOW, _EPERM),
        "fcntl": _one_of(1, [8, 10, 15, 1026], _EPERM, _ALLOW),  # signals to others by file events
        "ioctl": _one_of(1, harmless_ioctl, _ALLOW, _ERRNO | errno.ENOTTY),
        # asyncio wakes itself through a stream pair; a datagram pair could send to any address
        "socketpair": [
            _arg(0),
            _equal(1, 0, 4),
            _arg(1),
            (0x54, 0, 0, 0xF),
            _equal(1, 0, 1),
            _ret(_ALLOW),
            _ret(_EPERM),
        ],
        "sendto": [
            _arg(4),
            _equal(0, 0, 3),
            _load(16 + 8 * 4 + 4),
            _equal(0, 0, 1),
            _ret(_ALLOW),
            _ret(_EPERM),
        ],
    }


def _program(pid: int) -> bytes:
    denied = sorted(_table(_DENIED).values())
    steps = [_load(4), _equal(_AUDIT_ARCH[_COLUMN], 1, 0), _ret(_KILL), _load(0)]
    steps += [(0x35, 0, 1, _FIRST_UNKNOWN), _ret(_ENOSYS)]
    steps += [_equal(number, len(denied) - i, 0) for i, number in enumerate(denied)]
    steps += [(0x05, 0, 0, 1), _ret(_EPERM)]
    for name, body in _rules(pid).items():
        steps += [_equal(_NR[name], 0, len(body)), *body]
    steps.append(_ret(_ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def enter_seccomp() -> None:
    """Installs the filter in the calling, single-threaded process. Needs no privilege."""
    if not _COLUMN:
        raise OSError(errno.ENOSYS, "seccomp filter for this processor")
    code = _program(os.getpid())
    data = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("@HP", len(code) // 8, ctypes.addressof(data))
    spec_allow = 4  # no speculation penalty on kernels that would add one
    _syscall("seccomp", 1, spec_allow, ctypes.create_string_buffer(head, len(head)))


def drop_privileges() -> None:
    """No new privileges, no capabilities; as root too, so file modes and limits hold."""
    if _libc is None:
        return
    _prctl(38, 1)
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
    _syscall("capset", header, ctypes.create_string_buffer(24))


def set_limits(memory_mb: int, disk_mb: int, seconds: float, processes: int | None) -> None:
    """Hard limits of the calling process; `processes` only where no filter forbids them."""
    cpu = 2 * int(seconds + 1) + 2  # behind the wall clock, for threads that run while one waits
    wanted = {
        "RLIMIT_AS": memory_mb << 20,
        "RLIMIT_FSIZE": disk_mb << 20,
        "RLIMIT_CPU": cpu,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
    }
    if processes is not None:
        wanted["RLIMIT_NPROC"] = processes
    for name, value in wanted.items():
        kind = getattr(resource, name, None)  # macOS lacks some
        if kind is None:
            continue
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):
            if name != "RLIMIT_AS":  # macOS refuses it; the monitor is then the only cap
                raise


class Confiner:
    """The strongest confinement this machine gave to a trial child; made once, in the server."""

    def __init__(self, at_most: str = LEVELS[-1]) -> None:
        wanted = LEVELS.index(at_most)
        self.namespaces = wanted >= 3 and enter_namespaces()
        self.landlock = Landlock() if wanted >= 1 else None
        if self.landlock is not None and not (self.landlock.abi and _trial(self._enter_landlock)):
            self.landlock = None
        self.seccomp = wanted >= 2 and _trial(self._enter_seccomp)

    def _enter_landlock(self) -> None:
        assert self.landlock is not None
        self.landlock.enter("/")

    def _enter_seccomp(self) -> None:
        enter_seccomp()

    def level(self) -> str:
        """Name of the highest level all of whose parts work."""
        parts = [True, self.landlock is not None, self.seccomp, self.namespaces]
        return LEVELS[parts.index(False) - 1] if False in parts else LEVELS[-1]

    def enter(self, folder: str, memory_mb: int, disk_mb: int, seconds: float, tasks: int) -> None:
        """Confines the calling process for good. `tasks`: the user's processes right now."""
        set_limits(memory_mb, disk_mb, seconds, None if self.seccomp else tasks + 64)
        drop_privileges()
        if self.landlock is not None:
            self.landlock.enter(folder)
        if self.seccomp:
            enter_seccomp()


def _trial(step: object) -> bool:
    """Whether `step` works, tried in a child so that this process stays free."""
    assert callable(step)
    pid = os.fork()
    if pid == 0:
        try:
            drop_privileges()
            step()
            os._exit(0)
        except OSError:
            os._exit(1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
