"""Prompts of the designer and of critics, in place of the kit's; the others stay."""

KIT = "You design multi-agent systems. Write a Python script that builds one for the question."


def designer(question):
    messages = {"system": f"{KIT} Use few agents.", "user": question}
    return [{"role": role, "content": content} for role, content in messages.items()]


def critique(question, solution):
    return f"{question}\n[solution] {solution}\nAdd again. End with VERDICT: CORRECT or not."
