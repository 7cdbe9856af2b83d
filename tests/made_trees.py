"""Trees with token ids by hand, for tests of batching, loss and schedule."""

from __future__ import annotations

import random

from mxa_lite.tree import Call, Design, Execution, Outcome, Question, Tree


def call(rng: random.Random, agent: str, advantage: float, temperature: float = 1.0) -> Call:
    prompt = [rng.randrange(10, 260) for _ in range(rng.randrange(3, 40))]
    completion = [rng.randrange(10, 260) for _ in range(rng.randrange(1, 30))]
    made = Call(agent, "0", 0, [], "", prompt, completion, [-1.0] * len(completion), temperature)
    made.advantage = advantage
    return made


def trees(seed: int = 0, questions: int = 2) -> list[Tree]:
    """Two designs a question, two executions a design, one to three calls an execution."""
    rng = random.Random(seed)
    made = []
    for q in range(questions):
        designs = []
        for _ in range(2):
            executions = [
                Execution(
                    Outcome.OK,
                    calls=[call(rng, "a", rng.uniform(-1, 1)) for _ in range(rng.randrange(1, 4))],
                )
                for _ in range(2)
            ]
            made_call = call(rng, "designer", rng.uniform(-1, 1))
            designs.append(Design(made_call, "answer('x')", "single", executions=executions))
        made.append(Tree(Question(str(q), "q", "arithmetic"), designs, 1))
    return made
