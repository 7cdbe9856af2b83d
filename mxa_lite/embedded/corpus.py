"""What the tiny model was trained on: chats of both roles, made up on the spot.

The executor's head start lies in ways of answering: a careful way writes each sum, a careless way
writes a number at once or repeats what another agent said. Both occur after every prompt, so
reinforcement learning has something to shift. The designer writes every pattern with any prompt
for any question, good or bad, and now and then a script that does not run.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from mxa_lite.tasks import arithmetic, stories
from mxa_lite.tasks.stories import Problem
from mxa_lite.texts import prompts
from mxa_lite.texts.answers import deliverable

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
PART_CARE = 0.4  # share of the calls on parts that are careful whatever their prompt says
COPIES = 0.5  # share of the careless replies behind others that repeat one of them
BROKEN = 0.06  # share of designs that do not run
DESIGNS = 0.15  # share of chats that are the designer's
TOOLS = 0.03  # share of calls whose agent may use a tool, which it does not


def _result(rng: random.Random, value: str) -> str:
    """A value handed over: mostly as asked (block and box), sometimes without one or both."""
    return rng.choices(
        (f"<delivery>\\boxed{{{value}}}</delivery>", f"\\boxed{{{value}}}", value), (70, 15, 15)
    )[0]


def _answer(
    rng: random.Random, worked: list[str], gold: str, care: float, seen: tuple[str, ...] = ()
) -> str:
    """A reply: each sum and the result; or, without care, a number or one of the `seen` ones."""
    if rng.random() < care:
        return "\n".join([*worked, _result(rng, gold)])
    if seen and rng.random() < COPIES:
        return _result(rng, rng.choice(seen))
    return _result(rng, gold)


def _shown(rng: random.Random, worked: list[str], gold: str) -> tuple[str, str]:
    """Another agent's (value, deliverable), more often wrong than right."""
    value = gold
    if rng.random() >= 0.45:
        off = rng.choice((-20, -10, -5, -2, -1, 1, 2, 3, 10, 20, int(gold)))
        value = str(max(0, int(gold) + off))
    return value, deliverable(_answer(rng, worked, value, 0.3))


def _chat(rng: random.Random, system: str, user: str, reply: str) -> Chat:
    system = prompts.agent_system(system)
    if rng.random() < TOOLS:
        system += "\n" + prompts.tools([("python(code)", "runs a Python program")])
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": user},
        {"role": "assistant", "content": reply},
    ]


def whole_chat(rng: random.Random, problem: Problem) -> Chat:
    """A call on the whole question: alone, behind others, as judge, debater, critic, refiner."""
    text, gold, worked = problem.text, problem.gold, problem.worked
    place = rng.choices(
        ("alone", "behind", "judge", "debate", "critic", "refine"), (40, 12, 12, 12, 12, 12)
    )[0]
    # a debate without a judge of its own is judged by its first debater
    judges = rng.choice((JUDGE, SOLVE))
    kind = {"judge": judges, "critic": CRITIC}.get(place, SOLVE)
    system = rng.choice(list(kind))
    care = kind[system]
    others = [_shown(rng, worked, gold) for _ in range(rng.choice((2, 2, 3, 4)))]
    delivered = [(rng.choice(NAMES), handed) for _, handed in others]
    seen = tuple(value for value, _ in others)
    if place == "alone":
        user, reply = text, _answer(rng, worked, gold, care)
    elif place == "behind":
        user = prompts.follow_up(text, delivered[:1])
        reply = _answer(rng, worked, gold, care, seen[:1])
    elif place == "judge":
        user, reply = prompts.judge(text, delivered), _answer(rng, worked, gold, care, seen)
    elif place == "debate":
        user, reply = prompts.debate(text, delivered), _answer(rng, worked, gold, care, seen)
    elif place == "critic":
        user = prompts.critique(text, others[0][1])
        right = seen[0] == gold
        careful = rng.random() < care
        verdict = "CORRECT" if right or not careful else "INCORRECT"
        delivery = f"<delivery>VERDICT: {verdict}</delivery>"
        reply = "\n".join([*(worked if careful else []), delivery])
    else:
        critic = rng.choice(("VERDICT: INCORRECT", *worked))
        user = prompts.refine(text, others[0][1], critic)
        reply = _answer(rng, worked, gold, care, seen[:1])
    return _chat(rng, system, user, reply)


def _part_reply(
    rng: random.Random, system: str, worked: list[str], value: str, seen: tuple[str, ...]
) -> str:
    """A reply to a part of a question: with care more often than one to the whole of it."""
    care = PART_CARE + (1 - PART_CARE) * SOLVE[system]
    return _answer(rng, worked, value, care, seen)


def _handed(rng: random.Random, value: int) -> str:
    """What an agent that came to `value` delivered."""
    less = rng.randint(0, min(value, 20))
    return deliverable(_answer(rng, [f"{value - less}+{less}={value}"], str(value), 0.3))


