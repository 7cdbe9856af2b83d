"""A user's own prompts: functions of a file that stand in for the kit's of the same name.

The agents' prompts are made inside the sandbox, the designer's outside: both take them from here.
Standard library only.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType
from typing import Any

from mxa_lite.texts import prompts

Prompt = Callable[..., Any]
KIT: dict[str, Prompt] = {
    name: value
    for name, value in vars(prompts).items()
    if isinstance(value, FunctionType) and not name.startswith("_")
}


def chosen(namespace: Mapping[str, Any]) -> dict[str, Prompt]:
    """The kit's prompts that a file's functions replace, by name.

    Raises ValueError for a function that is none of them: helpers begin with an underscore.
    """
    functions = {
        name: value
        for name, value in namespace.items()
        if isinstance(value, FunctionType) and value.__module__ == namespace["__name__"]
    }
    for name in functions:
        if name not in KIT and not name.startswith("_"):
            raise ValueError(f"{name} is no prompt; there are {', '.join(KIT)}")
    return {name: value for name, value in functions.items() if name in KIT}


def checked(name: str, function: Prompt, refuse: Callable[[str, Any], Any]) -> Prompt:
    """The function, its results of the kit's shape; else `refuse(expected, result)` raises."""
    messages = inspect.signature(KIT[name]).return_annotation != "str"

    @functools.wraps(KIT[name])
    def prompt(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        if messages and not _are_messages(result):
            refuse('messages, a list of {"role", "content"}', result)
        elif not messages and not isinstance(result, str):
            refuse("a text", result)
        return result

    return prompt


def _are_messages(result: Any) -> bool:
    return isinstance(result, list) and all(
        isinstance(message, dict)
        and message.keys() == {"role", "content"}
        and all(isinstance(text, str) for text in message.values())
        for message in result
    )


@contextmanager
def replaced(functions: Mapping[str, Prompt]) -> Iterator[None]:
    """Meanwhile the kit's prompts are these."""
    vars(prompts).update(functions)
    try:
        yield
    finally:
        vars(prompts).update(KIT)
