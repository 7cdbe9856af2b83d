"""mxa-lite: train one small model as designer and executor of multi-agent systems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # scripts in the sandbox import this file: nothing of the kit is loaded with it
    from mxa_lite.runs.saved import Saved

__version__ = "0.1.0"
__all__ = ["load", "run"]


def run(
    recipe: str | Path,
    output: str | Path | None = None,
    *,
    resume: bool = False,
    smoke: bool = False,
    **sets: Any,
) -> Saved:
    """`mxa-lite run`, and the run that came of it.

    sets: keys of the recipe, dotted or a dot as two underscores: `train__steps=20`. Raises
    InputError and RunError.
    """
    from mxa_lite.cli import commands, console
    from mxa_lite.recipe.file import find

    folder = Path(output) if output else console.default_output(find(recipe), resume, smoke)
    texts = [f"{k.replace('__', '.')}={json.dumps(v, default=str)}" for k, v in sets.items()]
    body: Any = commands.run.callback
    body(recipe=str(recipe), sets=tuple(texts), output=folder, resume=resume, smoke=smoke)
    return load(folder)


def load(folder: str | Path) -> Saved:
    """A run folder to look at and to ask. Raises InputError for what is none."""
    from mxa_lite.runs.saved import Saved

    return Saved(Path(folder).expanduser())
