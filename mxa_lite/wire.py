"""What the sandbox's processes say to each other: each message one JSON object, named by its "t".

Between the trainer and the warm fork server they are packets of a control socket, between the
trainer and a script's process lines of at most MAX_LINE bytes.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, get_args

from mxa_lite.tree import NodeRecord

MAX_LINE = 1 << 20
Messages = list[dict[str, str]]  # of a chat


class Start(NamedTuple):
    """Trainer to server, with the process's end of a channel. owner: the job whose tool it is."""

    job: int
    owner: int | None
    seconds: float
    memory_mb: int
    disk_mb: int


class Kill(NamedTuple):
    job: int


class Ready(NamedTuple):
    """Server to trainer, once. folder: where scripts and their output lie."""

    level: str
    folder: str


class Started(NamedTuple):
    job: int
    pid: int


class Dead(NamedTuple):
    """The process has ended, and its folder takes time to remove."""

    job: int


class Gone(NamedTuple):
    """Nothing of it is left. status: exit code, negative for a signal; reason: why the server
    killed it, if it did."""

    job: int
    status: int
    reason: str | None


class Script(NamedTuple):
    """Trainer to process, first. kind: "math" or "code". seed: of the script's `random`. nodes,
    prompts: texts of files of own node classes and prompts."""

    source: str
    question: str
    kind: str = "math"
    seed: int = 0
    nodes: str = ""
    prompts: str = ""


class Program(NamedTuple):
    """A plain Python program, in a script's place."""

    source: str
    stdin: str


class Reply(NamedTuple):
    id: int
    reply: str


class Call(NamedTuple):
    """Process to trainer, as all below: the trainer believes nothing of it. It fills in the job,
    and the number: how often this path has called before, from 0."""

    id: int
    agent: str
    path: str
    messages: Messages
    temperature: float | None = None
    job: int = -1
    number: int = 0


class Tool(NamedTuple):
    id: int
    code: str


class Wait(NamedTuple):
    """Every thread waits now. seen: replies read so far."""

    seen: int


class Node(NamedTuple):
    node: NodeRecord


class Answer(NamedTuple):
    message: str


class End(NamedTuple):
    """error: the last line of the traceback, if it ended by one."""

    error: str | None = None


FromScript = Call | Tool | Wait | Node | Answer | End
Message = Start | Kill | Ready | Started | Dead | Gone | Script | Program | Reply | FromScript
_KINDS: dict[str, Any] = {kind.__name__.lower(): kind for kind in get_args(Message)}


def encode(message: Message) -> bytes:
    return json.dumps({"t": type(message).__name__.lower(), **message._asdict()}).encode()


def decode(data: bytes) -> Any:
    """The message; its fields are of any type. LookupError, TypeError, ValueError or RecursionError
    for data that is none."""
    fields = json.loads(data)
    kind = _KINDS[fields["t"]]
    del fields["t"]
    return kind(**fields)
