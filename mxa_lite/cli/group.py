"""The command group and the options that commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mxa_lite import __version__


class _Path(click.Path):
    """A path, in which "~" is the home folder also after "=", where shells leave it alone."""

    def convert(self, value: Any, *rest: Any) -> Any:
        return Path(os.fsdecode(super().convert(value, *rest))).expanduser()


FOLDER = FILE = _Path()


def sets_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--set key=value`, any number of times, later ones winning."""
    return click.option(
        "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change one key of the recipe."
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`: one object on stdout, everything else on stderr."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def smoke_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--smoke`: the small numbers of templates/smoke.yaml."""
    return click.option(
        "--smoke", is_flag=True, help="Tiny and quick, to see that it runs to the end."
    )(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(__version__)
def cli() -> None:
    """Train one small model as designer and executor of multi-agent systems."""
