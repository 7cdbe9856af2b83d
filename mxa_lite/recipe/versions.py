"""What a run was made with, as its stored recipe names it."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from mxa_lite import __version__

PACKAGES = (
    "torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets",
    "unsloth", "triton", "xformers", "sympy", "click", "pydantic",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Installed versions, read from their metadata without an import; absent ones left out."""
    installed = {"mxa-lite": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed
