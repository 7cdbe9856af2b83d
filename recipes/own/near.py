# A task with its own scorer: an answer that is off by one earns half.
from random import Random


def rows(split, seed, count):
    for a, b, c in (Random(f"{split} {seed} {n}").choices(range(2, 21), k=3) for n in range(count)):
        text = f"Ann has {a} pens. She buys {b} more. Then she finds {c} more. How many pens?"
        yield {"question": text, "answer": a + b + c}


def score(question, answer):
    return max(0, 1 - abs(int(answer) - int(question.gold)) / 2) if answer.isdecimal() else 0
