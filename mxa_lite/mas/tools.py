"""Tools of agents: the registry, the built-in `python` tool, and how a reply asks for one."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from typing import Any

from mxa_lite.mas.core import Data, describe, runtime
from mxa_lite.texts import answers, prompts

CODE_TOOLS = ("python", "execute_code")
_PROGRAM = ("code", "python_code", "source", "source_code", "program", "script", "snippet")
_PYTHON = re.compile(r"python|execut|interpret|run_?code", re.I)  # names of tools that run programs
_REFUSED = re.compile(r"Operation not permitted|Permission denied")  # what the sandbox answers


def python_tool(code: str, stdin: str = "", **kwargs: Any) -> str:
    """Runs a Python program in a sandbox of its own and returns what it printed."""
    if stdin:
        code = f"import io, sys\nsys.stdin = io.StringIO({stdin!r})\n{code}"
    return runtime.client.tool(str(code))


class MathEnvironment:
    """The paper's code environment; `execute` is the `python` tool."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.execute = python_tool


class ToolRegistry:
    """Tools an agent may call. `python` and `execute_code` need no function of their own."""

    def __init__(self) -> None:
        self.tools: dict[str, Data] = {}
        self._tools = self.tools  # the paper's

    def register(
        self,
        name: str,
        func: Callable[..., Any] | None = None,
        description: str = "",
        parameters: Data | None = None,
    ) -> ToolRegistry:
        """Adds a tool; `parameters` is a JSON schema. ValueError for an unknown built-in."""
        if func is None:
            if name not in CODE_TOOLS:
                raise ValueError(f"tool {name} needs a function; built in: {CODE_TOOLS}")
            func, parameters = python_tool, {"properties": {"code": {"type": "string"}}}
            description = description or "runs a Python program, shows what it prints"
        tool = {"function": func, "description": description, "parameters": parameters or {}}
        self.tools[name] = tool
        return self

    def get_tool(self, name: str) -> Data | None:
        """function, description and parameters of a tool; None for an unknown one."""
        return self.tools.get(name)

    def list_tools(self) -> list[str]:
        return list(self.tools)

    def get_tool_schemas(self) -> list[Data]:
        """The tools in the OpenAI form."""
        keys = ("description", "parameters")
        schemas = [(name, {key: tool[key] for key in keys}) for name, tool in self.tools.items()]
        return [{"type": "function", "function": {"name": n, **schema}} for n, schema in schemas]

    def call_tool(self, name: str, arguments: Data) -> Any:
        """The tool's result; ValueError for an unknown tool, else what the tool raises."""
        if name not in self.tools:
            raise ValueError(f"unknown tool {name}, there is {', '.join(self.tools)}")
        return self.tools[name]["function"](**arguments)

    def arguments(self, name: str) -> list[str]:
        """The names of a tool's arguments: its schema's, else its function's."""
        tool = self.tools[name]
        if declared := tool["parameters"].get("properties"):
            return list(declared)
        try:
            signature = inspect.signature(tool["function"])
        except (TypeError, ValueError):  # a built-in function that tells none
            return []
        return [p.name for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]

    def program_argument(self, name: str) -> str | None:
        """The argument that takes a Python program, by its name or by what the tool is called."""
        arguments = self.arguments(name)
        for argument in arguments:
            if argument in _PROGRAM:
                return argument
        text = f"{name} {self.tools[name]['description']}"
        return arguments[0] if arguments and _PYTHON.search(text) else None

    def prompt(self) -> str:
        """What an agent is told of its tools: names with arguments, descriptions."""
        signatures = [f"{name}({', '.join(self.arguments(name))})" for name in self.tools]
        descriptions = [tool["description"] for tool in self.tools.values()]
        return prompts.tools(list(zip(signatures, descriptions, strict=True)))


def tool_results(reply: str, registry: ToolRegistry) -> list[str]:
    """What the tools say that a reply asks for, as text for the model; empty if it asks for none.

    It asks by `<tool_call>` JSON, or by a fenced program, of which the first one is run.
    """
    if not registry.tools:
        return []
    requests = [part.partition("</tool_call>")[0] for part in reply.split("<tool_call>")[1:]]
    if requests:
        return [_requested(registry, request) for request in requests]
    parts = reply.split("</solution>")
    outside = "".join(part.partition("<solution>")[0] for part in parts)
    programs = [body for language, body in answers.fences(outside) if language in answers.PYTHON]
    for name in registry.tools if programs else ():
        if argument := registry.program_argument(name):
            return [_result(registry, name, {argument: programs[0]})]
    return []


def _requested(registry: ToolRegistry, text: str) -> str:
    name = "tool"
    try:
        request = json.loads(text, strict=False)
        name = str(request["name"])
        arguments = dict(request.get("arguments", request.get("parameters", {})))
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # the model's request may be any JSON, or none
        return f"[{name}] error: {describe(error)}"
    return _result(registry, name, arguments)


def _result(registry: ToolRegistry, name: str, arguments: Data) -> str:
    """A tool's result or error. Where the script's own function would run a program in a process,
    which no script may start, the built-in tool runs it."""
    try:
        result = str(registry.call_tool(name, arguments))
    except (Exception, SystemExit) as error:  # the tool is the script's own: it may raise anything
        result = f"error: {describe(error)}"
    program = registry.program_argument(name) if name in registry.tools else None
    if program in arguments and _REFUSED.search(result):
        stdin = [text for key, text in arguments.items() if "input" in key or "stdin" in key]
        result = python_tool(arguments[program], *stdin[:1])
    return f"[{name}] {answers.shorten(result)}"
