"""Every text the kit itself puts in front of a model, one place, per role.

Standard library only: the script language loads this file inside the sandbox. The prompts are short
because they are repeated in every call; a model that has never seen the script language is shown
the long text that teaches it instead, until its adapters know the short ones.
"""

from __future__ import annotations

from collections.abc import Sequence

Message = dict[str, str]

DESIGNER_SYSTEM = (
    "You design multi-agent systems. Write a Python script that builds one for the question."
)

DELIVERY = {
    "math": "Put what others need in <delivery></delivery>, the final answer in \\boxed{}.",
    "code": "Put what others need in <delivery></delivery>, the program in <solution></solution>.",
}

SINGLE_SYSTEM = "Solve the problem."


def designer(question: str) -> list[Message]:
    """The designer's prompt for one question, as it is used in training and evaluation."""
    return [
        {"role": "system", "content": DESIGNER_SYSTEM},
        {"role": "user", "content": question},
    ]


def agent_system(system_prompt: str, kind: str = "math") -> str:
    """An agent's system prompt: the script's own text and how to hand over a result."""
    return f"{system_prompt.strip()}\n{DELIVERY[kind]}".strip()


def single(question: str, kind: str = "math") -> list[Message]:
    """The fixed prompt of the mode `single`: one executor call, no design."""
    return [
        {"role": "system", "content": agent_system(SINGLE_SYSTEM, kind)},
        {"role": "user", "content": question},
    ]


def _blocks(texts: list[tuple[str, str]]) -> str:
    return "\n".join(f"[{name}] {text}" for name, text in texts)


def follow_up(question: str, delivered: list[tuple[str, str]]) -> str:
    """User message of an agent that stands behind others; `delivered`: (agent, delivery)."""
    return f"{question}\n{_blocks(delivered)}\nGive your own solution."


def judge(question: str, solutions: list[tuple[str, str]]) -> str:
    """User message of the judge of an ensemble or a debate."""
    return f"{question}\n{_blocks(solutions)}\nWhich one is right? Give the final answer."


def debate(question: str, solutions: list[tuple[str, str]]) -> str:
    """User message of a debater from the second round on: everybody's last answers."""
    return f"{question}\n{_blocks(solutions)}\nAnswer again, after reading the others."


def critique(question: str, solution: str) -> str:
    """User message of the critic in a reflection."""
    return (
        f"{question}\n[solution] {solution}\n"
        "Check it. End with VERDICT: CORRECT or VERDICT: INCORRECT."
    )


def refine(question: str, solution: str, critic: str) -> str:
    """User message of the agent that improves its solution after a critique."""
    return f"{question}\n[solution] {solution}\n[critic] {critic}\nWrite a better solution."


def part(text: str, delivered: list[tuple[str, str]]) -> str:
    """User message of an agent that is asked a part of the question, after what came before it."""
    return "\n".join([*filter(None, [_blocks(delivered)]), text, "Solve this part only."])


def join(question: str, delivered: list[tuple[str, str]]) -> str:
    """User message of the agent that gets the results of all parts."""
    return f"{question}\n{_blocks(delivered)}\nPut the parts together."


def tools(names: list[tuple[str, str]]) -> str:
    """Appended to the system prompt of an agent with tools; `names`: (tool, description)."""
    listed = "\n".join(f"- {name}: {description}" for name, description in names)
    return (
        "You may use a tool by writing <tool_call>"
        '{"name": "...", "arguments": {...}}</tool_call>. Tools:\n' + listed
    )


FINAL_TURN = "No more tools. Give the final answer now."


# What a model is shown that has never seen the script language: `prompts: examples`, and
# `cold_start: bootstrap`, which then trains the adapters on the short prompts.

LANGUAGE = """\
You design multi-agent systems: a short Python script makes agents and lets them work on a question.
The script may use only this, without imports:
a = Agent("name", "instruction")    one agent; a(question) is its reply
Ensemble("name", [a, b, c])    all answer, the majority wins
Ensemble("name", [a, b], "consensus", j)    all answer, agent j decides
Reflection("name", a, c, num_iterations=1)    agent c criticises, agent a improves
Debate("name", [a, b], j)    all answer, read each other, answer again; agent j decides
Workflow("name").add_node(a).add_node(b).run(question)    b continues what a wrote
Pipeline("name", a, 3)    a reads the question in 3 portions, each with its last result
Map("name", a, b)    a solves each line of the question alone, b joins the results
Each of them is called with (question), a text that is there already. The last line hands in the \
answer: answer(...).
The agents solve the question, not the script: write instructions that suit the question, never \
the solution.
Reply with the script alone, in a ```python block."""

SHOWN = ("vote", "chain", "reflect")  # the patterns whose examples `prompts: examples` shows

