"""The script language. `run_script` runs one script against a client.

A script sees these names, `question`, and may import them from `mas` or from the paper's modules.
Standard library only.
"""

from __future__ import annotations

import contextlib
import linecache
import random
import sys
import types
from collections.abc import Iterator

from mxa_lite.mas_core import (
    BudgetError,
    Client,
    Context,
    Message,
    MessageType,
    WorkflowNode,
    answer,
    runtime,
)
from mxa_lite.mas_flow import AgentGraph, ConditionalWorkflow, LoopWorkflow, Workflow
from mxa_lite.mas_nodes import (
    AgentNode,
    DebateNode,
    EnsembleNode,
    MathEnvironment,
    ReflectionNode,
    RouterNode,
    ToolRegistry,
    python_tool,
)

Agent, Ensemble, Debate = AgentNode, EnsembleNode, DebateNode
Reflection, Router = ReflectionNode, RouterNode

# what `from mas import *` gives, and what a script has without any import
__all__ = [  # noqa: RUF022 - grouped by meaning
    "Agent", "Ensemble", "Debate", "Reflection", "Router", "answer",
    "AgentNode", "EnsembleNode", "DebateNode", "ReflectionNode", "RouterNode", "WorkflowNode",
    "Workflow", "ConditionalWorkflow", "LoopWorkflow", "AgentGraph",
    "ToolRegistry", "MathEnvironment", "python_tool", "Context", "Message", "MessageType",
]  # fmt: skip

MODULES = ("mas", "workflow", "workflow.nodes", "workflow.core", "utils", "utils.environments")
_FILE = "script.py"

# `import workflow.nodes` and then `workflow.nodes.AgentNode`
nodes = core = environments = sys.modules[__name__]


@contextlib.contextmanager
def _script_modules(main: types.ModuleType) -> Iterator[None]:
    here = sys.modules[__name__]
    replaced = {name: sys.modules.get(name) for name in ("__main__", *MODULES)}
    sys.modules.update(dict.fromkeys(MODULES, here), __main__=main)
    try:
        yield
    finally:
        for name, module in replaced.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def run_script(source: str, question: str, kind: str, client: Client, seed: int) -> None:
    """Runs a script as `__main__`; at its normal end sends its answer to the client, if it has one.

    kind: "math" or "code". Raises what the script raises, SystemExit and BudgetError among it; no
    answer is sent then.
    """
    runtime.bind(client, question, kind)
    random.seed(seed)
    main = types.ModuleType("__main__")
    main.__dict__.update({name: globals()[name] for name in __all__}, question=question)
    main.__dict__["__file__"] = _FILE
    linecache.cache[_FILE] = (len(source), None, source.splitlines(keepends=True), _FILE)
    with _script_modules(main):
        exec(compile(source, _FILE, "exec"), main.__dict__)
    message = runtime.answer
    if message is None and runtime.last_run is not None:
        if runtime.last_run.message_type is MessageType.ERROR:
            print(f"the workflow ended with an error: {runtime.last_run}", file=sys.stderr)
        else:
            message = str(runtime.last_run)
    if message is not None:
        client.answer(message)
