"""What this machine has: versions, device, dtype and why, sandbox level, what a GPU run lacks."""

from __future__ import annotations

import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from mxa_lite import __version__

PACKAGES = (
    "torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets",
    "unsloth", "triton", "math-verify", "click", "pydantic",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Installed versions, read from their metadata without an import; absent ones left out."""
    found = {"mxa-lite": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def missing_for_gpu(found: dict[str, str], cuda: bool) -> list[str]:
    """What keeps this machine from a GPU run, each with the command or the step that mends it."""
    cpu_build = found.get("torch", "").endswith("+cpu")
    steps = {
        "torch is a CPU build: pip install --force-reinstall torch (a CUDA build)": cpu_build,
        "no CUDA device is visible: an NVIDIA card and its driver, see `nvidia-smi`": not cuda,
        "unsloth is not installed: pip install 'mxa-lite[gpu]'": "unsloth" not in found,
    }
    return [step for step, needed in steps.items() if needed]


def report() -> list[str]:
    """The lines of `mxa-lite doctor`."""
    import torch

    from mxa_lite.confine import COVERS, LEVELS
    from mxa_lite.loaders import choose_loader
    from mxa_lite.models import choose_dtype
    from mxa_lite.recipe import Model
    from mxa_lite.sandbox import Limits, Sandbox

    found, cuda = versions(), torch.cuda.is_available()
    dtype, why_dtype = choose_dtype(Model())
    with Sandbox(Limits(), LEVELS[0]) as sandbox:
        reached = LEVELS.index(sandbox.level)
    threads = f"cpu, {torch.get_num_threads()} threads"
    rows = found | {
        "platform": f"{sys.platform} {platform.machine()}",
        "device": torch.cuda.get_device_name(0) if cuda else threads,
        "dtype": f"{str(dtype).removeprefix('torch.')}: {why_dtype}",
        "loader": ": ".join(choose_loader(Model())),
        "sandbox": f"{LEVELS[reached]} (of {', '.join(LEVELS)}). What it covers:",
    }
    lines = [f"{name:<13} {text}" for name, text in rows.items()]
    for what, level in COVERS:
        lines.append(f"  {'yes' if LEVELS.index(level) <= reached else 'NO':<4}{what}")
    steps = missing_for_gpu(found, cuda)
    lines.append("missing for a GPU run:" if steps else "nothing is missing for a GPU run")
    return lines + [f"  - {step}" for step in steps]
