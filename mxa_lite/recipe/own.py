"""A user's own ideas without a fork: `FILE.py:NAME` or `FILE.py` where a recipe names a choice.

The file is read with the recipe and copied into the run folder. It runs only when one of its
functions is first called, with the rights of whoever started the kit; reports and comparisons of
finished runs call none. Whatever goes wrong in it is one sentence with file and line. Standard
library only.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import math
import numbers as numeric
import os
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from mxa_lite.errors import InputError, read_text
from mxa_lite.tree import ROLES

FUNCTIONS = ("credit.reward", "credit.advantage", "schedule.mode", "task.name", "task.score")
FILES = ("rollout.nodes", "prompts")  # these name a file alone
SCRIPTS = "eval.systems"  # this one a folder of them
FOLDER = "own"  # of a run folder, where the copies lie
_REFERENCE = re.compile(r"(.+\.py)(?::(\w+))?")


@dataclass(frozen=True)
class Own:
    """A user's file, and the function in it that the recipe names. Calling it calls that function.

    file: its name, also in the run folder. path: where it was read, for messages.
    """

    file: str
    name: str
    text: str = field(repr=False)
    path: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.name}" if self.name else self.file

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the text's SHA-256."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns; InputError, with file and line, for what it raises."""
        return self.use(lambda function: function(*arguments))

    def use(self, call: Callable[[Callable[..., Any]], Any]) -> Any:
        """`call` with the function: for results that are only made while they are read."""
        function = self.namespace().get(self.name)
        if not callable(function):
            raise InputError(f"{self.path}: has no function {self.name!r}")
        with _explained(self):
            return call(function)

    def namespace(self) -> dict[str, Any]:
        """The names the file defines; it runs once, when they are first wanted."""
        with _explained(self):
            return _run(self.path, self.file, self.text)

    def refuse(self, expected: str, result: Any) -> NoReturn:
        """Raise InputError for a result of the wrong shape."""
        code = getattr(self.namespace()[self.name], "__code__", None)
        where = f"{self.path} line {code.co_firstlineno}" if code else self.path
        raise InputError(f"{where}: {self.name} must return {expected}, not {result!r:.80}")


@contextlib.contextmanager
def _explained(own: Own) -> Iterator[None]:
    """Turns what the user's code raises into one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the user's own code may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == own.path]
        where = f"{own.path} line {lines[-1]}" if lines else own.path
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{where}: {reason}") from error


@functools.cache
def _run(path: str, file: str, text: str) -> dict[str, Any]:
    module = types.ModuleType(f"own_{Path(file).stem}")
    sys.modules[module.__name__] = module  # where dataclasses look up their module
    exec(compile(text, path, "exec", dont_inherit=True), vars(module))
    return vars(module)


def read(value: str, folder: Path, where: str) -> Own | None:
    """The file that a recipe's text means, None when it means none; it is read and not run.

    folder: of the recipe, whose paths are relative to it; copies lie in its `own/`. Raises
    InputError: a missing file, or one that is no Python.
    """
    match = _REFERENCE.fullmatch(value)
    if match is None:
        return None
    name = os.path.expanduser(match[1])
    path = next((p for p in (folder / name, folder / FOLDER / name) if p.is_file()), None)
    if path is None:
        raise InputError(f'{where}: the file "{match[1]}" does not exist beside the recipe')
    text = read_text(path)
    try:
        compile(text, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = f" line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise InputError(f"{path}{line}: {getattr(error, 'msg', error)}") from None
    return Own(path.name, match[2] or "", text, str(path))


def scripts(value: str, folder: Path, where: str) -> list[Own]:
    """The `*.py` files of a folder, by name. Raises InputError: none there, or as `read`."""
    paths = sorted((folder / os.path.expanduser(value)).glob("*.py"))
    if not paths:
        raise InputError(f'{where}: no *.py in a folder "{value}" beside the recipe')
    files = (read(str(path.absolute()), folder, where) for path in paths)
    return [file for file in files if file is not None]


def files(chosen: Mapping[str, Own]) -> dict[str, Own]:
    """The files by name, each once. InputError when two have one name."""
    by_name: dict[str, Own] = {}
    for own in chosen.values():
        earlier = by_name.setdefault(own.file, own)
        if earlier.text != own.text:
            raise InputError(f"{own.path} and {earlier.path}: two own files need two names")
    return by_name


def notice(chosen: Mapping[str, Own]) -> list[str]:
    """A line for each choice that runs own code, to be shown before it runs."""
    inside = ("rollout.nodes", SCRIPTS)
    return [
        f"own code for {key}: {own} ({own.path}, {own.hash}), runs"
        f" {'inside the sandbox only' if key.startswith(inside) else 'with your rights'}"
        for key, own in chosen.items()
    ]


def number(own: Own, result: Any, highest: float = math.inf) -> float:
    """A finite number: any reward, or with `highest` = 1 a score in 0..1."""
    real = isinstance(result, numeric.Real) and math.isfinite(result)
    if not real or (highest < math.inf and not 0 <= result <= highest):
        own.refuse("a number" if highest == math.inf else f"a number in 0..{highest:g}", result)
    return float(result)


def numbers(own: Own, rewards: Sequence[float]) -> list[float]:
    """One finite advantage per reward."""
    results = own.use(lambda function: _listed(function(list(rewards))))
    if not isinstance(results, list) or len(results) != len(rewards):
        own.refuse(f"as many advantages as there are rewards ({len(rewards)})", results)
    return [number(own, result) for result in results]


def _listed(result: Any) -> Any:
    """What may be iterated over (a generator, an array) as a list."""
    return list(result) if isinstance(result, Iterable) else result


def roles(own: Own, step: int) -> tuple[str, ...]:
    """Who learns in a step, counted from 1: a role's name, or several."""
    result = own(step)
    chosen = [result] if isinstance(result, str) else result
    if not isinstance(chosen, Sequence) or not chosen or any(r not in ROLES for r in chosen):
        own.refuse(f"roles out of {', '.join(ROLES)}", result)
    return tuple(role for role in ROLES if role in chosen)


def rows(own: Own, split: str, seed: int, count: int) -> list[dict[str, Any]]:
    """At most `count` rows with `question` and `answer`; split: "train" or "test"."""
    results = own.use(lambda function: list(itertools.islice(function(split, seed, count), count)))
    for row in results or [None]:
        if not isinstance(row, dict) or not {"question", "answer"} <= row.keys():
            own.refuse("rows with question and answer", row)
    return results
