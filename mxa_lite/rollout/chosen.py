"""What a recipe chooses for its rollouts: the sandbox, and what the designer is shown."""

from __future__ import annotations

from mxa_lite.recipe import own
from mxa_lite.recipe.keys import Recipe
from mxa_lite.sandbox.box import Limits, Sandbox


def limits_of(recipe: Recipe) -> Limits:
    box = recipe.sandbox
    return Limits(box.seconds, box.memory_mb, box.disk_mb, recipe.rollout.max_calls)


def sandbox_for(recipe: Recipe) -> Sandbox:
    """A sandbox as the recipe says, with its own nodes and prompts inside."""
    nodes, own_prompts = (
        value.text if isinstance(value, own.Own) else ""
        for value in (recipe.rollout.nodes, recipe.prompts)
    )
    return Sandbox(limits_of(recipe), recipe.sandbox.require, nodes=nodes, prompts=own_prompts)


def choose_prompts(recipe: Recipe) -> tuple[str, str]:
    """("short" or "examples", reason): what the designer is shown."""
    if isinstance(recipe.prompts, own.Own):
        return "short", f"by {recipe.prompts}, and the kit's short prompt where that has none"
    if recipe.prompts != "auto":
        return recipe.prompts, "the recipe asks for it"
    if recipe.model.name == "embedded":
        return "short", "the embedded model knows the script language"
    if recipe.cold_start.method != "none":
        return "short", "the cold start teaches the script language"
    return "examples", "no cold start teaches this model the script language"
