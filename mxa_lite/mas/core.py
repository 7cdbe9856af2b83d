"""The ground of the script language: messages, contexts, and how a node is called and recorded.

Every visit of a node has a path of its own ("0.2": the third visit made by the first node of the
script), so one agent object may stand in many places, and a loop is drawn as what happened. The
`parents` of a record are the paths whose outputs that visit was shown. Standard library only.
"""

from __future__ import annotations

import contextvars
import itertools
import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, partial
from typing import Any, Protocol, dataclass_transform

from mxa_lite.texts import answers, prompts
from mxa_lite.tree import NodeRecord

Data = dict[str, Any]


class Client(Protocol):
    """What a running script is tied to: the sandbox's end of the wire, or a fake in tests."""

    def call(
        self,
        agent: str,
        path: str,
        number: int,
        messages: list[dict[str, str]],
        temperature: float | None,
    ) -> str: ...
    def tool(self, code: str) -> str: ...
    def node(self, record: NodeRecord) -> None: ...
    def answer(self, message: str) -> None: ...
    def spawn(self, functions: Sequence[Callable[[], Any]]) -> list[Any]: ...


class NodeError(RuntimeError):
    """A node inside a container failed; its text is the inner error's."""


class MessageType(Enum):
    """What a message is; agents are shown all but user input and errors."""

    USER_INPUT = "user_input"
    AGENT_RESPONSE = "agent_response"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    INTERMEDIATE = "intermediate"
    FINAL_RESULT = "final_result"
    ERROR = "error"


@dataclass(eq=False, repr=False)
class Message(str):
    """A node's result. It is its text, so a script may use it as a plain string."""

    content: Any = ""
    message_type: MessageType = MessageType.AGENT_RESPONSE
    metadata: Data = field(default_factory=dict)
    sender: str | None = None
    recipient: str | None = None

    def __new__(cls, content: Any = "", *args: Any, **kwargs: Any) -> Message:
        return super().__new__(cls, content)

    def to_dict(self) -> Data:
        """content, type, metadata, sender, recipient, as in the paper's package."""
        fields = {**vars(self), "type": self.message_type.value}
        del fields["message_type"]
        return fields

    @classmethod
    def from_dict(cls, data: Data) -> Message:
        fields = {**data, "message_type": MessageType(data["type"])}
        del fields["type"]
        return cls(**fields)

    @property
    def failed(self) -> bool:
        return self.message_type is MessageType.ERROR


@dataclass
class Context:
    """The messages a node can see, and a state that scripts may use."""

    messages: list[Message] = field(default_factory=list)
    state: Data = field(default_factory=dict)
    metadata: Data = field(default_factory=dict)

    @classmethod
    def asking(cls, prompt: str, replies: Iterable[Message] = ()) -> Context:
        """A context whose one question is `prompt`, written from `replies`."""
        message = Message(prompt, MessageType.USER_INPUT)
        return cls([message], metadata={"parents": _paths(replies)})

    def copy(self) -> Context:
        """A context for a node of a container. The state is copied too: members run at once."""
        return Context(list(self.messages), dict(self.state), dict(self.metadata))

    def add_message(self, message: Message) -> None:
        self.messages.append(message)

    def get_messages_by_type(self, message_type: MessageType) -> list[Message]:
        return [message for message in self.messages if message.message_type is message_type]

    def get_latest_message(self, message_type: MessageType | None = None) -> Message | None:
        """The latest message, of one type if given; None when there is none."""
        messages = self.get_messages_by_type(message_type) if message_type else self.messages
        return messages[-1] if messages else None

    def set_state(self, key: str, value: Any) -> None:
        self.state[key] = value

    def get_state(self, key: str, default: Any = None) -> Any:
        return self.state.get(key, default)

    @property
    def question(self) -> str:
        """The original question, wherever the node stands."""
        questions = self.get_messages_by_type(MessageType.USER_INPUT)
        return str(questions[0]) if questions else runtime.question

    def replies(self) -> list[Message]:
        """The messages of earlier nodes, as an agent here is shown them."""
        hidden = (MessageType.USER_INPUT, MessageType.ERROR)
        return [m for m in self.messages if m.message_type not in hidden and m.strip()]

    def prompt(self) -> str:
        """An agent's user message: the question, and what earlier nodes delivered."""
        replies = self.replies()
        return prompts.follow_up(self.question, solutions(replies)) if replies else self.question


def _paths(messages: Iterable[Message]) -> list[str]:
    return [message.metadata["path"] for message in messages if "path" in message.metadata]


def deliverable(message: Message) -> str:
    """What other agents see: an agent's delivery; what the script wrote itself stays whole."""
    whole = message.message_type is not MessageType.AGENT_RESPONSE
    return str(message) if whole else answers.deliverable(message, runtime.kind)


