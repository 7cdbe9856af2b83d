"""What commands share: exit codes, `--json` output, checks before anything heavy is imported."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mxa_lite.errors import InputError, RunError

if TYPE_CHECKING:  # pydantic is not needed for --help
    from mxa_lite.recipe.keys import Recipe


def print_json(data: Any) -> None:
    """One JSON object on stdout; NaN is a bug, not an output."""
    click.echo(json.dumps(data, allow_nan=False))


def default_output(recipe_path: Path, resume: bool = False, smoke: bool = False) -> Path:
    """`runs/<recipe>`; for a recipe that lies in a run folder, that folder's name.

    resume: that folder itself, so that `mxa-lite run RUN --resume` is enough. smoke:
    `runs/<recipe>-smoke`, from which an earlier smoke run is removed.
    """
    from mxa_lite.runfolder import RunFolder

    stored = recipe_path.name == "recipe.yaml"
    if stored and resume:
        return recipe_path.parent
    name = recipe_path.resolve().parent.name if stored else recipe_path.stem
    folder = Path("runs") / f"{name}{'-smoke' * smoke}"
    if smoke and not resume and (folder / "recipe.yaml").is_file():
        with RunFolder(folder).lock(look=True):
            shutil.rmtree(folder)
    return folder


def check_folder(option: str, folder: Path) -> None:
    """Raise InputError unless `folder` is one to write to, or can be made; nothing is touched."""
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:  # too long a name
        raise InputError(f"{option} {folder}: {error.strerror}") from None
    if not existing.is_dir():
        raise InputError(f"{option} {folder}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{option} {folder}: {existing} cannot be written to")


def check_output(output: Path, recipe: Recipe, resume: bool) -> None:
    """Raise InputError when this run may not write there; nothing is created or touched.

    What a resumed run does otherwise from now on is said.
    """
    from mxa_lite.recipe import file as recipe_file
    from mxa_lite.recipe.keys import changes, diff
    from mxa_lite.runfolder import RunFolder

    check_folder("--output", output)
    first = os.environ.get("RANK", "0") == "0"  # of several processes (accelerate launch)
    if first:
        with RunFolder(output).lock(look=True):
            pass
    if resume:
        if not (output / "recipe.yaml").is_file():
            raise InputError(f"--resume: there is no run in {output}")
        stored = recipe_file.load(output / "recipe.yaml", data_files=False, model=False)
        changed = changes(stored, recipe)
        if key := diff(stored, recipe):
            only = ": train.steps may only grow" if key == "train.steps" else ""
            values = "{!r} there, {!r} here".format(*changed[key])
            where = f"the recipe stored in {output}{only}"
            raise InputError(f"--resume: {key} differs from {where} ({values})")
        for key, (was, now) in changed.items() if first else ():
            click.echo(f"--resume: {key} is {now!r} from here on; it was {was!r}")
        return
    in_use = output.is_dir() and any(output.iterdir()) and not RunFolder(output).before_steps()
    if first and in_use:  # the others may find that it has begun to write
        raise InputError(f"--output {output}: is not empty; add --resume, or name another folder")


def announce(recipe: Recipe) -> None:
    """Say which files of the user are going to run, on stderr, before any does."""
    from mxa_lite.recipe import own
    from mxa_lite.recipe.keys import own_choices

    for line in own.notice(own_choices(recipe)):
        click.echo(line, err=True)


def run_command(command: click.Command) -> int:
    """Run `command` on the command line's arguments and say which exit code it ends with.

    0 done, 1 failure while running, of the disk too, 2 wrong input, 130 Ctrl-C. Anything else is a
    bug of the kit and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an ASCII terminal must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        result = command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (InputError, RunError, OSError) as error:
        click.echo(f"mxa-lite: {error}", err=True)
        return 2 if isinstance(error, InputError) else 1
    except (KeyboardInterrupt, click.Abort) as error:
        cause = error.__cause__ or error  # click raises its own from a KeyboardInterrupt
        with contextlib.suppress(OSError):  # the terminal may be gone
            click.echo(f"mxa-lite: {cause if cause.args else 'interrupted'}", err=True)
        return 130
    return result if isinstance(result, int) else 0
