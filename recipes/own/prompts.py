"""Prompts of the designer and of critics, in place of the kit's; the others stay."""


def designer(question):
    system = "Write a Python script of agents that solve the question. Use few of them."
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


def critique(question, solution):
    return f"{question}\n[solution] {solution}\nAdd it up again. End with VERDICT: CORRECT or not."
