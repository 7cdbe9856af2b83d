"""Every text the kit itself puts in front of a model, one place, per role.

Standard library only: the script language loads this file inside the sandbox. The prompts are short
because they are repeated in every call; the long text that teaches the script language is used by
`cold_start: bootstrap` alone, and the adapters are then trained on the short ones.
"""

from __future__ import annotations

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


def tools(names: list[tuple[str, str]]) -> str:
    """Appended to the system prompt of an agent with tools; `names`: (tool, description)."""
    listed = "\n".join(f"- {name}: {description}" for name, description in names)
    return (
        "You may use a tool by writing <tool_call>"
        '{"name": "...", "arguments": {...}}</tool_call>. Tools:\n' + listed
    )


FINAL_TURN = "No more tools. Give the final answer now."