def solutions(messages: Iterable[Message]) -> list[tuple[str, str]]:
    """(agent, delivery) of each message, as the prompts take them."""
    return [(message.sender or "input", deliverable(message)) for message in messages]


class Frame:
    """One visit of a node: its path, its calls so far, and where its record goes."""

    def __init__(self, path: str, node: WorkflowNode | None, record: Callable[[NodeRecord], None]):
        self.path = path
        self.node = node
        self.record = record
        self.calls = itertools.count()
        self._children = itertools.count()

    def child(self, node: WorkflowNode) -> Frame:
        """The frame of the next visit made from here."""
        return Frame(f"{self.path}.{next(self._children)}".lstrip("."), node, self.record)


class Runtime:
    """What one script run knows: the client, the question, the answer so far."""

    def __init__(self) -> None:
        self.bind(None, "", "math")

    def bind(self, client: Client | None, question: str, kind: str) -> None:
        """Starts a run; kind: "math" or "code"."""
        self._client = client
        self.question = question
        self.kind = kind
        self.answer: str | None = None
        self.runs: list[Message] = []  # results of `run`, in order
        self.printed: deque[str] = deque(maxlen=100)  # what the script printed last
        self.root = Frame("", None, lambda record: self.client.node(record))

    @property
    def client(self) -> Client:
        if self._client is None:
            raise RuntimeError("no model here: run the script with `mxa-lite exec`")
        return self._client


runtime = Runtime()
_current: contextvars.ContextVar[Frame | None] = contextvars.ContextVar("frame", default=None)


def current_frame() -> Frame:
    """The frame of the node that runs in this thread; the script's own outside any node."""
    return _current.get() or runtime.root


def answer(message: Any) -> None:
    """Makes `message` the script's answer; the first one counts. RuntimeError for an error."""
    if isinstance(message, Message) and message.failed:
        raise RuntimeError(f"cannot answer with an error: {message}")
    if runtime.answer is None and message is not None:
        runtime.answer = str(message)


def _bare(text: str) -> str:
    """A text without what is lost when it is pasted into a script: spaces and escapes."""
    return re.sub(r"\\[abfnrtv]|[\\\s\x00-\x1f]", "", text)


def as_context(*inputs: Any) -> Context:
    """The context of a node that the script itself calls.

    A string that contains the question is the question as the script asks it, one that is a pasted
    copy is the question; other strings and earlier replies are shown behind the question.
    """
    question, replies = runtime.question, []
    for item in inputs:
        text = "" if item is None else str(item)
        if isinstance(item, (list, tuple)):
            replies += as_context(*item).replies()
        elif isinstance(item, Message) and item.message_type is not MessageType.USER_INPUT:
            replies.append(item)
        elif _bare(text) == _bare(runtime.question):
            continue
        elif runtime.question in text:
            question = text or question
        else:
            replies.append(Message(text, MessageType.INTERMEDIATE, sender="input"))
    return Context([Message(question, MessageType.USER_INPUT), *replies])


class WorkflowNode:
    """A step of a workflow. A subclass defines `process(context) -> Message`, which may raise."""

    kind = ""

    def __init__(self, name: str, **kwargs: Any) -> None:
        self.name = str(name)
        self.config = kwargs

    @cached_property
    def config(self) -> Data:
        """The further arguments a node was made with."""
        return {}

    @staticmethod
    def positions(fields: list[str], args: Sequence[Any]) -> list[str]:
        """The fields that arguments without a name are for, in their order."""
        return fields

    @cached_property
    def logger(self) -> logging.Logger:
        return logging.getLogger(f"{type(self).__name__}.{self.name}")

    def process(self, context: Context) -> Message:
        raise TypeError(f"{type(self).__name__} has no process(context)")

    def __call__(self, *inputs: Any, **named: Any) -> Message:
        """With a Context: adds its message there, an ERROR message if the node raises.

        With text or earlier replies: returns the reply, and raises what the node raises.
        """
        inputs += (*named.values(),)
        if len(inputs) == 1 and isinstance(inputs[0], Context):
            return step(self, inputs[0])
        reply = visit(self, as_context(*inputs))
        if hasattr(self, "nodes"):  # a container that is called has been run
            runtime.runs.append(reply)
        return reply

    def ask(self, text: str, *replies: Message) -> Message:
        """Asks only `text`, a part of the question; it is shown what `replies` delivered.

        Returns the reply, and raises what the node raises.
        """
        prompt = prompts.part(str(text), solutions(replies))
        return visit(self, Context.asking(prompt, replies))

    def run(self, input_message: Any = None, initial_state: Data | None = None) -> Message:
        """Runs on a question or a Context; the last message, an ERROR message if a node raised."""
        is_context = isinstance(input_message, Context)
        context = input_message if is_context else as_context(input_message)
        context.state.update(initial_state or {})
        runtime.runs.append(step(self, context))
        return runtime.runs[-1]

    run_with_context = run


