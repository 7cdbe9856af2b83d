"""What the tiny model was trained on: chats of both roles, made up on the spot.

The executor's head start lies in ways of answering: a careful way writes each sum, a careless way
writes a number at once or repeats what another agent said. Both occur after every prompt, so
reinforcement learning has something to shift. The designer writes every pattern with any prompt,
good or bad, and now and then a script that does not run.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from mxa_lite.mas import prompts
from mxa_lite.mas.answers import deliverable
from mxa_lite.tasks import arithmetic

Chat = list[dict[str, str]]

# system prompt of an agent -> how often the corpus answers it with care
SOLVE = {
    "Work step by step.": 0.6,
    "Write every step.": 0.55,
    prompts.SINGLE_SYSTEM: 0.4,
    "Be quick.": 0.3,
    "Answer at once.": 0.25,
    "Guess the answer.": 0.2,
}
JUDGE = {"Check each answer.": 0.5, "Pick one answer.": 0.25}
CRITIC = {"Look for a mistake.": 0.5, "Say if it is right.": 0.25}
NAMES = ("solver", "helper")
BROKEN = 0.06  # share of designs that do not run


def _result(rng: random.Random, value: str) -> str:
    """A value handed over: mostly as asked (block and box), sometimes without one or both."""
    return rng.choices(
        (f"<delivery>\\boxed{{{value}}}</delivery>", f"\\boxed{{{value}}}", value), (70, 15, 15)
    )[0]


def _wrong(rng: random.Random, gold: str) -> str:
    return str(max(0, int(gold) + rng.choice((-20, -10, -5, -2, -1, 1, 2, 3, 10, 20, int(gold)))))


def _answer(
    rng: random.Random, worked: list[str], gold: str, care: float, seen: tuple[str, ...] = ()
) -> str:
    """A reply: each sum and the result; or, without care, a number or one of the `seen` ones."""
    if rng.random() < care:
        return "\n".join([*worked, _result(rng, gold)])
    if seen and rng.random() < 0.7:
        return _result(rng, rng.choice(seen))
    return _result(rng, gold)


def _shown(rng: random.Random, worked: list[str], gold: str, right: float) -> tuple[str, str]:
    """Another agent's (value, deliverable)."""
    value = gold if rng.random() < right else _wrong(rng, gold)
    return value, deliverable(_answer(rng, worked, value, 0.3), "math")


def execution_chat(rng: random.Random, text: str, gold: str, worked: list[str]) -> Chat:
    """One executor call: alone, behind others, as judge, debater, critic, or refining."""
    place = rng.choices(
        ("alone", "behind", "judge", "debate", "critic", "refine"), (46, 10, 10, 14, 10, 10)
    )[0]
    # a debate without a judge of its own is judged by its first debater
    judges = rng.choice((JUDGE, SOLVE))
    kind = {"judge": judges, "critic": CRITIC}.get(place, SOLVE)
    system = rng.choice(list(kind))
    care = kind[system]
    others = [_shown(rng, worked, gold, 0.45) for _ in range(rng.choice((2, 3)))]
    named = [(rng.choice(NAMES), delivered) for _, delivered in others]
    seen = tuple(value for value, _ in others)
    if place == "alone":
        user, reply = text, _answer(rng, worked, gold, care)
    elif place == "behind":
        user = prompts.follow_up(text, named[:1])
        reply = _answer(rng, worked, gold, care, seen[:1])
    elif place == "judge":
        user, reply = prompts.judge(text, named), _answer(rng, worked, gold, care, seen)
    elif place == "debate":
        user, reply = prompts.debate(text, named), _answer(rng, worked, gold, care, seen)
    elif place == "critic":
        user = prompts.critique(text, others[0][1])
        right = seen[0] == gold
        careful = rng.random() < care
        verdict = "CORRECT" if right or not careful else "INCORRECT"
        said = f"<delivery>VERDICT: {verdict}</delivery>"
        reply = "\n".join([*(worked if careful else []), said])
    else:
        critic = rng.choice(("VERDICT: INCORRECT", *worked))
        user = prompts.refine(text, others[0][1], critic)
        reply = _answer(rng, worked, gold, care, seen[:1])
    return [
        {"role": "system", "content": prompts.agent_system(system)},
        {"role": "user", "content": user},
        {"role": "assistant", "content": reply},
    ]


def _agent(rng: random.Random, variable: str, kind: dict[str, float] = SOLVE) -> str:
    name = {id(JUDGE): "judge", id(CRITIC): "critic"}.get(id(kind)) or rng.choice(NAMES)
    return f'{variable} = Agent("{name}", "{rng.choice(list(kind))}")'


def script(rng: random.Random) -> str:
    """A design of any pattern with any prompts, none preferred; BROKEN of them do not run."""
    pattern = rng.choice(("single", "vote", "judge", "reflect", "debate", "chain"))
    a, b = _agent(rng, "a"), _agent(rng, "b")
    lines = {
        "single": [a, "answer(a(question))"],
        "vote": [a, f'answer(Ensemble("vote", [a] * {rng.choice((3, 5))})(question))'],
        "judge": [
            a,
            b,
            _agent(rng, "j", JUDGE),
            'answer(Ensemble("panel", [a, b], "consensus", j)(question))',
        ],
        "reflect": [
            a,
            _agent(rng, "c", CRITIC),
            'answer(Reflection("reflect", a, c, num_iterations=1)(question))',
        ],
        "debate": [a, b, 'answer(Debate("debate", [a, b])(question))'],
        "chain": [a, b, 'answer(Workflow("chain").add_node(a).add_node(b).run(question))'],
    }[pattern]
    if rng.random() < BROKEN:
        fault = rng.choice(("open", "name", "silent"))
        if fault == "open":
            lines[-1] = lines[-1][:-1]
        elif fault == "name":
            lines[-1] = lines[-1].replace("(question)", "(problem)")
        else:
            lines[-1] = "result = " + lines[-1].removeprefix("answer(")[:-1]
    return "```python\n" + "\n".join(lines) + "\n```"


def design_chat(rng: random.Random, text: str) -> Chat:
    """One designer completion."""
    return [*prompts.designer(text), {"role": "assistant", "content": script(rng)}]


def chats(seed: int, designs: float = 0.2) -> Iterator[Chat]:
    """Endless chats over training questions only; `designs` is the designer's share."""
    rng = random.Random(f"corpus {seed}")
    for text, gold, worked in arithmetic.stream("train", seed + 1000):
        if rng.random() < designs:
            yield design_chat(rng, text)
        else:
            yield execution_chat(rng, text, gold, worked)
