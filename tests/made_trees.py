"""Trees with token ids by hand, for tests of batching, loss and schedule."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch

from mxa_lite.learn.batching import trajectories
from mxa_lite.learn.step import Step
from mxa_lite.policy.policy import Policy
from mxa_lite.records import UpdateNumbers
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


def on_policy(policy: Policy, made: list[Tree]) -> list[Tree]:
    """The trees with the log-probs that the policy gives their completions, as if sampled by it."""
    for trajectory in trajectories(made, ("designer", "executor")):
        policy.activate(trajectory.role)
        c = trajectory.call
        ids = torch.tensor([c.prompt_ids + c.completion_ids])
        with torch.no_grad():
            logits = policy.model(input_ids=ids).logits[0, :-1].float() / c.temperature
        logps = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        c.logps = logps[len(c.prompt_ids) - 1 :].tolist()
    return made


class Seen:
    """Takes steps over made-up trees, and keeps what the trainer measured of each."""

    def __init__(
        self, make: Callable[[int], list[Tree]], roles: Callable[[int], tuple[str, ...]]
    ) -> None:
        self.make, self.roles = make, roles
        self.steps: list[Step] = []

    def take(self, number: int) -> Step:
        self.steps.append(Step.of(number, self.make(number), self.roles(number)))
        return self.steps[-1]

    @property
    def numbers(self) -> list[UpdateNumbers]:
        return [numbers for step in self.steps for numbers in step.numbers]
