"""The command line. Every import of a command's own stands inside it: `--help` must be quick."""

from __future__ import annotations

import logging
import sys

from mxa_lite.cli import commands, console, runs  # noqa: F401 - the first and last register commands
from mxa_lite.cli.group import cli


def main() -> None:
    # It says at import that an optional CPU kernel is missing, which is harmless.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    sys.exit(console.run_command(cli))
