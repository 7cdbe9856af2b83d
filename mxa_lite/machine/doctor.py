"""What this machine has: versions, device, dtype and why, sandbox level, what a GPU run lacks."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from mxa_lite.policy import GET_UNSLOTH
from mxa_lite.recipe.versions import versions

# what a script cannot reach or do, from which level of the sandbox on
COVERS = (
    ("environment variables and open files of the trainer", "rlimits"),
    ("own time, memory, output, disk and thread caps; ended by force", "rlimits"),
    ("forged, doubled or oversized messages to the trainer", "rlimits"),
    ("reading files: only Python, numpy, sympy, system libraries and its own folder", "landlock"),
    ("writing files: only its own folder", "landlock"),
    ("memory and environment of other processes (/proc, ptrace)", "landlock"),
    ("signals to other processes (Landlock ABI 6, or seccomp)", "seccomp"),
    ("TCP (Landlock ABI 4, or seccomp), UDP and unix sockets", "seccomp"),
    ("starting processes or programs, leaving its session, outliving its run", "seccomp"),
    ("changing modes, owners and times of files", "seccomp"),
    ("new namespaces, mounts, io_uring, bpf, keyrings, shared memory", "seccomp"),
    ("no network interface and no IPC object of the machine, even with a hole above", "namespaces"),
)


def missing_for_gpu(installed: dict[str, str], cuda: bool) -> list[str]:
    """What keeps this machine from a GPU run, each with the command or the step that mends it."""
    torch, _, build = installed.get("torch", "").partition("+")
    headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    compiler = any(map(shutil.which, ("cc", "gcc", "clang")))
    steps = {
        f"torch is a CPU build: pip install --force-reinstall torch=={torch} from the CUDA index"
        " that pytorch.org names": build == "cpu",
        "no CUDA device is visible: an NVIDIA card, and a driver as new as torch's CUDA, see"
        " `nvidia-smi`": not cuda,
        f"unsloth is not installed: {GET_UNSLOTH}": "unsloth" not in installed,
        "no C compiler, which Triton's kernels need: apt-get install gcc libc6-dev": not compiler,
        "no Python headers, which Triton's kernels need: apt-get install python3-dev": not headers,
    }
    return [step for step, needed in steps.items() if needed]


def xformers() -> str | None:
    """Why the xformers that is installed cannot load its kernels here, as Unsloth tries it; None
    where it can, or where there is none."""
    if find_spec("xformers") is None:
        return None
    code = "from xformers._cpp_lib import _register_extensions as load; load()"
    probe = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if not probe.returncode:
        return None
    reason = (probe.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
    return f"cannot load, so Unsloth takes PyTorch's own attention ({reason})"


def device() -> str:
    """The GPU and its memory, or the CPU and its threads."""
    import torch

    if not torch.cuda.is_available():
        return f"cpu, {torch.get_num_threads()} threads"
    card = torch.cuda.get_device_properties(0)
    return f"{card.name}, {card.total_memory / 2**30:.1f} GB, torch for CUDA {torch.version.cuda}"


def report() -> list[str]:
    """The lines of `mxa-lite doctor`."""
    import torch

    from mxa_lite.policy import choose_loader
    from mxa_lite.policy.load import choose_dtype
    from mxa_lite.recipe.keys import Model
    from mxa_lite.sandbox.box import Limits, Sandbox
    from mxa_lite.sandbox.confine import LEVELS

    installed, cuda = versions(), torch.cuda.is_available()
    dtype, why_dtype = choose_dtype(Model())
    with Sandbox(Limits(), LEVELS[0]) as sandbox:
        reached = LEVELS.index(sandbox.level)
    if broken := xformers():
        installed["xformers"] += f": {broken}"
    rows = installed | {
        "platform": f"{sys.platform} {platform.machine()}",
        "device": device(),
        "dtype": f"{str(dtype).removeprefix('torch.')}: {why_dtype}",
        "loader": ": ".join(choose_loader(Model())),
        "sandbox": f"{LEVELS[reached]} (of {', '.join(LEVELS)}). What it covers:",
    }
    lines = [f"{name:<13} {text}" for name, text in rows.items()]
    for protection, level in COVERS:
        lines.append(f"  {'yes' if LEVELS.index(level) <= reached else 'NO':<4}{protection}")
    steps = missing_for_gpu(installed, cuda)
    lines.append("missing for a GPU run:" if steps else "nothing is missing for a GPU run")
    return lines + [f"  - {step}" for step in steps]
