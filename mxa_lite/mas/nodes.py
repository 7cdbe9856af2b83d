"""The nodes of the script language: agent with tools, ensemble, debate, reflection, router.

Constructors take the paper's further arguments and ignore them.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mxa_lite.mas import answers, prompts
from mxa_lite.mas.core import (
    Context,
    Data,
    Message,
    WorkflowNode,
    attempt,
    current_frame,
    deliverable,
    describe,
    gather,
    node_class,
    runtime,
    solutions,
    visit,
)

CODE_TOOLS = ("python", "execute_code")
_PLACE = re.compile(r"(?<!\w)\{(\w+)\}")  # not the braces of \boxed{answer}
_SYNONYMS = {"response": "solution", "answer": "solution", "reflection": "critique"}
_NEGATIVE = r"\b(?:NOT|NO|NEVER|CANNOT|HARDLY|PARTLY|PARTIALLY|INCORRECT\w*|WRONG)\b|N['\u2019]T\b"


def python_tool(code: str, *args: Any, **kwargs: Any) -> str:
    """Runs a Python program in a sandbox of its own and returns what it printed."""
    return runtime.client.tool("python", str(code))


class MathEnvironment:
    """The paper's code environment; `execute` is the `python` tool."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.execute = python_tool


class ToolRegistry:
    """Tools an agent may call. `python` and `execute_code` need no function of their own."""

    def __init__(self) -> None:
        self.functions: dict[str, Callable[..., Any]] = {}
        self.schemas: dict[str, Data] = {}

    def register(
        self,
        name: str,
        func: Callable[..., Any] | None = None,
        description: str = "",
        parameters: Data | None = None,
    ) -> ToolRegistry:
        """Adds a tool; `parameters` is a JSON schema. ValueError for an unknown built-in."""
        if func is None:
            _need(name in CODE_TOOLS, f"tool {name} needs a function; built in: {CODE_TOOLS}")
            func, parameters = python_tool, {"properties": {"code": {"type": "string"}}}
            description = description or "runs a Python program, shows what it prints"
        self.functions[name] = func
        self.schemas[name] = {
            "name": name,
            "description": description,
            "parameters": parameters or {},
        }
        return self

    def get_tool(self, name: str) -> Callable[..., Any] | None:
        return self.functions.get(name)

    def list_tools(self) -> list[str]:
        return list(self.functions)

    def get_tool_schemas(self) -> list[Data]:
        """The tools in the OpenAI form."""
        return [{"type": "function", "function": schema} for schema in self.schemas.values()]

    def call_tool(self, name: str, arguments: Data) -> Any:
        """The tool's result; ValueError for an unknown tool, else what the tool raises."""
        _need(name in self.functions, f"unknown tool {name}, there is {', '.join(self.functions)}")
        return self.functions[name](**arguments)

    def arguments(self, name: str) -> list[str]:
        """The names of a tool's arguments."""
        return list(self.schemas[name]["parameters"].get("properties", {}))

    def prompt(self) -> str:
        """What an agent is told of its tools: names with arguments, descriptions."""
        signatures = {name: f"{name}({', '.join(self.arguments(name))})" for name in self.schemas}
        return prompts.tools([(signatures[n], s["description"]) for n, s in self.schemas.items()])


