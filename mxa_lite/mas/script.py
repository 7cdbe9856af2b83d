"""The script language. `run_script` runs one script against a client.

A script sees these names, `question`, and may import them from `mas` or from the paper's modules.
Standard library only.
"""

from __future__ import annotations

import linecache
import random
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

from mxa_lite.mas.core import Client, Context, Message, MessageType, WorkflowNode, answer, runtime
from mxa_lite.mas.flow import AgentGraph, ConditionalWorkflow, LoopWorkflow, Workflow
from mxa_lite.mas.nodes import (
    AgentNode,
    DebateNode,
    EnsembleNode,
    MathEnvironment,
    ReflectionNode,
    RouterNode,
    ToolRegistry,
    python_tool,
)
from mxa_lite.mas.parts import MapNode, PipelineNode, sentences

question = ""  # set for each run
Agent, Ensemble, Debate = AgentNode, EnsembleNode, DebateNode
Reflection, Router = ReflectionNode, RouterNode
Pipeline, Map = PipelineNode, MapNode

# what `from mas import *` gives, and what a script has without any import
__all__ = [  # noqa: RUF022 - grouped by meaning
    "question", "answer", "Agent", "Ensemble", "Debate", "Reflection", "Router",
    "Pipeline", "Map", "PipelineNode", "MapNode", "sentences",
    "AgentNode", "EnsembleNode", "DebateNode", "ReflectionNode", "RouterNode", "WorkflowNode",
    "Workflow", "ConditionalWorkflow", "LoopWorkflow", "AgentGraph",
    "ToolRegistry", "MathEnvironment", "python_tool", "Context", "Message", "MessageType",
]  # fmt: skip

# where the paper's scripts import them from; all are this module
MODULES = (
    *("mas", "workflow", "workflow.core", "workflow.nodes", "workflow.workflow", "workflow.graph"),
    *("utils", "utils.environments", "utils.environments.math_env"),
)
_FILE = "script.py"
for _name in MODULES:  # `import workflow.nodes`, then `workflow.nodes.AgentNode`
    globals()[_name.rpartition(".")[2]] = sys.modules[__name__]
_start_process = subprocess.run


def _run_python(args: Any, *rest: Any, input: Any = None, **options: Any) -> Any:
    """`subprocess.run` for the code tools that scripts of the paper bring along.

    A script may start no process: a Python program becomes a request to the parent, its exit status
    0 and its errors in stdout. Anything else is tried, and refused by the sandbox.
    """
    words = [args] if isinstance(args, str) else [str(word) for word in args]
    if "-c" in words[1:-1]:
        code = words[words.index("-c") + 1]
    elif len(words) > 1 and words[-1].endswith(".py"):
        code = Path(words[-1]).read_text(encoding="utf-8")
    else:
        return _start_process(args, *rest, input=input, **options)
    if input is not None:
        text = input.decode() if isinstance(input, bytes) else str(input)
        code = f"import io, sys\nsys.stdin = io.StringIO({text!r})\n{code}"
    printed = python_tool(code)
    if not any(options.get(key) for key in ("text", "universal_newlines", "encoding")):
        return subprocess.CompletedProcess(args, 0, printed.encode(), b"")
    return subprocess.CompletedProcess(args, 0, printed, "")


def run_script(source: str, question: str, kind: str, client: Client, seed: int) -> None:
    """Runs a script as `__main__`; at its normal end sends its answer to the client, if it has one.

    kind: "math" or "code". For a process that runs one script: modules are changed. Raises what the
    script raises, SystemExit and BudgetError among it; no answer is sent then.
    """
    runtime.bind(client, question, kind)
    random.seed(seed)
    here, main = sys.modules[__name__], types.ModuleType("__main__")
    vars(here)["question"] = question
    vars(main).update({name: vars(here)[name] for name in __all__}, __file__=_FILE)
    sys.modules.update(dict.fromkeys(MODULES, here), __main__=main)
    vars(subprocess)["run"] = _run_python
    linecache.cache[_FILE] = (len(source), None, source.splitlines(keepends=True), _FILE)
    exec(compile(source, _FILE, "exec", dont_inherit=True), vars(main))
    last = runtime.last_run
    if runtime.answer is not None:
        client.answer(runtime.answer)
    elif last is not None and last.failed:
        print(f"the workflow ended with an error: {last}", file=sys.stderr)
    elif last is not None:
        client.answer(str(last))
