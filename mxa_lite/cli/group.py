"""The command group and the options that commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from mxa_lite import __version__


class _Path(click.Path):
    """A path, in which "~" is the home folder also after "=", where shells leave it alone."""

    def convert(self, value: Any, *rest: Any) -> Any:
        return Path(os.fsdecode(super().convert(value, *rest))).expanduser()


FOLDER = FILE = _Path()


# Any number of times, later ones winning.
sets_option = click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change one key of the recipe."
)
# One object on stdout, everything else on stderr.
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
# The small numbers of templates/smoke.yaml.
smoke_option = click.option(
    "--smoke", is_flag=True, help="Tiny and quick, to see that it runs to the end."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(__version__)
def cli() -> None:
    """Train one small model as designer and executor of multi-agent systems."""
