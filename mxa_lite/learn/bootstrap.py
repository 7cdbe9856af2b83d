"""Cold start in a box: the base model learns the script language from samples of its own.

Shown the language, it writes scripts for training questions and runs them, and the example scripts
too; what was correct becomes chats on the short prompts of training, and both adapters learn the
chats of all rounds so far.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mxa_lite.credit.reward import paid_correct
from mxa_lite.errors import RunError
from mxa_lite.learn import warmstart
from mxa_lite.learn.warmstart import Chat
from mxa_lite.policy.request import Request
from mxa_lite.rollout.sampler import Sampler, Shape
from mxa_lite.runfolder import RunFolder
from mxa_lite.sandbox.box import CallRequest
from mxa_lite.texts import answers, prompts
from mxa_lite.tree import ROLES, Call, Design, Outcome, Question

TEMPERATURE = 0.7  # of samples to learn from; the share of valid scripts is taken at training's own
PROBES = 16  # questions on which the shares of a round are measured
DIVIDED = ("pipeline", "map")  # patterns whose calls solve parts
PART = 16  # questions sampled between two lines of progress
ADVICE = (
    "take a bigger instruct model (model.name), more rounds or training (cold_start.rounds, .steps,"
    " .learning_rate), longer scripts (rollout.max_completion_tokens.designer), or given data"
    " (cold_start.method=data)"
)


class _Taught(Sampler):
    """A sampler that shows the designer example scripts, asking for the patterns in turn, and the
    agents how a result is handed over."""

    turn = 0

    def designer_prompt(self, question: Question) -> Chat:
        turn, names = self.turn, list(prompts.PATTERNS)
        self.turn += 1
        target, other = (names[n % len(names)] for n in (turn, turn + 1 + turn // len(names) % 5))
        patterns = (other, target, target)  # `fitting` drops the first where room is short
        return self.fitting(prompts.examples(question.text, question.kind, patterns, turn, target))

    def request_of(self, job: Any, event: CallRequest, temperature: float) -> Request:
        request = super().request_of(job, event, temperature)
        worked = prompts.worked(job.question.kind)
        return replace(request, messages=[*event.messages[:1], *worked, *event.messages[1:]])


def shares(sampler: Sampler, questions: Sequence[Question]) -> tuple[float, float]:
    """Shares of designs on the prompt of training that run to an answer, and to the right one."""
    trees = sampler.rollout(questions, Shape(1, 1, sampler.recipe.rollout.temperature), "probe")
    samples = graded(
        sampler, ((tree.question, design) for tree in trees for design in tree.designs)
    )
    return (
        sum(ran(s.design) for s in samples) / len(samples),
        sum(s.correct for s in samples) / len(samples),
    )


def ran(design: Design) -> bool:
    """Whether a script is valid: an execution of it came to an answer."""
    return any(run.outcome is Outcome.OK for run in design.executions)


@dataclass(eq=False)
class Sample:
    """A design, run at most once."""

    question: Question
    design: Design
    correct: bool
    example: bool = False  # not the designer's own

    def rows(self, kept: bool) -> Iterator[dict[str, Any]]:
        """Chat data of the design, on the short prompt, and of its calls."""
        design, run = self.design, next(iter(self.design.executions), None)
        reply = design.call.reply if design.script is None else prompts.fenced(design.script)
        yield {
            **_row("designer", prompts.designer(self.question.text), reply, self.question),
            "pattern": design.pattern,
            "outcome": str(run.outcome if run else design.outcome),
            "error": run.error if run else design.error,
            "correct": self.correct,
            "example": self.example,
            "kept": kept,
        }
        right, worked = (run and run.answer) or "", prompts.worked(self.question.kind)
        for call in run.calls if run else ():
            value = answers.last_boxed(call.reply) if self.question.kind == "math" else None
            wrong = value is not None and not answers.same_value(value, right)
            # the calls on parts of a question come to other values than the whole
            good = self.correct and not call.truncated and (not wrong or design.pattern in DIVIDED)
            prompt = [message for message in call.messages if message not in worked]
            row = _row("executor", prompt, call.reply, self.question)
            yield {**row, "agent": call.agent, "kept": good}


def graded(
    sampler: Sampler, designs: Iterable[tuple[Question, Design]], example: bool = False
) -> list[Sample]:
    """Designs that were run at most once, as samples."""
    by = sampler.recipe.credit.answer_from
    return [
        Sample(q, d, any(paid_correct(run, q.kind, by) == 1 for run in d.executions), example)
        for q, d in designs
    ]


def _row(role: str, prompt: Chat, reply: str, question: Question) -> dict[str, Any]:
    messages = [*prompt, {"role": "assistant", "content": reply}]
    return {"role": role, "messages": messages, "question": question.id}


def chosen(samples: Sequence[Sample], enough: int) -> list[Sample]:
    """Correct designs, no two alike for a question, no pattern above the mean over patterns.

    Where fewer than `enough` are correct, others that ran follow: the form can be learned.
    """
    candidates = [s for s in samples if s.correct]
    if len(candidates) < enough:
        candidates += [s for s in samples if ran(s.design) and not s.correct]
    fresh: dict[tuple[str, str], Sample] = {}
    for s in candidates:
        fresh.setdefault((s.question.id, answers.program(s.design.script or "")), s)
    groups: dict[str, list[Sample]] = defaultdict(list)
    for s in fresh.values():
        groups[s.design.pattern].append(s)
    per_pattern = -(-len(fresh) // max(len(groups), 1))
    return [s for group in groups.values() for s in group[:per_pattern]]


def examples(sampler: Sampler, questions: Sequence[Question]) -> list[Sample]:
    """Example scripts, run: every pattern in turn, each time with other agents."""
    names, pairs = list(prompts.PATTERNS), []
    for i, question in enumerate(questions):
        turn, place = divmod(i, len(names))
        text = prompts.example(names[place], question.kind, place + turn)
        pairs.append((question, sampler.checked(Call("designer", "", 0, [], text))))
    sampler.run_scripts(pairs, TEMPERATURE)
    return graded(sampler, pairs, example=True)


@dataclass
class Bootstrap:
    """The rounds. pick(n, k): k training questions of round n. Files go to RUN/cold_start/."""

    sampler: Sampler
    pick: Callable[[int, int], list[Question]]
    folder: RunFolder
    say: Callable[[str], None]
    chats: dict[str, list[Chat]] = field(default_factory=lambda: {role: [] for role in ROLES})
    outcomes: Counter[str] = field(default_factory=Counter)
    valid_shown: float = 1.0  # share of valid scripts where the designer is shown examples

    def run(self) -> None:
        """Rounds, one at least, until the target share of valid scripts on the short prompt.

        Raises RunError when not one valid script came in all rounds.
        """
        cold = self.sampler.recipe.cold_start
        probes = self.pick(cold.rounds + 1, PROBES)
        valid, right = shares(self.sampler, probes)
        self.say(
            f"cold start: {valid:.0%} valid scripts and {right:.0%} right answers on the short"
            f" prompts, before ({len(probes)} questions)"
        )
        for number in range(1, cold.rounds + 1):
            began, before = time.monotonic(), valid
            losses = self.learn(number, self.sample(number, valid))
            valid, right = shares(self.sampler, probes)
            self.say(
                f"cold start {number}/{cold.rounds}: {before:.0%} -> {valid:.0%} valid scripts"
                f" (target {cold.target_valid:.0%}), {right:.0%} right answers; loss"
                f" {', '.join(f'{name} {loss:.3f}' for name, loss in losses.items()) or '-'};"
                f" {time.monotonic() - began:.0f} s"
            )
            if valid >= cold.target_valid:
                return
        if not self.outcomes["ok"] and not valid:
            counts = ", ".join(f"{name} {n}" for name, n in self.outcomes.most_common())
            raise RunError(f"cold start: no valid script in {number} rounds ({counts}); {ADVICE}")
        self.say(f"cold start: below the target; {ADVICE}")

    def sample(self, number: int, valid: float) -> list[Sample]:
        """The designs of a round, run and graded; a line of progress and cost per part.

        The designer is shown examples until it does better without: valid, its share on the short
        prompt, exceeds what the examples last gave. In the first round they are run themselves.
        """
        base, recipe, stats = self.sampler, self.sampler.recipe, self.sampler.engine.stats
        showing = valid <= self.valid_shown
        taught = _Taught(base.engine, base.sandbox, base.grader, recipe) if showing else base
        questions = self.pick(number, recipe.cold_start.questions)
        began, tokens = time.monotonic(), stats.prompt_tokens + stats.completion_tokens
        shape = Shape(recipe.rollout.designs, 1, TEMPERATURE)
        samples: list[Sample] = []
        for start in range(0, len(questions), PART):
            batch = questions[start : start + PART]
            trees = taught.rollout(batch, shape, f"cold start {number}")
            samples += graded(base, ((tree.question, d) for tree in trees for d in tree.designs))
            valid, correct = (sum(ran(s.design) for s in samples), sum(s.correct for s in samples))
            calls = sum(len(run.calls) for s in samples for run in s.design.executions)
            spent = stats.prompt_tokens + stats.completion_tokens - tokens
            self.say(
                f"  {start + len(batch)}/{len(questions)} questions: {len(samples)} scripts,"
                f" {valid} ran, {correct} correct; {calls} calls, {spent} tokens,"
                f" {time.monotonic() - began:.0f} s"
            )
        if showing:
            self.valid_shown = valid / len(samples)
        seeds = recipe.cold_start.seed_designs if number == 1 else 0
        return samples + examples(taught, self.pick(number, seeds))

    def learn(self, number: int, samples: list[Sample]) -> dict[str, float]:
        """Write a round's samples down and train on what all rounds kept, each chat once."""
        recipe, engine = self.sampler.recipe, self.sampler.engine
        kept = chosen([s for s in samples if not s.example], recipe.cold_start.batch_size)
        seeds = [s for s in samples if s.example]
        lines = [row for s in samples for row in s.rows(s in kept or s.example)]
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        self.folder.write(f"cold_start/round-{number}.jsonl", text)  # all that was sampled
        self.outcomes.update(
            row["outcome"] for row in lines if "outcome" in row and not row["example"]
        )
        for line in lines:
            if line["kept"] and line["messages"] not in self.chats[line["role"]]:
                self.chats[line["role"]].append(line["messages"])
        learned = [(role, chat) for role, chats in self.chats.items() for chat in chats]
        text = "".join(json.dumps({"role": r, "messages": chat}) + "\n" for r, chat in learned)
        self.folder.write("cold_start/chats.jsonl", text)  # the one file to hand out
        formal = sum(not s.correct for s in kept)
        patterns = Counter(s.design.pattern for s in kept).most_common()
        self.say(
            f"  kept {len(kept)} scripts ({', '.join(f'{p} {n}' for p, n in patterns)})"
            + f", {formal} of them for their form alone, since few were correct" * bool(formal)
            + f", and {len(seeds)} examples, {sum(s.correct for s in seeds)} correct; training on "
            + ", ".join(f"{len(chats)} {role}" for role, chats in self.chats.items())
            + " chats, in cold_start/chats.jsonl"
        )
        return warmstart.warm_start(recipe, engine.policy, engine, self.chats, self.say)
