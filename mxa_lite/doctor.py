"""What this machine has: versions, device, dtype and why, sandbox level, what a GPU run lacks."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from mxa_lite import __version__

PACKAGES = (
    "torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets",
    "unsloth", "triton", "math-verify", "click", "pydantic",
)  # fmt: skip


def versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions, read from their metadata without importing anything; absent ones left
    out."""
    found = {"mxa-lite": __version__, "python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def missing_for_gpu(found: dict[str, str], cuda: bool) -> list[str]:
    """What keeps this machine from a GPU run, each with the command or the step that mends it."""
    steps = []
    if found.get("torch", "").endswith("+cpu"):
        steps.append("torch is a CPU build: pip install --force-reinstall torch (a CUDA build)")
    if not cuda:
        steps.append("no CUDA device is visible: an NVIDIA card and its driver, see `nvidia-smi`")
    if "unsloth" not in found:
        steps.append("unsloth is not installed: pip install 'mxa-lite[gpu]'")
    return steps


def _row(name: str, text: str) -> str:
    return f"{name:<13} {text}"


def _device_rows() -> tuple[list[str], bool]:
    import torch

    from mxa_lite.loaders import choose_loader
    from mxa_lite.models import choose_dtype
    from mxa_lite.recipe import Model

    cuda = torch.cuda.is_available()
    dtype, why_dtype = choose_dtype(Model())
    loader, why_loader = choose_loader(Model())
    device = torch.cuda.get_device_name(0) if cuda else f"cpu, {torch.get_num_threads()} threads"
    return [
        _row("device", device),
        _row("dtype", f"{str(dtype).removeprefix('torch.')}: {why_dtype}"),
        _row("loader", f"{loader}: {why_loader}"),
    ], cuda


def _sandbox_rows() -> list[str]:
    from mxa_lite.confine import COVERS, LEVELS
    from mxa_lite.sandbox import Limits, Sandbox

    with Sandbox(Limits(), LEVELS[0]) as sandbox:
        reached = LEVELS.index(sandbox.level)
    rows = [_row("sandbox", f"{LEVELS[reached]} (of {', '.join(LEVELS)}). What it covers:")]
    for what, level in COVERS:
        rows.append(f"  {'yes' if LEVELS.index(level) <= reached else 'NO':<4}{what}")
    return rows


def report() -> list[str]:
    """The lines of `mxa-lite doctor`."""
    found = versions()
    lines = [_row(name, number) for name, number in found.items()]
    lines.append(_row("platform", f"{sys.platform} {platform.machine()}"))
    devices, cuda = _device_rows()
    lines += devices + _sandbox_rows()
    steps = missing_for_gpu(found, cuda)
    lines.append("missing for a GPU run:" if steps else "nothing is missing for a GPU run")
    return lines + [f"  - {step}" for step in steps]
