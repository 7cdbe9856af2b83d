"""The nodes of the script language: agent with tools, ensemble, debate, reflection, router."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mxa_lite import answers, prompts
from mxa_lite.mas_core import (
    Context,
    Frame,
    Message,
    MessageType,
    WorkflowNode,
    attempt,
    current_frame,
    deliverable,
    describe,
    gather,
    runtime,
    visit,
)

CODE_TOOLS = ("python", "execute_code")
_TOOL_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.S)
_NEGATION = re.compile(
    r"\b(?:NOT|NO|NEVER|CANNOT|HARDLY|PARTLY|PARTIALLY|INCORRECT\w*|WRONG)\b|N'T\b"
)


def python_tool(code: str, *args: Any, **kwargs: Any) -> str:
    """Runs a Python program in a sandbox of its own and returns what it printed."""
    return runtime.client.tool("python", str(code))


class ToolRegistry:
    """Tools an agent may call. `python` and `execute_code` need no function of their own."""

    def __init__(self) -> None:
        self.tools: dict[str, dict[str, Any]] = {}

    def register(
        self,
        name: str,
        func: Callable[..., Any] | None = None,
        description: str = "",
        parameters: dict[str, Any] | None = None,
    ) -> ToolRegistry:
        """Adds a tool; `parameters` is a JSON schema. ValueError for an unknown built-in."""
        if func is None:
            if name not in CODE_TOOLS:
                raise ValueError(f"tool {name} needs a function; built in are {CODE_TOOLS}")
            func, description = python_tool, description or "runs a Python program"
            parameters = parameters or {"type": "object", "properties": {"code": {}}}
        self.tools[name] = {
            "name": name,
            "func": func,
            "description": description,
            "parameters": parameters or {},
        }
        return self

    def get_tool(self, name: str) -> dict[str, Any] | None:
        return self.tools.get(name)

    def list_tools(self) -> list[str]:
        return list(self.tools)

    def get_tool_schemas(self) -> list[dict[str, Any]]:
        """The tools in the OpenAI form."""
        fields = ("name", "description", "parameters")
        functions = [{key: tool[key] for key in fields} for tool in self.tools.values()]
        return [{"type": "function", "function": function} for function in functions]

    def call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
        """The tool's result; ValueError for an unknown tool, else what the tool raises."""
        if name not in self.tools:
            raise ValueError(f"unknown tool {name}; there are {self.list_tools()}")
        return self.tools[name]["func"](**arguments)

    def prompt(self) -> str:
        """What an agent is told of its tools: names, arguments, descriptions."""
        listed = []
        for name, tool in self.tools.items():
            schema = tool["parameters"]
            listed.append(
                (f"{name}({', '.join(schema.get('properties', schema))})", tool["description"])
            )
        return prompts.tools(listed)


