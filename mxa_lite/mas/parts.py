"""Nodes that divide the work: a question read in portions, or its lines solved side by side.

What the agent of a part delivers (`<delivery>`) is what the next one, or the one that joins, works
with. Both rest on `agent.ask(text, *replies)` and the first on `sentences(question)` too, which
scripts may use themselves. Standard library only.
"""

from __future__ import annotations

import itertools
import re

from mxa_lite.mas.core import Context, Message, WorkflowNode, gather, node_class, solutions, visit
from mxa_lite.texts import prompts


def sentences(text: str) -> list[str]:
    """The sentences of a text; a line's end ends one too."""
    return [one for one in re.split(r"(?<=[.!?])\s+|\n", text.strip()) if one.strip()]


@node_class
class PipelineNode(WorkflowNode):
    """An agent reads the question in at most `calls` portions of whole sentences, one call each.

    From the second portion on it is shown what it delivered for the one before. The result is the
    last reply.
    """

    kind = "pipeline"
    name: str
    agent: WorkflowNode
    calls: int = 3

    def __post_init__(self) -> None:
        if self.calls < 1:
            raise ValueError(f"pipeline {self.name} needs at least 1 call, not {self.calls}")

    def process(self, context: Context) -> Message:
        whole = sentences(context.question)
        number = max(min(self.calls, len(whole)), 1)
        ends = [-(-len(whole) * i // number) for i in range(number + 1)]
        replies: list[Message] = []
        for start, end in itertools.pairwise(ends):
            replies.append(self.agent.ask(" ".join(whole[start:end]), *replies[-1:]))
        return Message(str(replies[-1]))


@node_class
class MapNode(WorkflowNode):
    """Solves each line of the question alone and at once, then `join` puts the results together.

    The last of several lines is what is asked: it goes to `join`, with the whole question. Calls:
    one a line, the last apart, and one more. Without a `join` the agent joins.
    """

    kind = "map"
    name: str
    agent: WorkflowNode
    join: WorkflowNode | None = None

    def process(self, context: Context) -> Message:
        lines = [line for line in context.question.splitlines() if line.strip()]
        texts = [prompts.part(line, []) for line in lines[:-1] or lines]
        replies = gather([self.agent] * len(texts), *map(Context.asking, texts))
        failed = next((reply for reply in replies if reply.failed), None)
        if failed is not None:
            raise RuntimeError(f"a part of {self.name} failed: {failed}")
        text = prompts.join(context.question, solutions(replies))
        return Message(str(visit(self.join or self.agent, Context.asking(text, replies))))
