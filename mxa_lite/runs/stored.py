"""The recipe of a run folder, read before anything heavy is imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mxa_lite.errors import InputError

if TYPE_CHECKING:  # pydantic is not needed for --help
    from mxa_lite.recipe.keys import Recipe


def stored_recipe(run: Path, sets: tuple[str, ...] = (), *, checkpoint: bool = False) -> Recipe:
    """The recipe of a run folder, else InputError.

    checkpoint: whether the model is going to be loaded; a saved adapter is needed then.
    """
    from mxa_lite.policy import unsloth_first
    from mxa_lite.recipe import file as recipe_file

    if not os.path.isfile(run / "recipe.yaml"):
        raise InputError(f"{run}: not a run folder (no recipe.yaml)")
    if checkpoint and not any((run / "checkpoints").glob("*/*/adapter_config.json")):
        raise InputError(f"{run}: no checkpoint yet")
    recipe = recipe_file.load(run / "recipe.yaml", sets, data_files=False)
    if checkpoint:
        trained = recipe_file.load(run / "recipe.yaml", data_files=False, model=False)
        if (trained.lora, trained.model.adapters) != (recipe.lora, recipe.model.adapters):
            raise InputError(
                f"{run}: has its adapters; --set changes no lora and no model.adapters"
            )
        unsloth_first(recipe.model)
    return recipe