def _requests(reply: str, tools: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Tool calls in a reply as (tool, raw arguments), a fence being a call of the code tool."""
    found = [("", body.strip()) for body in _TOOL_CALL.findall(reply)]
    code_tool = next((name for name in CODE_TOOLS if name in tools), None)
    if found or code_tool is None:
        return found
    outside = re.sub(r"<solution>.*?(?:</solution>|\Z)", "", reply, flags=re.S)
    python = [body for language, body in answers.fences(outside) if language in ("python", "py")]
    return [(code_tool, body) for body in python[:1]]


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
        ai_client: Any = None,
        max_turns: int = 10,
        enable_conversation_logging: bool = True,
        temperature: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self.system_prompt = system_prompt
        self.tool_registry = tool_registry or ToolRegistry()
        self.max_turns = max_turns
        self.temperature = temperature

    def process(self, context: Context) -> Message:
        here = current_frame()
        frame = here if here.node is self else here.child(self)
        system = prompts.agent_system(self.system_prompt, runtime.kind)
        tools = self.tool_registry.tools
        if tools:
            system += "\n" + self.tool_registry.prompt()
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": context.prompt()},
        ]
        reply = self._ask(frame, messages)
        for turn in range(1, max(self.max_turns, 1) + 1):
            wanted = _requests(reply, tools) if tools else []
            if not wanted:
                break
            result = "\n".join(self._use(name, raw) for name, raw in wanted)
            if turn >= self.max_turns:
                result += "\n" + prompts.FINAL_TURN
            messages += [
                {"role": "assistant", "content": reply},
                {"role": "user", "content": result},
            ]
            reply = self._ask(frame, messages)
        return Message(reply, MessageType.AGENT_RESPONSE, sender=self.name)

    def _ask(self, frame: Frame, messages: list[dict[str, str]]) -> str:
        number = next(frame.calls)
        sent = [dict(message) for message in messages]
        return runtime.client.call(self.name, frame.path, number, sent, self.temperature)

    def _use(self, name: str, raw: str) -> str:
        """A tool's result as text for the model, also when the request or the tool is broken."""
        try:
            arguments: Any = {"code": raw}
            if not name:
                request = json.loads(raw, strict=False)
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
        pairs = zip(replies, self.weights, strict=True)
        ballots = [(reply, weight) for reply, weight in pairs if _good(reply)]
        given = [reply for reply, _ in ballots]
        if not given:
            raise RuntimeError(f"all members of {self.name} failed: {replies[0]}")
        if self.strategy == "consensus" and self.consensus_agent:
            return _judged(self.consensus_agent, context, given)
        weighted = self.strategy == "weighted_vote"
        totals: dict[Any, float] = {}
        first: dict[Any, Message] = {}
        for reply, weight in ballots:
            if answers.in_form(reply, runtime.kind):
                key = _vote(reply)
                totals[key] = totals.get(key, 0) + (weight if weighted else 1)
                first.setdefault(key, reply)
        if len(totals) > 1 and self.consensus_agent and not weighted:
            return _judged(self.consensus_agent, context, given)
        winner = first[max(totals, key=lambda key: totals[key])] if totals else given[0]
        return Message(winner)


def _vote(reply: str) -> Any:
    text = answers.extract(reply, runtime.kind)
    return answers.program(text) if runtime.kind == "code" else answers.value(text)


def _good(message: Message) -> bool:
    return message.message_type is not MessageType.ERROR


def _judged(judge: WorkflowNode, context: Context, given: Sequence[Message]) -> Message:
    text = prompts.judge(context.question, _solutions(given))
    return Message(visit(judge, Context.asking(text, given), current_frame().child(judge)))


def _solutions(given: Sequence[Message]) -> list[tuple[str, str]]:
    return [(message.sender or "agent", deliverable(message)) for message in given]


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
        self.num_rounds = num_rounds

    def process(self, context: Context) -> Message:
        contexts = [context.copy() for _ in self.debaters]
        last: dict[int, Message] = {}
        for _ in range(max(self.num_rounds, 1)):
            replies = gather(self.debaters, contexts)
            last.update({i: reply for i, reply in enumerate(replies) if _good(reply)})
            if not last:
                raise RuntimeError(f"all debaters of {self.name} failed: {replies[0]}")
            given = [last[i] for i in sorted(last)]
            text = prompts.debate(context.question, _solutions(given))
            contexts = [Context.asking(text, given) for _ in self.debaters]
        return _judged(self.judge, context, given)


class ReflectionNode(WorkflowNode):
    """Answer, then critique and refine, until the critic's verdict is CORRECT. Calls: 1 + 2n at most.

    Own prompts may use {question}, {solution} and {critique} (and the paper's longer names); other
    braces stay as they are. A prompt without {solution} stands in front of the standard one.
    """

    kind = "reflection"

    def __init__(
        self,
        name: str,
        agent: WorkflowNode,
        num_iterations: int = 2,
        reflection_prompt: str | None = None,
        critic_agent: WorkflowNode | None = None,
        refinement_prompt: str | None = None,
        include_history: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self.agent = agent
        self.critic_agent = critic_agent or agent
        self.num_iterations = num_iterations
        self.reflection_prompt = reflection_prompt
        self.refinement_prompt = refinement_prompt
        self.include_history = include_history

    def process(self, context: Context) -> Message:
        frame = current_frame()
        solution = visit(self.agent, context.copy(), frame.child(self.agent))
        question, critiques = context.question, []  # type: str, list[str]
        for _ in range(self.num_iterations):
            shown = deliverable(solution)
            standard = prompts.critique(question, shown)
            text = _filled(self.reflection_prompt, standard, question, shown)
            critic = attempt(self.critic_agent, Context.asking(text, [solution]))
            if not _good(critic) or says_correct(critic):
                break
            critiques.append(deliverable(critic))
            critique = "\n".join(critiques if self.include_history else critiques[-1:])
            standard = prompts.refine(question, shown, critique)
            text = _filled(self.refinement_prompt, standard, question, shown, critique)
            refined = attempt(self.agent, Context.asking(text, [solution, critic]))
            if not _good(refined):
                break
            solution = refined
        return Message(solution)


def says_correct(critique: str) -> bool:
    """Whether a critic's verdict is the word CORRECT: the last VERDICT, else its last sentence."""
    text = critique.upper()
    _, tag, verdict = text.rpartition("VERDICT")
    if tag:
        verdict = verdict.lstrip(" \t\r\n:*_-`").partition("\n")[0]
        return bool(re.search(r"\bCORRECT\b", verdict)) and not _NEGATION.search(verdict)
    sentence = re.split(r"[.!?\n]", text.rstrip(" \t\r\n.!?*_`"))[-1]
    return bool(re.search(r"\bCORRECT$", sentence)) and not _NEGATION.search(sentence)


def _filled(
    template: str | None, standard: str, question: str, solution: str, critique: str = ""
) -> str:
    if template is None:
        return standard
    values = dict.fromkeys(("question", "original_question", "input"), question)
    values |= dict.fromkeys(("solution", "response", "answer", "previous_response"), solution)
    values |= dict.fromkeys(("critique", "reflection", "feedback", "critic"), critique)
    text, used = template, False
    parts = re.split(r"\{(\w+)\}", template)
    for i in range(1, len(parts), 2):
        used |= values.get(parts[i]) == solution
        parts[i] = values.get(parts[i], "{" + parts[i] + "}")
    text = "".join(parts)
    return text if used else f"{text}\n{standard}"


class RouterNode(WorkflowNode):
    """Runs the route that `routing_func(context)` names, the default for any other name or error."""

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
            chosen = self.routing_func(context)
        except Exception:  # the function is the script's own
            chosen = self.default_route
        node = self.routes.get(chosen, self.routes[self.default_route])
        return visit(node, context.copy(), current_frame().child(node))


class MathEnvironment:
    """The paper's code environment; `execute` is the `python` tool."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.config = kwargs

    def execute(self, code: str, *args: Any, **kwargs: Any) -> str:
        """Runs a program; returns its output as text."""
        return python_tool(code)
