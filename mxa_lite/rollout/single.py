"""One agent alone, with the fixed single-agent prompt: a single call, or a majority of several."""

from __future__ import annotations

from collections.abc import Sequence

from mxa_lite.policy.request import Request
from mxa_lite.rollout.sampler import Sampler, Shape, call_of
from mxa_lite.texts import answers, prompts
from mxa_lite.tree import Call, Design, Execution, Outcome, Question, Tree


def single_trees(
    sampler: Sampler, questions: Sequence[Question], shape: Shape, tag: int | str, votes: int = 1
) -> list[Tree]:
    """A tree a question: M x N executions of `votes` calls under one empty design, graded.

    tag: the step, or what else goes into all keys.
    """
    samples = shape.designs * shape.executions
    limit = sampler.recipe.rollout.max_completion_tokens.executor
    requests = [
        Request(
            prompts.single(question.text, question.kind),
            "executor",
            (sampler.recipe.seed, tag, question.id, sample, vote, "single"),
            shape.temperature,
            limit,
        )
        for question in questions
        for sample in range(samples)
        for vote in range(votes)
    ]
    with sampler.clock("execute_model"):
        completions = sampler.engine.generate(requests)
    calls = iter(call_of(r, c, "single") for r, c in zip(requests, completions, strict=True))
    trees = []
    for question in questions:
        tries = [[next(calls) for _ in range(votes)] for _ in range(samples)]
        executions = [
            Execution(Outcome.OK, majority([c.reply for c in ballot], question.kind), ballot)
            for ballot in tries
        ]
        empty = Design(Call("designer", "", 0, []), pattern="single_agent", executions=executions)
        trees.append(Tree(question, [empty], tag if isinstance(tag, int) else 0))
    answered = [(tree.question, e) for tree in trees for e in tree.designs[0].executions]
    with sampler.clock("grade"):
        verdicts = sampler.grader.grade_many([(q, e.answer or "") for q, e in answered])
    for (_, execution), verdict in zip(answered, verdicts, strict=True):
        execution.correct = float(verdict.correct)
    return trees


def majority(replies: Sequence[str], kind: str) -> str:
    """The answer most replies agree on, values compared as answers; the first of equals."""
    proposals = [answers.extract(reply, kind) for reply in replies]
    votes = [sum(answers.same_value(a, b) for b in proposals) for a in proposals]
    return proposals[votes.index(max(votes))]
