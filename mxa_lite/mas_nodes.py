"""The nodes of the script language: agent with tools, ensemble, debate, reflection, router.

Constructors take the paper's further arguments and ignore them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mxa_lite import answers, prompts
from mxa_lite.mas_core import (
    Context,
    Data,
    Message,
    WorkflowNode,
    attempt,
    current_frame,
    deliverable,
    describe,
    gather,
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
        self.tools: dict[str, Data] = {}

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
        self.tools[name] = {
            "func": func,
            "schema": {"name": name, "description": description, "parameters": parameters or {}},
        }
        return self

    def get_tool(self, name: str) -> Callable[..., Any] | None:
        return self.tools[name]["func"] if name in self.tools else None

    def list_tools(self) -> list[str]:
        return list(self.tools)

    def get_tool_schemas(self) -> list[Data]:
        """The tools in the OpenAI form."""
        return [{"type": "function", "function": tool["schema"]} for tool in self.tools.values()]

    def call_tool(self, name: str, arguments: Data) -> Any:
        """The tool's result; ValueError for an unknown tool, else what the tool raises."""
        if name not in self.tools:
            raise ValueError(f"unknown tool {name}, there is {', '.join(self.tools)}")
        return self.tools[name]["func"](**arguments)

    def arguments(self, name: str) -> list[str]:
        """The names of a tool's arguments."""
        return list(self.tools[name]["schema"]["parameters"].get("properties", {}))

    def prompt(self) -> str:
        """What an agent is told of its tools: names with arguments, descriptions."""
        listed = []
        for name, tool in self.tools.items():
            arguments = ", ".join(self.arguments(name))
            listed.append((f"{name}({arguments})", tool["schema"]["description"]))
        return prompts.tools(listed)


