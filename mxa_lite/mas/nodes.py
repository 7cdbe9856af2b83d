"""The nodes of the script language: agent with tools, ensemble, debate, reflection, router.

The arguments of a class are its fields, in the order of the paper's package; `metadata` of a result
has that package's keys.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mxa_lite.mas.core import (
    Context,
    Data,
    Message,
    WorkflowNode,
    attempt,
    current_frame,
    deliverable,
    gather,
    node_class,
    runtime,
    solutions,
    visit,
)
from mxa_lite.mas.tools import ToolRegistry, tool_results
from mxa_lite.texts import answers, prompts

_PLACE = re.compile(r"(?<!\w)\{(\w+)\}")  # not the braces of \boxed{answer}
_SYNONYMS = {"response": "solution", "answer": "solution", "reflection": "critique"}
_NEGATIVE = r"\b(?:NOT|NO|NEVER|CANNOT|HARDLY|PARTLY|PARTIALLY|INCORRECT\w*|WRONG)\b|N['\u2019]T\b"


def _need(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)


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
    ai_client: Any = None  # the paper's; there is one model, so it is not used
    max_turns: int = 10
    enable_conversation_logging: bool = True  # the paper's; every call is recorded
    temperature: float | None = None

    @staticmethod
    def positions(fields: list[str], args: Sequence[Any]) -> list[str]:
        """The paper's order; a number in the fourth place is `max_turns`, as in short scripts."""
        short = [*fields[:3], "max_turns", "temperature"]
        return short if len(args) > 3 and isinstance(args[3], int) else fields

    def __post_init__(self) -> None:
        self.tool_registry = self.tool_registry or ToolRegistry()

    def process(self, context: Context) -> Message:
        here = current_frame()
        frame = here if here.node is self else here.child(self)
        registry, turns = self.tool_registry or ToolRegistry(), max(self.max_turns, 1)
        system = prompts.agent_system(str(self.system_prompt or ""), runtime.kind)
        if registry.tools:
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
            results = tool_results(reply, registry)
            if not results:
                break
            reply = ask("\n".join([*results, *[prompts.FINAL_TURN] * (turn == turns)]))
        written = sum(len(m["content"]) for m in messages if m["role"] == "assistant")
        # a script is not told the model's own count: four characters a token, roughly
        return Message(reply, metadata={"tokens": written // 4, "agent_name": self.name})


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
        self.weights = self.weights or [1.0] * len(self.agents)
        _need(len(self.weights) == len(self.agents), f"ensemble {self.name}: one weight per agent")

    def process(self, context: Context) -> Message:
        replies = gather(self.agents, context)
        good = [reply for reply in replies if not reply.failed]
        if not good:
            raise RuntimeError(f"all members of {self.name} failed: {replies[0]}")
        metadata: Data = {"strategy": self.strategy, "num_agents": len(self.agents)}
        metadata["all_responses"] = [str(reply) for reply in good]
        weights = (self.strategy == "weighted_vote" and self.weights) or [1.0] * len(replies)
        totals: dict[Any, float] = {}
        first: dict[Any, Message] = {}
        for reply, weight in zip(replies, weights, strict=True):
            if not reply.failed and answers.in_form(reply, runtime.kind):
                vote = answers.comparable(answers.extract(reply, runtime.kind), runtime.kind)
                totals[vote] = totals.get(vote, 0) + weight
                first.setdefault(vote, reply)
        split = self.strategy == "majority_vote" and len(totals) > 1
        if self.consensus_agent and (split or self.strategy == "consensus"):
            return Message(_judged(self.consensus_agent, context, good), metadata=metadata)
        winner = first[max(totals, key=lambda vote: totals[vote])] if totals else good[0]
        return Message(str(winner), metadata=metadata)


def _judged(judge: WorkflowNode, context: Context, replies: Sequence[Message]) -> str:
    text = prompts.judge(context.question, solutions(replies))
    return str(visit(judge, Context.asking(text, replies)))


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
        self.judge = self.judge or self.debaters[0]

    def process(self, context: Context) -> Message:
        round_context = context
        latest: dict[int, Message] = {}  # a debater that fails is quoted with its earlier answer
        history: list[list[str]] = []
        for _ in range(max(self.num_rounds, 1)):
            replies = gather(self.debaters, round_context)
            latest |= {i: reply for i, reply in enumerate(replies) if not reply.failed}
            if not latest:
                raise RuntimeError(f"all debaters of {self.name} failed: {replies[0]}")
            quoted = [latest[i] for i in sorted(latest)]
            history.append([str(reply) for reply in quoted])
            text = prompts.debate(context.question, solutions(quoted))
            round_context = Context.asking(text, quoted)
        metadata: Data = {"num_rounds": self.num_rounds, "num_debaters": len(self.debaters)}
        metadata["debate_history"] = history
        return Message(_judged(self.judge or self.debaters[0], context, quoted), metadata=metadata)


@node_class
class ReflectionNode(WorkflowNode):
    """Answer, then critique and refine, until the verdict is CORRECT. Calls: 1 + 2n at most.

    Own prompts may use {question}, {solution}, {critique} or the paper's names for them; other
    braces stay as they are. A prompt without {solution} stands in front of the standard one.
    """

    kind = "reflection"
    name: str
    agent: WorkflowNode
    num_iterations: int = 2
    reflection_prompt: str | None = None
    critic_agent: WorkflowNode | None = None
    refinement_prompt: str | None = None
    include_history: bool = False

    @staticmethod
    def positions(fields: list[str], args: Sequence[Any]) -> list[str]:
        """The paper's order; a node or None in the third place is the critic of a short script."""
        if len(args) > 2 and not isinstance(args[2], int):
            rest = [name for name in fields[2:] if name != "critic_agent"]
            return [*fields[:2], "critic_agent", *rest]
        return fields

    def __post_init__(self) -> None:
        self.critic_agent = self.critic_agent or self.agent

    def process(self, context: Context) -> Message:
        critic = self.critic_agent or self.agent
        solution = visit(self.agent, context.copy())
        question = context.question
        critiques: list[str] = []
        history: list[Data] = [{"iteration": 0, "response": str(solution), "reflection": None}]
        for iteration in range(1, self.num_iterations + 1):
            delivered = deliverable(solution)
            values = {"question": question, "solution": delivered}
            text = _filled(self.reflection_prompt, prompts.critique(question, delivered), values)
            critique = attempt(critic, Context.asking(text, [solution]))
            if critique.failed:
                break
            visited = {"iteration": iteration, "reflection": str(critique)}
            if says_correct(critique):
                history.append({**visited, "response": str(solution), "early_stop": True})
                break
            critiques.append(deliverable(critique))
            values["critique"] = "\n".join(critiques if self.include_history else critiques[-1:])
            standard = prompts.refine(question, delivered, values["critique"])
            text = _filled(self.refinement_prompt, standard, values)
            refined = attempt(self.agent, Context.asking(text, [solution, critique]))
            if refined.failed:
                break
            solution = refined
            history.append({**visited, "response": str(solution)})
        mode = "self-reflection" if critic is self.agent else "critic-based"
        metadata = {"num_iterations": self.num_iterations, "mode": mode, "history": history}
        metadata |= {"generator_agent": self.agent.name, "critic_agent": critic.name}
        return Message(str(solution), metadata=metadata)


def says_correct(critique: str) -> bool:
    """Whether a critic's verdict is the word CORRECT: the last VERDICT, else its last sentence."""
    text = re.sub(r"<[^<>]*>", " ", critique.upper()).strip(" \t\r\n.!*_`")
    _, tag, verdict = text.rpartition("VERDICT")
    if tag:
        sentence = re.sub(r"\A\W+", "", verdict).partition("\n")[0]
        praise = re.search(r"\bCORRECT\b", sentence)
    else:
        sentence = re.split(r"[.!?\n]", text)[-1]
        praise = re.search(r"\bCORRECT\Z", sentence)
    return praise is not None and not re.search(_NEGATIVE, sentence)


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
        fallback = self.default_route
        if fallback not in self.routes:
            fallback = next(iter(self.routes))
        try:
            name = self.routing_func(context)
            name = name if name in self.routes else fallback
        except Exception as error:  # the function is the script's own; said in its stderr
            print(f"router {self.name}: {error!r}; the default route", file=sys.stderr)
            name = fallback
        reply = visit(self.routes[name], context.copy())
        reply.metadata |= {"routed_from": self.name, "route_taken": name}
        return reply


def create_keyword_router(
    name: str,
    keyword_routes: Mapping[str, WorkflowNode],
    default_node: WorkflowNode,
    case_sensitive: bool = False,
) -> RouterNode:
    """The paper's router by words: the first keyword in the latest message names the route."""

    def plain(text: object) -> str:
        return str(text) if case_sensitive else str(text).lower()

    def route(context: Context) -> str:
        text = plain(context.get_latest_message() or "")
        return next((word for word in keyword_routes if plain(word) in text), "default")

    return RouterNode(name, {**keyword_routes, "default": default_node}, route)
