"""A client in this process: canned replies per agent, real threads, everything recorded."""

import errno
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from unittest.mock import patch

from mxa_lite.mas import script as mas

QUESTION = "What is 2+3?"


@dataclass
class Call:
    agent: str
    path: str
    number: int
    messages: list
    temperature: float | None

    @property
    def system(self):
        return self.messages[0]["content"]

    @property
    def user(self):
        return self.messages[-1]["content"]


@dataclass
class FakeClient:
    """replies: agent -> texts, exceptions, or functions of the call; the last one repeats."""

    replies: dict
    calls: list = field(default_factory=list)
    nodes: list = field(default_factory=list)
    answers: list = field(default_factory=list)
    programs: list = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self, agent, path, number, messages, temperature):
        made = Call(agent, path, number, messages, temperature)
        with self.lock:
            self.calls.append(made)
            left = self.replies[agent]
            reply = left.pop(0) if len(left) > 1 else left[0]
        if callable(reply):
            reply = reply(made)
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def tool(self, code):
        self.programs.append(code)
        return "12\n"

    def node(self, record):
        self.nodes.append(record)

    def answer(self, message):
        self.answers.append(message)

    def spawn(self, jobs):
        def work(job):
            try:
                return job()
            except BaseException as error:
                return error

        with ThreadPoolExecutor(len(jobs)) as pool:
            return list(pool.map(work, jobs))

    @property
    def agents(self):
        """The agents in the order of their paths, which is the order the parent sees."""
        ordered = sorted(self.calls, key=lambda c: ([int(p) for p in c.path.split(".")], c.number))
        return [call.agent for call in ordered]

    def at(self, path, number=0):
        return next(c for c in self.calls if (c.path, c.number) == (path, number))


def run(source, kind="math", question=QUESTION, nodes="", **replies):
    """Runs a script against canned replies (a text or a list per agent); the client after it."""
    client = FakeClient({k: [*v] if isinstance(v, list) else [v] for k, v in replies.items()})
    refusal = PermissionError(errno.EPERM, "Operation not permitted")  # as in the sandbox
    with (
        patch.dict(sys.modules),
        patch.dict(vars(mas)),
        patch.object(subprocess, "run", side_effect=refusal),
    ):
        mas.run_script(source, question, kind, client, seed=1, nodes=nodes)
    return client