PATTERNS = {
    "single": "one agent answers",
    "vote": "agents with different strategies answer, the majority wins",
    "judge": "agents with different strategies answer, a judge decides",
    "reflect": "an agent answers, a critic looks for mistakes, the agent improves",
    "debate": "agents read each other and answer again, a judge decides",
    "chain": "agents one after another, each continues the work",
}

_SCRIPTS = {
    "single": "a = {0}\nanswer(a(question))",
    "vote": 'a = {0}\nb = {1}\nc = {2}\nanswer(Ensemble("vote", [a, b, c])(question))',
    "judge": "a = {0}\nb = {1}\nj = {judge}\n"
    'answer(Ensemble("panel", [a, b], "consensus", j)(question))',
    "reflect": "a = {0}\nc = {critic}\n"
    'answer(Reflection("reflect", a, c, num_iterations=1)(question))',
    "debate": 'a = {0}\nb = {1}\nj = {judge}\nanswer(Debate("debate", [a, b], j)(question))',
    "chain": 'a = {0}\nb = {1}\nanswer(Workflow("chain").add_node(a).add_node(b).run(question))',
}

_SOLVERS = {
    "math": (
        'Agent("solver", "Solve it step by step and check every sum.")',
        'Agent("algebra", "Name the unknown, write an equation, solve it.")',
        'Agent("lister", "List the given numbers first, then compute.")',
        'Agent("backward", "Start from what is asked and work backward.")',
    ),
    "code": (
        'Agent("coder", "Write the simplest program that is right.")',
        'Agent("planner", "Plan the steps in words, then write the program.")',
        'Agent("tester", "Name the special cases first, then write the program.")',
        'Agent("reader", "Say what goes in and what comes out, then write the program.")',
    ),
}
_JUDGES = {
    "math": 'Agent("judge", "Compute it again and pick the solution that is right.")',
    "code": 'Agent("judge", "Run each program in your head on the example, pick the right one.")',
}
_CRITICS = {
    "math": 'Agent("critic", "Look for a mistake in the steps and in the sums.")',
    "code": 'Agent("critic", "Look for a case that the program gets wrong.")',
}
_EXAMPLES = {
    "math": (
        "Pens cost $2 for three. How much are 12 pens?",
        "Ann is 4 years older than Bob. Together they are 20. How old is Bob?",
        "A train goes 60 miles in 45 minutes. How far does it go in 3 hours?",
    ),
    "code": (
        "Write a function that adds two numbers.\nExample: assert add(1, 2) == 3",
        "Write a function that finds the longest word.\nExample: assert longest('a bcd') == 'bcd'",
        "Read numbers, one a line, and print their sum.",
    ),
}

_WORKED = {
    "math": (
        (_EXAMPLES["math"][2], "4 * 45 = 180 and 4 * 60 = 240.\n<delivery>\\boxed{240}</delivery>"),
        ("What is 35 + 27?", "35 + 27 = 62.\n<delivery>\\boxed{62}</delivery>"),
    ),
    "code": (
        (
            _EXAMPLES["code"][0],
            "<solution>\ndef add(a, b):\n    return a + b\n</solution>\n"
            "<delivery>add returns the sum.</delivery>",
        ),
    ),
}


def example(pattern: str, kind: str = "math", pick: int = 0) -> str:
    """An example script of a pattern in a fence; `pick` turns over the agents it is made of."""
    solvers = _SOLVERS[kind]
    chosen = [solvers[(pick + i) % len(solvers)] for i in range(3)]
    script = _SCRIPTS[pattern].format(*chosen, judge=_JUDGES[kind], critic=_CRITICS[kind])
    return fenced(script)


def fenced(script: str) -> str:
    """A script as the designer writes it."""
    return f"```python\n{script}\n```"


def examples(
    question: str, kind: str, patterns: Sequence[str] = SHOWN, pick: int = 0, required: str = ""
) -> list[Message]:
    """The prompt of a designer that was never taught: the language, and an example script of each
    pattern in `patterns` as a turn of the chat. `required`: the one to write, else it may choose.

    Instruct models solve a question that stands alone, whatever the system part says.
    """
    messages = [{"role": "system", "content": LANGUAGE}]
    for number, pattern in enumerate(patterns):
        text = _EXAMPLES[kind][number % len(_EXAMPLES[kind])]
        messages += [
            {"role": "user", "content": _ordered(text, pattern if required else "")},
            {"role": "assistant", "content": example(pattern, kind, pick + number)},
        ]
    return [*messages, {"role": "user", "content": _ordered(question, required)}]


def _ordered(question: str, pattern: str) -> str:
    wish = f" Pattern: {pattern}, {PATTERNS[pattern]}." if pattern else ""
    return f"Write the script for this question, do not solve it.{wish}\nQuestion: {question}"


def worked(kind: str) -> list[Message]:
    """Turns that show an agent how a result is handed over, for `cold_start: bootstrap`."""
    return [
        {"role": role, "content": text}
        for turn in _WORKED[kind]
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
