"""Reading recipes: YAML, `extends`, `--set`, GPU presets, and messages a person can act on."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from yaml.constructor import ConstructorError

from mxa_lite.errors import InputError, read_text
from mxa_lite.recipe import own
from mxa_lite.recipe.checks import check_data, check_installed, check_model, check_shape, is_path
from mxa_lite.recipe.keys import DATA_SUFFIXES, GPU_PRESETS, Recipe, TaskSpec, flat
from mxa_lite.tree import ROLES

_HERE = Path(__file__).parent.parent
SHIPPED = next(p for p in (_HERE / "recipes", _HERE.parent / "recipes") if p.is_dir())
SET = "--set"
_MAX_SHOWN = 5
_SHAPE = {"rollout.designs", "rollout.executions"}
_MAX_CHARS = 1_000_000  # of a recipe
# Blocks that one value may stand for: the key names that value is given to.
SHORT_FORMS = {
    "task": ("name",),
    "rollout.max_completion_tokens": ROLES,
    "train.learning_rate": ROLES,
}


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `5e-6` is a number too, and a key stands once in its block."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuses a key that stands twice, where YAML would take the later one in silence."""
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise ConstructorError(None, None, f'"{name}" stands twice', key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789")
)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise InputError(f"{where}: not valid YAML: nested too deeply") from None
    except (AttributeError, LookupError):  # in PyYAML, for `!!timestamp x` and `!!bool x`
        raise InputError(f"{where}: not valid YAML: a value is not what its tag says") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: `!!int x`
        first = " ".join(str(error).split()).replace('"<unicode string>", ', "")
        raise InputError(f"{where}: not valid YAML: {first}") from None


def shipped() -> list[str]:
    """Names of the recipes in the package, such as "arithmetic" or "ablations/schedule-coupled"."""
    names = (p.relative_to(SHIPPED).with_suffix("").as_posix() for p in SHIPPED.rglob("*.yaml"))
    return sorted(name for name in names if name.rpartition("/")[2] != "base")


def find(source: str | Path, beside: Path | None = None) -> Path:
    """The file `source` means: a path, a run folder, or the name of a shipped recipe.

    beside: folder that is searched first (of the recipe that says `extends`).
    """
    name = str(source)
    beside_it = [beside / name, beside / f"{name}.yaml"] if beside else []
    expanded = Path(os.path.expanduser(name))
    for path in (*beside_it, expanded, expanded / "recipe.yaml"):
        if os.path.isfile(path):  # also false where Path.is_file raises: too long a name
            return path
    plain = name.removeprefix("recipes/").removesuffix(".yaml")
    if plain and os.path.isfile(SHIPPED / f"{plain}.yaml"):
        return SHIPPED / f"{plain}.yaml"
    names = shipped()
    close = difflib.get_close_matches(plain, names, 1)
    top = ", ".join(name for name in names if "/" not in name)
    hint = f'did you mean "{close[0]}"?' if close else f"`mxa-lite recipes` lists {top} and more"
    raise InputError(f'no recipe or run folder "{name}"; {hint}')


def _read(path: Path) -> dict[str, Any]:
    text = read_text(path)
    if len(text) > _MAX_CHARS:
        raise InputError(f"{path}: longer than {_MAX_CHARS:,} characters, so it is no recipe")
    data = _parse(text, str(path))
    if data is None:
        raise InputError(f"{path}: the recipe is empty")
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise InputError(f"{path}: a recipe is a list of `key: value` lines")
    return dict(_with_own(data, path.parent, str(path)))