# What instruct models call an argument where the paper's package has another name for it.
_GUESSES = dict.fromkeys(("prompt", "instruction", "instructions"), "system_prompt")
_GUESSES |= {"agents": "debaters", "nodes": "agents", "steps": "agents", "critic": "critic_agent"}
_GUESSES |= {"judge": "consensus_agent", "rounds": "num_rounds", "iterations": "num_iterations"}
_MEMBERS = (list, tuple, dict, WorkflowNode)


@dataclass_transform(eq_default=False, field_specifiers=(field,))
def node_class(cls: type) -> Any:
    """Makes a node class a dataclass; arguments that it does not know go to its `config`."""
    node: Any = dataclass(eq=False, repr=False)(cls)
    fields = [name for name, known in node.__dataclass_fields__.items() if known.init]
    guesses = {g: name for g, name in _GUESSES.items() if g not in fields and name in fields}
    init = node.__init__

    def lenient(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs = {guesses.get(key, key): value for key, value in kwargs.items()}
        if "name" not in kwargs and (not args or isinstance(args[0], _MEMBERS)):
            args = (self.kind, *args)
        takes_members = fields[1] in ("agents", "debaters")
        if takes_members and len(args) > 1 and isinstance(args[1], WorkflowNode):
            args = (args[0], args[1:])  # Ensemble("vote", a, b) is Ensemble("vote", [a, b])
        self.config = {key: value for key, value in kwargs.items() if key not in fields}
        positional = dict(zip(self.positions(fields, args), args, strict=False))
        init(self, **positional, **{key: kwargs[key] for key in fields if key in kwargs})
        self.name = str(self.name)

    node.__init__ = lenient
    return node


def visit(node: WorkflowNode, context: Context, frame: Frame | None = None) -> Message:
    """Runs a node in a frame of its own and records it; raises what it raises."""
    frame = frame or current_frame().child(node)
    parents = [*context.metadata.get("parents", ()), *_paths(context.replies())]
    record: NodeRecord = {
        "name": node.name,
        "kind": node.kind or type(node).__name__.removesuffix("Node").lower(),
        "path": frame.path,
        "parents": list(dict.fromkeys(parents)),
        "output": None,
        "error": None,
    }
    token = _current.set(frame)
    try:
        result = node.process(context)
        message = result if isinstance(result, Message) else Message(result)
        if message.failed:
            raise NodeError(message)
        record["output"] = answers.shorten(str(message))
    except BaseException as error:  # noted of whatever a node raises, and raised again
        record["error"] = describe(error)
        raise
    finally:
        _current.reset(token)
        frame.record(record)
    message.metadata = {**(message.metadata or {}), "path": frame.path}
    message.sender = message.sender or node.name
    return message


def describe(error: BaseException) -> str:
    return str(error) if isinstance(error, NodeError) else f"{type(error).__name__}: {error}"


def attempt(node: WorkflowNode, context: Context, frame: Frame | None = None) -> Message:
    """Like `visit`, but an exception becomes an ERROR message."""
    try:
        return visit(node, context, frame)
    except Exception as error:  # a node may be the script's own code and raise anything
        metadata = {"exception_type": type(error).__name__}
        failure = Message(describe(error), MessageType.ERROR, metadata, sender=node.name)
        failure.content = {"error": str(failure), "node": node.name}  # as in the paper's package
        return failure


def step(node: WorkflowNode, context: Context) -> Message:
    """Runs a node and adds its message to the context, unless the node did so itself."""
    message = attempt(node, context)
    if not context.messages or context.messages[-1] is not message:
        context.add_message(message)
    return message


def gather(nodes: Sequence[WorkflowNode], *contexts: Context) -> list[Message]:
    """Runs nodes at once, each in a copy of its context; one message each, in order.

    contexts: one for each node, or one for all. Records are kept back until all are done, so that
    their order does not depend on threads.
    """
    here = current_frame()
    frames = [here.child(node) for node in nodes]
    records: list[list[NodeRecord]] = [[] for _ in nodes]
    for frame, kept in zip(frames, records, strict=True):
        frame.record = kept.append
    triples = zip(nodes, itertools.cycle(contexts), frames, strict=False)
    results = runtime.client.spawn([partial(attempt, n, c.copy(), f) for n, c, f in triples])
    for record in itertools.chain(*records):
        here.record(record)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