def _need(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _requests(reply: str, tools: list[str]) -> list[tuple[str, str]]:
    """Tool calls in a reply as (tool, code), or as ("", JSON) when written out."""
    asked = [part.partition("</tool_call>")[0] for part in reply.split("<tool_call>")[1:]]
    if asked and tools:
        return [("", text) for text in asked]
    parts = reply.split("</solution>")
    outside = "".join(part.partition("<solution>")[0] for part in parts)
    python = [body for language, body in answers.fences(outside) if language in ("python", "py")]
    names = [name for name in CODE_TOOLS if name in tools]
    return list(zip(names[:1], python, strict=False))


@node_class
class AgentNode(WorkflowNode):
    """One model with a role. It answers the question, or continues what it is shown.

    Without tools a visit is one call. With tools it may ask for them in `max_turns` calls; then
    one last call asks for the answer.
    """

    kind = "agent"
    name: str
    system_prompt: str = ""
    tool_registry: ToolRegistry | None = None
    max_turns: int = 10
    temperature: float | None = None

    def process(self, context: Context) -> Message:
        here = current_frame()
        frame = here if here.node is self else here.child(self)
        registry = self.tool_registry or ToolRegistry()
        tools, turns = registry.list_tools(), max(self.max_turns, 1)
        system = prompts.agent_system(str(self.system_prompt or ""), runtime.kind)
        if tools:
            system += "\n" + registry.prompt()
        messages = [{"role": "system", "content": system}]

        def ask(text: str) -> str:
            messages.append({"role": "user", "content": text})
            number, sent = next(frame.calls), [dict(message) for message in messages]
            reply = runtime.client.call(self.name, frame.path, number, sent, self.temperature)
            messages.append({"role": "assistant", "content": reply})
            return reply

        reply = ask(context.prompt())
        for turn in range(1, turns + 1):
            results = [_use(registry, name, text) for name, text in _requests(reply, tools)]
            if not results:
                break
            reply = ask("\n".join([*results, *[prompts.FINAL_TURN] * (turn == turns)]))
        return Message(reply)


def _use(registry: ToolRegistry, name: str, text: str) -> str:
    """A tool's result as text for the model, also when the request or the tool is broken."""
    try:
        if name:
            arguments: Any = {next(iter(registry.arguments(name)), "code"): text}
        else:
            request = json.loads(text, strict=False)
            name = str(request["name"])
            arguments = request.get("arguments", request.get("parameters", {}))
        result = registry.call_tool(name, dict(arguments))
    except Exception as error:  # the tool is the script's, the request the model's
        result = f"error: {describe(error)}"
    return f"[{name or 'tool'}] {answers.shorten(str(result))}"


@node_class
class EnsembleNode(WorkflowNode):
    """Members answer side by side; a vote or a judge decides between them.

    majority_vote: the value most members give, the earliest on a tie; `consensus_agent` decides
    only when values differ. weighted_vote: the value of most weight. consensus: always the judge.
    """

    kind = "ensemble"
    name: str
    agents: Sequence[WorkflowNode]
    strategy: str = "majority_vote"
    consensus_agent: WorkflowNode | None = None
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        self.agents = list(self.agents)
        judge = self.consensus_agent or self.strategy != "consensus"
        known = self.strategy in ("majority_vote", "weighted_vote", "consensus")
        _need(self.agents, f"ensemble {self.name} has no agents")
        _need(known, f"unknown strategy {self.strategy!r} of ensemble {self.name}")
        _need(judge, f"ensemble {self.name}: consensus needs a consensus_agent")
        weighed = self.weights is None or len(self.weights) == len(self.agents)
        _need(weighed, f"ensemble {self.name}: one weight per agent")

    def process(self, context: Context) -> Message:
        replies = gather(self.agents, context)
        given = [reply for reply in replies if not reply.failed]
        if not given:
            raise RuntimeError(f"all members of {self.name} failed: {replies[0]}")
        weights = (self.strategy == "weighted_vote" and self.weights) or [1.0] * len(replies)
        totals: dict[Any, float] = {}
        first: dict[Any, Message] = {}
        for reply, weight in zip(replies, weights, strict=True):
            if not reply.failed and answers.in_form(reply, runtime.kind):
                text = answers.extract(reply, runtime.kind)
                value = answers.program(text) if runtime.kind == "code" else answers.value(text)
                totals[value] = totals.get(value, 0) + weight
                first.setdefault(value, reply)
        split = self.strategy == "majority_vote" and len(totals) > 1
        if self.consensus_agent and (split or self.strategy == "consensus"):
            return _judged(self.consensus_agent, context, given)
        winner = first[max(totals, key=lambda value: totals[value])] if totals else given[0]
        return Message(str(winner))


def _judged(judge: WorkflowNode, context: Context, given: Sequence[Message]) -> Message:
    text = prompts.judge(context.question, solutions(given))
    return Message(str(visit(judge, Context.asking(text, given))))


@node_class
class DebateNode(WorkflowNode):
    """Debaters answer, then answer again with everybody's last answers in view; a judge ends it.

    Calls: debaters * num_rounds + 1. Without a judge the first debater judges.
    """

    kind = "debate"
    name: str
    debaters: Sequence[WorkflowNode]
    judge: WorkflowNode | None = None
    num_rounds: int = 2

    def __post_init__(self) -> None:
        self.debaters = list(self.debaters)
        _need(self.debaters, f"debate {self.name} has no debaters")

    def process(self, context: Context) -> Message:
        asked = context
        last: dict[int, Message] = {}  # a debater that fails is quoted with its earlier answer
        for _ in range(max(self.num_rounds, 1)):
            replies = gather(self.debaters, asked)
            last |= {i: reply for i, reply in enumerate(replies) if not reply.failed}
            if not last:
                raise RuntimeError(f"all debaters of {self.name} failed: {replies[0]}")
            given = [last[i] for i in sorted(last)]
            asked = Context.asking(prompts.debate(context.question, solutions(given)), given)
        return _judged(self.judge or self.debaters[0], context, given)


@node_class
class ReflectionNode(WorkflowNode):
    """Answer, then critique and refine, until the verdict is CORRECT. Calls: 1 + 2n at most.

    Own prompts may use {question}, {solution}, {critique} or the paper's names for them; other
    braces stay as they are. A prompt without {solution} stands in front of the standard one.
    """

    kind = "reflection"
    name: str
    agent: WorkflowNode
    critic_agent: WorkflowNode | int | None = None
    num_iterations: int = 2
    reflection_prompt: str | None = None
    refinement_prompt: str | None = None
    include_history: bool = False

    def process(self, context: Context) -> Message:
        given = self.critic_agent
        # a number in the critic's place is num_iterations, the paper's order of arguments
        turns = given if isinstance(given, int) else self.num_iterations
        critic = self.agent if given is None or isinstance(given, int) else given
        solution = visit(self.agent, context.copy())
        question = context.question
        critiques: list[str] = []
        for _ in range(turns):
            shown = deliverable(solution)
            values = {"question": question, "solution": shown}
            text = _filled(self.reflection_prompt, prompts.critique(question, shown), values)
            critique = attempt(critic, Context.asking(text, [solution]))
            if critique.failed or says_correct(critique):
                break
            critiques.append(deliverable(critique))
            values["critique"] = "\n".join(critiques if self.include_history else critiques[-1:])
            standard = prompts.refine(question, shown, values["critique"])
            text = _filled(self.refinement_prompt, standard, values)
            refined = attempt(self.agent, Context.asking(text, [solution, critique]))
            if refined.failed:
                break
            solution = refined
        return Message(str(solution))


def says_correct(critique: str) -> bool:
    """Whether a critic's verdict is the word CORRECT: the last VERDICT, else its last sentence."""
    text = re.sub(r"<[^<>]*>", " ", critique.upper()).strip(" \t\r\n.!*_`")
    _, tag, verdict = text.rpartition("VERDICT")
    if tag:
        said = re.sub(r"\A\W+", "", verdict).partition("\n")[0]
        found = re.search(r"\bCORRECT\b", said)
    else:
        said = re.split(r"[.!?\n]", text)[-1]
        found = re.search(r"\bCORRECT\Z", said)
    return found is not None and not re.search(_NEGATIVE, said)


def _filled(template: str | None, standard: str, values: Mapping[str, str]) -> str:
    if template is None:
        return standard
    text = _PLACE.sub(lambda m: values.get(_SYNONYMS.get(m[1], m[1]), m[0]), template)
    places = {_SYNONYMS.get(name, name) for name in _PLACE.findall(template)}
    return text if "solution" in places else f"{text}\n{standard}"


@node_class
class RouterNode(WorkflowNode):
    """Runs the route that `routing_func(context)` names; the default for other names or an error.

    Without a route of the default's name the first route is the default.
    """

    kind = "router"
    name: str
    routes: Mapping[str, WorkflowNode]
    routing_func: Callable[[Context], str]
    default_route: str = "default"

    def __post_init__(self) -> None:
        _need(self.routes, f"router {self.name} has no routes")

    def process(self, context: Context) -> Message:
        default = self.routes.get(self.default_route) or next(iter(self.routes.values()))
        try:
            route = self.routes.get(self.routing_func(context), default)
        except Exception as error:  # the function is the script's own; said in its stderr
            print(f"router {self.name}: {error!r}; the default route", file=sys.stderr)
            route = default
        return visit(route, context.copy())