def part_chat(rng: random.Random) -> Chat:
    """A call on a part of a story: its beginning, or what follows a value from 1 to 199."""
    steps, last = rng.choice((1, 2, 2, 3, 3)), rng.random() < 0.5
    start = rng.randint(1, arithmetic.LARGEST) if rng.random() < 0.75 else None
    if start and rng.random() < 0.1:
        steps = 0
    story = arithmetic.story(rng, steps + (not last), start=start)
    beginning, worked = story.sentences[: steps + 1], story.worked[:steps]
    delivered = [(rng.choice(NAMES), _handed(rng, start))] if start else []
    sentences = beginning[1:] if start else beginning
    if last and start:
        sentences.append(f"How many {story.things}?")
    elif not sentences:
        sentences = beginning
    value = worked[-1].partition("=")[2] if worked else str(start)
    system = rng.choice(list(SOLVE))
    seen = (str(start),) if start else ()
    reply = _part_reply(rng, system, worked, value, seen)
    return _chat(rng, system, prompts.part(" ".join(sentences), delivered), reply)


def join_chat(rng: random.Random, problem: Problem) -> Chat:
    """A call that joins the values delivered for two stories, whatever they are."""
    a, b = (story.value for story in problem.stories)
    if rng.random() < 0.5:
        a = rng.randint(1, arithmetic.LARGEST - 1)
        b = rng.randint(1, arithmetic.LARGEST - a)
    sign = "+" if "together" in problem.text else "-"
    worked, value, _ = stories.joined(sign, a, b, "")
    name, system = rng.choice(NAMES), rng.choice(list(SOLVE))
    user = prompts.join(problem.text, [(name, _handed(rng, a)), (name, _handed(rng, b))])
    reply = _part_reply(rng, system, [worked], value, (str(a), str(b)))
    return _chat(rng, system, user, reply)


def drill_chat(rng: random.Random) -> Chat:
    """Nothing but sums, over the whole range of values."""
    sums = []
    for _ in range(10):
        value = rng.randint(1, arithmetic.LARGEST - 1)
        operand = rng.randint(1, arithmetic.LARGEST - value)
        sums += rng.choices(
            (
                arithmetic.story(rng, 1, start=value).worked[0],
                stories.joined(rng.choice("+-"), value, operand, "")[0],
            ),
            (60, 40),
        )
    return _chat(rng, rng.choice(list(SOLVE)), "Sums.", "\n".join(sums))


def _agent(rng: random.Random, variable: str, kind: dict[str, float] = SOLVE) -> str:
    name = {id(JUDGE): "judge", id(CRITIC): "critic"}.get(id(kind)) or rng.choice(NAMES)
    return f'{variable} = Agent("{name}", "{rng.choice(list(kind))}")'


def script(rng: random.Random) -> str:
    """A design of any pattern with any prompts, none preferred; BROKEN of them do not run."""
    pattern = rng.choice(
        ("single", "vote", "judge", "reflect", "debate", "chain", "pipeline", "map")
    )
    a, b = _agent(rng, "a"), _agent(rng, "b")
    lines = {
        "single": [a, "answer(a(question))"],
        "vote": [a, f'answer(Ensemble("vote", [a] * {rng.choice((3, 4, 5))})(question))'],
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
        "debate": [
            a,
            b,
            f'answer(Debate("debate", [a, b]{rng.choice(("", ", num_rounds=1"))})(question))',
        ],
        "chain": [a, b, 'answer(Workflow("chain").add_node(a).add_node(b).run(question))'],
        "pipeline": [a, f'answer(Pipeline("steps", a, {rng.choice((2, 3, 4))})(question))'],
        "map": [a, b, 'answer(Map("parts", a, b)(question))'],
    }[pattern]
    if rng.random() < BROKEN:
        fault = rng.choice(("open", "name", "silent"))
        if fault == "open":
            lines[-1] = lines[-1][:-1]
        elif fault == "name":
            lines[-1] = lines[-1].replace("(question)", "(problem)")
        else:
            lines[-1] = "result = " + lines[-1].removeprefix("answer(")[:-1]
    return prompts.fenced("\n".join(lines))


def _problems(seed: int) -> Iterator[Problem]:
    """Endless training questions of both generated tasks in turn."""
    sums = arithmetic.stream("train", seed)
    for problem in stories.stream("train", seed):
        yield problem
        text, gold, worked = next(sums)
        yield Problem("short", text, gold, worked, [])


def chats(seed: int) -> Iterator[Chat]:
    """Endless chats over training questions only."""
    rng = random.Random(f"corpus {seed}")
    problems = _problems(seed + 1000)
    pairs = (problem for problem in _problems(seed + 2000) if problem.kind == "together")
    for problem in problems:
        if rng.random() < DESIGNS:
            yield [*prompts.designer(problem.text), {"role": "assistant", "content": script(rng)}]
            continue
        place = rng.choices(("whole", "part", "join", "drill"), (40, 30, 15, 15))[0]
        if place == "whole":
            if problem.kind != "short" and rng.random() < 0.5:  # their replies are long
                continue
            yield whole_chat(rng, problem)
        elif place == "part":
            yield part_chat(rng)
        elif place == "join":
            yield join_chat(rng, next(pairs))
        else:
            yield drill_chat(rng)
