"""One agent alone, with the fixed single-agent prompt: a single call, or a majority of several."""

from __future__ import annotations

from collections.abc import Sequence

from mxa_lite.policy.request import Request
from mxa_lite.rollout.sampler import Sampler, Shape, call_of
from mxa_lite.texts import answers, prompts
from mxa_lite.tree import Call, Design, Execution, Outcome, Question, Tree


class Ballots:
    """What one agent alone says to each question, M x N times: a ballot of one call or more, drawn
    vote by vote.

    tag: the step, or what else goes into all keys.
    """

    def __init__(
        self, sampler: Sampler, questions: Sequence[Question], shape: Shape, tag: int | str
    ) -> None:
        self.sampler, self.questions, self.shape, self.tag = sampler, questions, shape, tag
        samples = shape.designs * shape.executions
        self.calls: list[list[list[Call]]] = [[[] for _ in range(samples)] for _ in questions]

    def draw(self, votes: range) -> None:
        """Add the calls with these numbers to every ballot."""
        limit = self.sampler.recipe.rollout.max_completion_tokens.executor
        requests, ballots = [], []
        for question, of_question in zip(self.questions, self.calls, strict=True):
            messages = prompts.single(question.text, question.kind)
            for sample, ballot in enumerate(of_question):
                for vote in votes:
                    key = (self.sampler.recipe.seed, self.tag, question.id, sample, vote, "single")
                    temperature = self.shape.temperature
                    requests.append(Request(messages, "executor", key, temperature, limit))
                    ballots.append(ballot)
        with self.sampler.clock("execute_model"):
            completions = self.sampler.engine.generate(requests)
        for ballot, request, completion in zip(ballots, requests, completions, strict=True):
            ballot.append(call_of(request, completion, "single"))

    def completion_tokens(self) -> float:
        """Of a ballot, on average."""
        ballots = [ballot for of_question in self.calls for ballot in of_question]
        tokens = sum(len(call.completion_ids) for ballot in ballots for call in ballot)
        return tokens / max(len(ballots), 1)

    def trees(self) -> list[Tree]:
        """A tree a question: an execution for each ballot, under one empty design, graded."""
        trees, step = [], self.tag if isinstance(self.tag, int) else 0
        for question, ballots in zip(self.questions, self.calls, strict=True):
            executions = [
                Execution(Outcome.OK, majority([c.reply for c in ballot], question.kind), ballot)
                for ballot in ballots
            ]
            empty = Design(Call("designer", "", 0, []), pattern="single_agent")
            empty.executions = executions
            trees.append(Tree(question, [empty], step))
        answered = [(tree.question, e) for tree in trees for e in tree.designs[0].executions]
        with self.sampler.clock("grade"):
            verdicts = self.sampler.grader.grade_many([(q, e.answer or "") for q, e in answered])
        for (_, execution), verdict in zip(answered, verdicts, strict=True):
            execution.correct = float(verdict.correct)
        return trees


def single_trees(
    sampler: Sampler, questions: Sequence[Question], shape: Shape, tag: int | str, votes: int = 1
) -> list[Tree]:
    """A tree a question: M x N executions of `votes` calls under one empty design, graded."""
    ballots = Ballots(sampler, questions, shape, tag)
    ballots.draw(range(votes))
    return ballots.trees()


def majority(replies: Sequence[str], kind: str) -> str:
    """The answer most replies agree on, values compared as answers; the first of equals."""
    proposals = [answers.extract(reply, kind) for reply in replies]
    votes = [sum(answers.same_value(a, b) for b in proposals) for a in proposals]
    return proposals[votes.index(max(votes))]