def _with_own(value: Any, folder: Path, where: str, key: str = "") -> Any:
    """A recipe's data in which `FILE.py:NAME` became what it means. folder: paths start there."""
    if isinstance(value, dict):
        return {k: _with_own(v, folder, where, f"{key}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_own(item, folder, where, key) for item in value]
    if isinstance(value, str) and value.lower().endswith(DATA_SUFFIXES):
        beside = os.path.join(folder, os.path.expanduser(value))
        return beside if os.path.isfile(beside) else value  # else from the working folder
    if isinstance(value, str) and key == own.SCRIPTS and not value.endswith(".py"):
        return own.scripts(value, folder, f"{where}: {key}")
    keys = (*own.FUNCTIONS, *own.FILES, own.SCRIPTS, "task", "task.mix.name", "task.mix.score")
    if isinstance(value, str) and key in keys:
        return own.read(value, folder, f"{where}: {key}") or value
    return value


def _long(key: str, value: Any) -> Any:
    """The block that a short form stands for: `task: gsm8k`, `max_completion_tokens: 64`."""
    names = SHORT_FORMS.get(key)
    short = names and value is not None and not isinstance(value, dict)
    return dict.fromkeys(names or (), value) if short else value


def _merge(below: dict[str, Any], above: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`above` laid over `below`: blocks merge, an empty block changes nothing."""
    merged = dict(below)
    for key, value in above.items():
        dotted = f"{prefix}{key}"
        old, new = _long(dotted, merged.get(key)), _long(dotted, value)
        if isinstance(new, dict):
            merged[key] = _merge(old if isinstance(old, dict) else {}, new, f"{dotted}.")
        elif new is not None or not isinstance(old, dict):
            merged[key] = new
    return merged


def _lay(below: dict[str, Any], above: dict[str, Any], *, add: bool = False) -> dict[str, Any]:
    """A layer of keys over another, and between them the preset that it names with `gpu`.

    A task block with a source replaces the one below as a whole, unless it is to add to it.
    """
    task = _long("task", above.get("task"))
    if not add and isinstance(task, dict) and {"name", "mix", "train"} & set(task):
        below = {**below, "task": None}
    return _merge(_merge(below, GPU_PRESETS.get(str(above.get("gpu")), {})), above)


def _layers(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path.resolve() in above:
        raise InputError(f"{path}: extends itself")
    data = _read(path)
    base = data.pop("extends", None)
    if base is None:
        return _lay({}, data)
    try:
        parent = find(str(base), beside=path.parent)
    except InputError as error:
        raise InputError(f"{path}: extends: {error}") from None
    return _lay(_layers(parent, (*above, path.resolve())), data)


def _nested(key: str, value: Any) -> dict[str, Any]:
    for name in reversed(key.split(".")):
        value = {name: value}
    return dict(value)


def override(recipe: Recipe, settings: dict[str, Any]) -> Recipe:
    """A copy with some dotted keys changed, validated again."""
    data = recipe.model_dump(round_trip=True)
    for key, value in settings.items():
        data = _merge(data, _nested(key, value))
    return Recipe.model_validate(data)


def packaged(name: str) -> Any:
    """The data of `templates/NAME.yaml`."""
    return yaml.safe_load((files("mxa_lite") / "templates" / f"{name}.yaml").read_text("utf-8"))


def smoked(recipe: Recipe, sets: Sequence[str]) -> Recipe:
    """A copy with the small numbers of `smoke.yaml`, but for what `--set` names."""
    current, blocks = flat(recipe), [item.partition("=")[0].strip() for item in sets]
    limits = packaged("smoke")
    free = [key for key in limits if not any(_within(key, block) for block in blocks)]
    large = [key for key in free if current[key] is None or current[key] > limits[key]]
    return override(recipe, {key: limits[key] for key in large})


def _apply_sets(data: dict[str, Any], sets: Sequence[str]) -> tuple[dict[str, Any], set[str]]:
    pairs: list[tuple[str, Any]] = []
    for item in sets:
        key, equals, text = item.partition("=")
        if not equals or not all(name.isidentifier() for name in key.strip().split(".")):
            raise InputError(f'{SET} {item}: must look like "train.steps=60"')
        pairs.append((key.strip(), _parse(text, f"{SET} {item}")))
    pairs.sort(key=lambda pair: pair[0] != "gpu")  # the preset first: other keys win over it
    for key, value in pairs:
        layer = _with_own(_nested(key, value), Path(), SET)
        data = _lay(data, layer, add=key != "task")
    return data, {key for key, _ in pairs}


def _fields(loc: Iterable[int | str]) -> tuple[str, list[str]]:
    """The dotted key of a pydantic location, and the keys allowed in its last known block."""
    block: Any = Recipe
    key, allowed = "", list(Recipe.model_fields)
    for field in loc:
        if isinstance(field, int):
            key += f"[{field}]"
        elif block is not None:  # else inside a union: the rest names pydantic's own branches
            key = f"{key}.{field}".lstrip(".")
            allowed = list(block.model_fields)
            inner = block.model_fields[field].annotation if field in allowed else None
            inner = getattr(inner, "__args__", (inner,))[0]
            block = inner if hasattr(inner, "model_fields") else None
    return key, allowed


def _unknown(key: str, allowed: list[str]) -> str:
    head, dot, last = key.rpartition(".")
    beside = {name: f"{head}{dot}{name}" for name in allowed}
    elsewhere: dict[str, str] = {}
    for top, field in Recipe.model_fields.items():  # right key, wrong depth
        for inner in getattr(field.annotation, "model_fields", ()):
            elsewhere.setdefault(inner, f"{top}.{inner}")
    usual = next((key for key, names in packaged("usual").items() if last in names), "")
    meant = beside.get(usual.rpartition(".")[2]) or usual or elsewhere.get(last)
    for names in (beside, elsewhere):  # the same block first
        close = difflib.get_close_matches(last, names, 1)
        meant = meant or (names[close[0]] if close else None)
    if not meant:
        return f'unknown key "{key}"; allowed: {", ".join(allowed)}'
    return f'unknown key "{key}"' + (f": {meant}" if " " in meant else f', did you mean "{meant}"?')


def _within(key: str, block: str) -> bool:
    """Whether a dotted key is a block or lies in it."""
    return key == block or key.startswith((f"{block}.", f"{block}["))


def _explain(error: ValidationError, where: str, set_keys: set[str]) -> str:
    lines: dict[str, str] = {}
    for item in error.errors(include_url=False):
        key, allowed = _fields(item["loc"])
        if item["type"] == "extra_forbidden":
            text = _unknown(key, allowed)
        elif item["type"] == "missing":
            text = f'the key "{key}" is missing'
        elif item["type"] == "literal_error":
            also = " or FILE.py:NAME" * (key in own.FUNCTIONS) + " or FILE.py" * (key in own.FILES)
            text = f'{key} is "{item["input"]}"; allowed: {item["ctx"]["expected"]}{also}'
        else:
            message = item["msg"].removeprefix("Value error, ").replace("Input should", "must")
            message = re.sub(r"valid dictionary or instance of \w+", "block of keys", message)
            value = item["input"]
            received = f", got {value!r}" if isinstance(value, str | int | float) else ""
            text = f"{key} {message}{received}".strip()
        source = SET if any(_within(key, k) or _within(k, key) for k in set_keys) else where
        lines.setdefault(key, f"{source}: {text}")
    texts, more = list(lines.values())[:_MAX_SHOWN], len(lines) - _MAX_SHOWN
    return "\n".join(texts + [f"and {more} more"] * (more > 0))


def load(
    source: str | Path, sets: Sequence[str] = (), *, data_files: bool = True, model: bool = True
) -> Recipe:
    """The recipe that `source` and the `--set` texts make.

    data_files, model: whether data files and loggers, and the model folder, must be there; without
    data files the recipe is a stored one, which need not be able to learn.
    Raises InputError with at most six lines; imports nothing heavy.
    """
    path = find(source)
    data, set_keys = _apply_sets(_layers(path), sets)
    recorded = data.pop("own", None)  # hashes, in a recipe that a run has stored
    # a known key without a value keeps its default; an unknown one is a mistake all the same
    data = {k: v for k, v in data.items() if v is not None or k not in Recipe.model_fields}
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise InputError(_explain(error, str(path), set_keys)) from None
    for file, hash_now in recipe.own.items():
        if isinstance(recorded, dict) and recorded.get(file, hash_now) != hash_now:
            raise InputError(f"{path}: own: {file} is not the file that the run was begun with")
    if model:
        check_model(recipe, SET if "model.name" in set_keys else str(path))
    if data_files:
        check_shape(recipe, SET if set_keys & _SHAPE else str(path))
        data_is_set = any(key.startswith(("task", "cold_start")) for key in set_keys)
        check_data(recipe, SET if data_is_set else str(path))
        check_installed(recipe, SET if set_keys & {"engine", "train.report_to"} else str(path))
    return _anchored(recipe)


def _anchored(recipe: Recipe) -> Recipe:
    """With whole paths, so that a stored run, and what is exported of it, works from any folder."""

    def absolute(path: str | None) -> str | None:
        return path and os.path.abspath(os.path.expanduser(path))

    def anchored(task: TaskSpec) -> TaskSpec:
        paths: dict[str, Any] = {"train": absolute(task.train), "test": absolute(task.test)}
        if isinstance(task.name, str) and task.name.lower().endswith(DATA_SUFFIXES):
            paths["name"] = absolute(task.name)
        return task.model_copy(update=paths | {"mix": [anchored(source) for source in task.mix]})

    start, model = recipe.cold_start, recipe.model
    if is_path(model.name):
        model = model.model_copy(update={"name": absolute(model.name)})
    start = start.model_copy(update={"data": absolute(start.data)})
    above = {"task": anchored(recipe.task), "model": model, "cold_start": start}
    return recipe.model_copy(update=above)


def dump(recipe: Recipe, versions: dict[str, str] | None = None) -> str:
    """The resolved recipe as YAML that `load` reads back to an equal one."""
    data = recipe.model_dump(mode="json")
    data["versions"] = versions if versions is not None else recipe.versions
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def headline(name: str) -> str:
    """What a shipped recipe says of itself: the first line of its header comment."""
    return find(name).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