def _requests(reply: str, tools: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Tool calls in a reply as (tool, code), or as ("", JSON) when written out."""
    asked = [part.partition("</tool_call>")[0] for part in reply.split("<tool_call>")[1:]]
    if asked or not tools:
        return [("", text) for text in asked if tools]
    name = next((name for name in CODE_TOOLS if name in tools), None)
    parts = reply.split("</solution>")
    outside = "".join(part.partition("<solution>")[0] for part in parts)
    python = [body for language, body in answers.fences(outside) if language in ("python", "py")]
    return [(name, body) for body in python[:1] if name]


class AgentNode(WorkflowNode):
    """One model with a role. It answers the question, or continues what it is shown.

    Without tools a visit is one call. With tools it may ask for them in `max_turns` calls; then
    one last call asks for the answer.
    """

    kind = "agent"

    def __init__(
        self,
        name: str,
        system_prompt: str = "",
        tool_registry: ToolRegistry | None = None,
        max_turns: int = 10,
        temperature: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self.system_prompt = str(system_prompt or "")
        self.tool_registry = tool_registry or ToolRegistry()
        self.max_turns = max(max_turns, 1)
        self.temperature = temperature

    def process(self, context: Context) -> Message:
        here = current_frame()
        frame = here if here.node is self else here.child(self)
        tools = self.tool_registry.tools
        system = prompts.agent_system(self.system_prompt, runtime.kind)
        if tools:
            system += "\n" + self.tool_registry.prompt()
        messages = [{"role": "system", "content": system}]

        def ask(text: str) -> str:
            messages.append({"role": "user", "content": text})
            number, sent = next(frame.calls), [dict(message) for message in messages]
            reply = runtime.client.call(self.name, frame.path, number, sent, self.temperature)
            messages.append({"role": "assistant", "content": reply})
            return reply

        reply = ask(context.prompt())
        for turn in range(1, self.max_turns + 1):
            results = [self._use(name, text) for name, text in _requests(reply, tools)]
            if not results:
                break
            reply = ask("\n".join([*results, *[prompts.FINAL_TURN] * (turn == self.max_turns)]))
        return Message(reply)

    def _use(self, name: str, text: str) -> str:
        """A tool's result as text for the model, also when the request or the tool is broken."""
        try:
            if name:
                arguments: Any = {next(iter(self.tool_registry.arguments(name)), "code"): text}
            else:
                request = json.loads(text, strict=False)
                name = str(request["name"])
                arguments = request.get("arguments", request.get("parameters", {}))
            result = self.tool_registry.call_tool(name, dict(arguments))
        except Exception as error:  # the tool is the script's, the request the model's
            result = f"error: {describe(error)}"
        return f"[{name or 'tool'}] {answers.shorten(str(result))}"


class EnsembleNode(WorkflowNode):
    """Members answer side by side; a vote or a judge decides between them.

    majority_vote: the value most members give, the earliest on a tie; `consensus_agent` decides
    only when values differ. weighted_vote: the value of most weight. consensus: always the judge.
    """

    kind = "ensemble"

    def __init__(
        self,
        name: str,
        agents: Sequence[WorkflowNode],
        strategy: str = "majority_vote",
        consensus_agent: WorkflowNode | None = None,
        weights: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self.agents = list(agents)
        self.strategy = strategy
        self.consensus_agent = consensus_agent
        self.weights = [1.0] * len(self.agents) if weights is None else list(weights)
        if not self.agents:
            raise ValueError(f"ensemble {name} has no agents")
        if strategy not in ("majority_vote", "weighted_vote", "consensus"):
            raise ValueError(f"unknown strategy {strategy!r} of ensemble {name}")
        if strategy == "consensus" and consensus_agent is None:
            raise ValueError(f"ensemble {name}: consensus needs a consensus_agent")
        if len(self.weights) != len(self.agents):
            raise ValueError(f"ensemble {name}: one weight per agent")

    def process(self, context: Context) -> Message:
        replies = gather(self.agents, [context.copy() for _ in self.agents])
        given = [reply for reply in replies if not reply.failed]
        if not given:
            raise RuntimeError(f"all members of {self.name} failed: {replies[0]}")
        weighted = self.strategy == "weighted_vote"
        totals: dict[Any, float] = {}
        first: dict[Any, Message] = {}
        for reply, weight in zip(replies, self.weights, strict=True):
            if not reply.failed and answers.in_form(reply, runtime.kind):
                value = _vote(reply)
                totals[value] = totals.get(value, 0) + (weight if weighted else 1)
                first.setdefault(value, reply)
        split = self.strategy == "majority_vote" and len(totals) > 1
        if self.consensus_agent and (split or self.strategy == "consensus"):
            return _judged(self.consensus_agent, context, given)
        winner = first[max(totals, key=lambda value: totals[value])] if totals else given[0]
        return Message(str(winner))


def _vote(reply: str) -> Any:
    text = answers.extract(reply, runtime.kind)
    return answers.program(text) if runtime.kind == "code" else answers.value(text)


def _judged(judge: WorkflowNode, context: Context, given: Sequence[Message]) -> Message:
    text = prompts.judge(context.question, solutions(given))
    return Message(str(visit(judge, Context.asking(text, given))))


class DebateNode(WorkflowNode):
    """Debaters answer, then answer again with everybody's last answers in view; a judge ends it.

    Calls: debaters * num_rounds + 1. Without a judge the first debater judges.
    """

    kind = "debate"

    def __init__(
        self,
        name: str,
        debaters: Sequence[WorkflowNode],
        judge: WorkflowNode | None = None,
        num_rounds: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self.debaters = list(debaters)
        if not self.debaters:
            raise ValueError(f"debate {name} has no debaters")
        self.judge = judge or self.debaters[0]
        self.num_rounds = max(num_rounds, 1)

    def process(self, context: Context) -> Message:
        contexts = [context.copy() for _ in self.debaters]
        last: dict[int, Message] = {}  # a debater that fails is quoted with its earlier answer
        for _ in range(self.num_rounds):
            replies = gather(self.debaters, contexts)
            last |= {i: reply for i, reply in enumerate(replies) if not reply.failed}
            if not last:
                raise RuntimeError(f"all debaters of {self.name} failed: {replies[0]}")
            given = [last[i] for i in sorted(last)]
            text = prompts.debate(context.question, solutions(given))
            contexts = [Context.asking(text, given) for _ in self.debaters]
        return _judged(self.judge, context, given)


class ReflectionNode(WorkflowNode):
    """Answer, then critique and refine, until the verdict is CORRECT. Calls: 1 + 2n at most.

    Own prompts may use {question}, {solution}, {critique} or the paper's names for them; other
    braces stay as they are. A prompt without {solution} stands in front of the standard one.
    """

    kind = "reflection"

    def __init__(
        self,
        name: str,
        agent: WorkflowNode,
        critic_agent: WorkflowNode | int | None = None,
        num_iterations: int = 2,
        reflection_prompt: str | None = None,
        refinement_prompt: str | None = None,
        include_history: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        if isinstance(critic_agent, int):  # the paper's order of arguments
            num_iterations, critic_agent = critic_agent, None
        self.agent = agent
        self.critic_agent = critic_agent or agent
        self.num_iterations = num_iterations
        self.reflection_prompt = reflection_prompt
        self.refinement_prompt = refinement_prompt
        self.include_history = include_history

    def process(self, context: Context) -> Message:
        solution = visit(self.agent, context.copy())
        question = context.question
        critiques: list[str] = []
        for _ in range(self.num_iterations):
            shown = deliverable(solution)
            values = {"question": question, "solution": shown}
            text = _filled(self.reflection_prompt, prompts.critique(question, shown), values)
            critic = attempt(self.critic_agent, Context.asking(text, [solution]))
            if critic.failed or says_correct(critic):
                break
            critiques.append(deliverable(critic))
            values["critique"] = "\n".join(critiques if self.include_history else critiques[-1:])
            standard = prompts.refine(question, shown, values["critique"])
            text = _filled(self.refinement_prompt, standard, values)
            refined = attempt(self.agent, Context.asking(text, [solution, critic]))
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


class RouterNode(WorkflowNode):
    """Runs the route that `routing_func(context)` names; the default for other names or an error.

    Without a route of the default's name the first route is the default.
    """

    kind = "router"

    def __init__(
        self,
        name: str,
        routes: Mapping[str, WorkflowNode],
        routing_func: Callable[[Context], str],
        default_route: str = "default",
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        if not routes:
            raise ValueError(f"router {name} has no routes")
        self.routes = dict(routes)
        self.routing_func = routing_func
        self.default_route = default_route if default_route in routes else next(iter(routes))

    def process(self, context: Context) -> Message:
        try:
            node = self.routes[self.routing_func(context)]
        except Exception:  # the function is the script's own; an unknown name ends here too
            node = self.routes[self.default_route]
        return visit(node, context.copy())
