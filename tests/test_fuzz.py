"""1,000 pieces of nonsense through the sandbox: always an outcome, never an exception here."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from mxa_lite.mas.check import check
from mxa_lite.sandbox.box import CallRequest, Ended, Job, Limits, Sandbox
from mxa_lite.sandbox.run import Run
from mxa_lite.tree import Outcome

SCRIPT = """
from workflow import Workflow, AgentNode, EnsembleNode
members = [AgentNode(f"solver{i}", "Solve it.", temperature=0.5 * i) for i in range(3)]
judge = AgentNode("judge", "Judge.")
vote = EnsembleNode("vote", members, strategy="majority_vote", consensus_agent=judge)
flow = Workflow("flow")
flow.add_node(vote)
result = flow.run(question)
print(result, len(result))
answer(result if "4" in result else Agent("last")(result))
"""
LINES = [
    {"t": "call", "id": 1, "agent": "a", "path": "0", "temperature": 0.5}
    | {"messages": [{"role": "user", "content": "q"}]},
    {"t": "wait", "seen": 0},
    {"t": "tool", "id": 2, "code": "print(1)"},
    {
        "t": "node",
        "node": {"name": "n", "kind": "agent", "path": "0", "parents": ["1"]}
        | {"output": "4", "error": None},
    },
    {"t": "answer", "message": "4"},
    {"t": "end", "error": None},
]
ODD = [None, True, -1, 0, 2**70, 1e400, float("nan"), "", "\ud800\x00", [], {}, [[]], {"t": "end"}]


def noise(dice: random.Random) -> str:
    return dice.randbytes(dice.randrange(300)).decode("latin-1")


def mutated(dice: random.Random, text: str) -> str:
    """Characters removed, doubled, swapped or replaced in a few places."""
    parts = list(text)
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(parts))
        parts[at] = dice.choice(["", parts[at] * 2, dice.choice(parts), chr(dice.randrange(1000))])
    return "".join(parts)


def odd_line(dice: random.Random) -> bytes:
    """A line of the wire with a key lost, a value replaced, or characters changed."""
    line = dict(dice.choice(LINES))
    key = dice.choice([*line])
    if dice.random() < 0.3:
        del line[key]
    elif dice.random() < 0.7:
        line[key] = dice.choice(ODD)
    text = json.dumps(line)
    if dice.random() < 0.4:
        text = mutated(dice, text)
    return text.encode("utf-8", "surrogatepass") + b"\n"


def talker(dice: random.Random) -> str:
    lines = b"".join(odd_line(dice) for _ in range(dice.randrange(1, 6)))
    return f"import os\nos.write(3, {lines!r})\n{dice.choice(['', 'os._exit(0)', SCRIPT])}"


def nonsense(number: int) -> str:
    dice = random.Random(number)
    if number % 3 == 0:
        return noise(dice)
    return mutated(dice, SCRIPT) if number % 3 == 1 else talker(dice)


@pytest.mark.slow
def test_a_thousand_scripts_have_an_outcome() -> None:
    outcomes: Counter[Outcome] = Counter()
    with Sandbox(Limits(seconds=2, max_calls=8)) as box:
        jobs = {box.start(Job(nonsense(number), "2+2?")) for number in range(1000)}
        while jobs:
            for event in box.poll(None):
                if isinstance(event, Ended):
                    jobs.remove(event.job)
                    outcomes[event.outcome] += 1
                    json.dumps(vars(event)).encode()
                else:
                    box.reply(event.job, event.id, "\\boxed{4}")
    assert outcomes.total() == 1000
    assert len(outcomes) >= 4, outcomes  # or the nonsense is of one kind only


def test_lines_of_any_kind_never_raise() -> None:
    for number in range(1000):
        dice = random.Random(number)
        run = Run(0, {"program": False}, Limits(), lambda ended, status: None)
        data = b"".join(dice.choice([odd_line(dice), dice.randbytes(50)]) for _ in range(5))
        while data:
            cut = dice.randrange(1, 200)
            for request in run.feed(data[:cut], 0.0):
                if isinstance(request, CallRequest):
                    assert 0.0 <= (request.temperature or 0.0) <= 5.0
                    json.dumps(request.messages).encode()
            data = data[cut:]
        outcome, _ = run.outcome(0, None)
        assert outcome in Outcome


def test_the_static_check_never_raises() -> None:
    for number in range(1000):
        dice = random.Random(number)
        check(dice.choice([noise(dice), mutated(dice, SCRIPT)]))
