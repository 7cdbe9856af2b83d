"""The script language. `run_script` runs one script against a client.

A script sees these names, `question`, and may import them from `mas` or from the paper's modules.
Standard library only.
"""

from __future__ import annotations

import ast
import builtins
import linecache
import random
import re
import sys
import types
from typing import Any

from mxa_lite.mas.core import Client, Context, Message, MessageType, WorkflowNode, answer, runtime
from mxa_lite.mas.flow import (
    AgentGraph,
    ConditionalWorkflow,
    LoopWorkflow,
    Workflow,
    create_simple_chain,
)
from mxa_lite.mas.nodes import (
    AgentNode,
    DebateNode,
    EnsembleNode,
    ReflectionNode,
    RouterNode,
    create_keyword_router,
)
from mxa_lite.mas.parts import MapNode, PipelineNode, sentences
from mxa_lite.mas.tools import MathEnvironment, ToolRegistry, python_tool
from mxa_lite.texts import answers, own_prompts
from mxa_lite.texts import prompts as kit_prompts

question = ""  # set for each run
Agent, Ensemble, Debate = AgentNode, EnsembleNode, DebateNode
Vote = EnsembleNode  # what instruct models call it
Reflection, Router = ReflectionNode, RouterNode
Pipeline, Map = PipelineNode, MapNode
get_math_environment, python_execute = MathEnvironment, python_tool  # the paper's names

# what `from mas import *` gives, and what a script has without any import
__all__ = [  # noqa: RUF022 - grouped by meaning
    "question", "answer", "Agent", "Ensemble", "Vote", "Debate", "Reflection", "Router",
    "Pipeline", "Map", "PipelineNode", "MapNode", "sentences",
    "AgentNode", "EnsembleNode", "DebateNode", "ReflectionNode", "RouterNode", "WorkflowNode",
    "Workflow", "ConditionalWorkflow", "LoopWorkflow", "AgentGraph",
    "create_simple_chain", "create_keyword_router",
    "ToolRegistry", "MathEnvironment", "python_tool", "Context", "Message", "MessageType",
]  # fmt: skip

# where the paper's scripts import them from; all are this module
MODULES = (
    *("mas", "workflow", "workflow.core", "workflow.nodes", "workflow.workflow", "workflow.graph"),
    *(f"workflow.nodes.{kind}_node" for kind in ("agent", "ensemble", "debate", "reflection")),
    "workflow.nodes.router_node",
    *("utils", "utils.environments", "utils.environments.math_env"),
)
_SCRIPT, _NODES, _PROMPTS = "script.py", "nodes.py", "prompts.py"  # names in tracebacks
_LABEL = re.compile(r"[:=]|\bis\b")
for _name in MODULES:  # `import workflow.nodes`, then `workflow.nodes.AgentNode`
    globals()[_name.rpartition(".")[2]] = sys.modules[__name__]


def node_names(source: str) -> frozenset[str]:
    """The classes that a file of own nodes defines, read without running it; none if it does not
    parse, which the sandbox says where it runs it."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return frozenset()
    return frozenset(item.name for item in body if isinstance(item, ast.ClassDef))


def run_script(
    source: str,
    question: str,
    kind: str,
    client: Client,
    seed: int,
    nodes: str = "",
    prompts: str = "",
) -> None:
    """Runs a script as `__main__`; at its normal end sends its answer to the client, if it has one.

    kind: "math" or "code". nodes, prompts: texts of files of further node classes and of own
    prompts, run before it. For a process that runs one script: modules are changed. Raises what the
    script or those files raise, a SystemExit that is no success among it; no answer is sent then.
    """
    runtime.bind(client, question, kind)
    random.seed(seed)
    here, main = sys.modules[__name__], types.ModuleType("__main__")
    vars(here)["question"] = question
    sys.modules.update(dict.fromkeys(MODULES, here), __main__=main)
    language = {name: vars(here)[name] for name in __all__}
    if prompts:
        _use_prompts(prompts)
    if nodes:
        language |= _own_nodes(nodes, language)
        vars(here).update(language)
    vars(main).update(language, __file__=_SCRIPT, print=_print)
    try:
        _execute(source, _SCRIPT, main)
    except SystemExit as leaving:
        if leaving.code not in (None, 0):
            raise
    if runtime.answer is not None:
        client.answer(runtime.answer)
    elif (result := chosen_run()) is not None and result.failed:
        print(f"the workflow ended with an error: {result}", file=sys.stderr)
    elif result is not None:
        client.answer(str(result))


def _execute(source: str, name: str, module: types.ModuleType) -> None:
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec", dont_inherit=True), vars(module))


def _own_nodes(source: str, language: dict[str, Any]) -> dict[str, Any]:
    """The node classes that a file defines, by name."""
    module = types.ModuleType("nodes")
    vars(module).update(language)
    _execute(source, _NODES, module)
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, WorkflowNode)
    }


def _use_prompts(source: str) -> None:
    """Has the kit's prompts made by the functions of a file, for the rest of this process."""
    module = types.ModuleType("prompts")
    _execute(source, _PROMPTS, module)

    def refuse(expected: str, result: Any) -> None:
        raise TypeError(f"a prompt must be {expected}, not {result!r:.80}")

    for name, function in own_prompts.chosen(vars(module)).items():
        vars(kit_prompts)[name] = own_prompts.checked(name, function, refuse)


def _print(*values: Any, **options: Any) -> None:
    """`print`, which also remembers: `chosen_run` looks at what was printed last."""
    if options.get("file") in (None, sys.stdout):
        runtime.printed.append((options.get("sep") or " ").join(map(str, values)))
    builtins.print(*values, **options)


def chosen_run() -> Message | None:
    """What a script means that ran workflows and says no `answer`: the run that it printed last,
    by its text or by its answer alone; the last run if it printed none."""
    good = [(run, _value(run)) for run in reversed(runtime.runs) if not run.failed and run.strip()]
    for text in reversed(runtime.printed) if len(good) > 1 else ():
        labelled = not answers.in_form(text, runtime.kind)  # "**Answer:** 42", "The answer is 42."
        printed = _value(_LABEL.split(text)[-1].strip("* ") if labelled else text)
        for run, value in good:
            if str(run) in text or value == printed:
                return run
    return runtime.runs[-1] if runtime.runs else None


def _value(text: str) -> Any:
    return answers.comparable(answers.extract(text, runtime.kind), runtime.kind)
