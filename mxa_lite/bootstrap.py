"""Cold start in a box: the base model learns the script language from samples of its own.

A round: the designer, shown the language and examples, writes scripts for training questions; they
run with the executor as it is; what was correct becomes chats on the short prompts of training, and
both adapters are trained on the chats of all rounds. No other model is asked.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

from mxa_lite import answers, coldstart, prompts
from mxa_lite.coldstart import Chat
from mxa_lite.credit import paid_correct
from mxa_lite.engine import Completion, Request
from mxa_lite.errors import RunError
from mxa_lite.graders import Verdict
from mxa_lite.models import ROLES
from mxa_lite.rollout import Sampler, Shape
from mxa_lite.runfolder import RunFolder
from mxa_lite.tree import Call, Design, Execution, Outcome, Question

TEMPERATURE = 0.7  # of samples to learn from; the share of valid scripts is taken at training's own
PROBES = 32  # questions on which that share is measured, at most
PART = 16  # questions sampled between two lines of progress
ADVICE = (
    "take a bigger instruct model (model.name), more tries (cold_start.rounds, "
    "cold_start.questions), room for a whole script (rollout.max_completion_tokens.designer), "
    "or given chats (cold_start.method=data, cold_start.data=FILE)"
)


class _Taught(Sampler):
    """A sampler whose designer is shown the language; patterns are asked for in turn."""

    def __init__(self, base: Sampler) -> None:
        super().__init__(base.engine, base.sandbox, base.grader, base.recipe)
        self.turns = count()

    def designer_prompt(self, question: Question) -> Chat:
        """As many examples as fit; without room for one, the short prompt, its reply begun."""
        turn, names = next(self.turns), list(prompts.PATTERNS)
        asked, other = (names[n % len(names)] for n in (turn, turn // len(names) - turn))
        room = self.engine.max_length - self.recipe.rollout.max_completion_tokens.designer
        for shown in ([other, asked, asked], [asked]):
            messages = prompts.teaching(question.text, question.kind, shown, turn)
            if not self.engine.encode(messages, room)[1]:
                return messages
        return [*prompts.designer(question.text), messages[-1]]

    def checked(self, call: Call) -> Design:
        call.reply = prompts.BEGUN + call.reply
        return super().checked(call)


class _Rehearsal:
    """Stands in for model and grader where only the form of a script matters."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        text = "<delivery>\\boxed{1}</delivery>\n<solution>\nprint(1)\n</solution>"
        return [Completion(text, [0], [0], [0.0], False, False) for _ in requests]

    def grade_many(self, pairs: list[tuple[Question, str]]) -> list[Verdict]:
        return [Verdict(0.0, "not graded")] * len(pairs)


def valid_share(sampler: Sampler, questions: Sequence[Question]) -> float:
    """Share of designs on the short prompt that run to an answer, tried with canned replies."""
    designs = sampler.design(questions, Shape(1, 1, sampler.recipe.rollout.temperature), "probe")
    whole = [(q, designs[q.id][0]) for q in questions if designs[q.id][0].outcome is None]
    canned = _Rehearsal()
    rehearsal = Sampler(cast(Any, canned), sampler.sandbox, canned, sampler.recipe)
    rehearsal.run_scripts(whole, 0.0)
    return sum(ran(design) for _, design in whole) / len(questions)


def ran(design: Design) -> bool:
    """Whether a script is valid: an execution of it came to an answer."""
    return any(run.outcome is Outcome.OK for run in design.executions)


@dataclass(eq=False)
class Sample:
    """A design, run once. right: its execution, if that was correct."""

    question: Question
    design: Design
    right: Execution | None

    def rows(self, kept: bool) -> Iterator[dict[str, Any]]:
        """Chat data of the design, on the short prompt of training, and of its calls."""
        design, runs = self.design, self.design.executions
        reply = design.call.reply if design.script is None else prompts.fenced(design.script)
        yield {
            **_row("designer", prompts.designer(self.question.text), reply, self.question),
            "pattern": design.pattern,
            "outcome": str(runs[0].outcome if runs else design.outcome),
            "error": runs[0].error if runs else design.error,
            "correct": self.right is not None,
            "kept": kept,
        }
        for call in (call for run in runs for call in run.calls):
            row = _row("executor", call.messages, call.reply, self.question)
            yield {**row, "agent": call.agent, "kept": self._worth(call)}

    def _worth(self, call: Call) -> bool:
        """Whether a reply may be learned: of a correct run, whole, without a wrong value."""
        if self.right is None or call.truncated:
            return False
        free = self.question.kind == "code" or not answers.in_form(call.reply)
        return free or answers.same_value(answers.extract(call.reply), self.right.answer or "")


def _row(role: str, prompt: Chat, reply: str, question: Question) -> dict[str, Any]:
    messages = [*prompt, {"role": "assistant", "content": reply}]
    return {"role": role, "messages": messages, "question": question.id}


def chosen(samples: Sequence[Sample], enough: int) -> list[Sample]:
    """Correct designs, no two alike for a question, no pattern above the mean over patterns.

    Where fewer than `enough` are correct, others that ran follow: the form can be learned.
    """
    found = [s for s in samples if s.right]
    if len(found) < enough:
        found += [s for s in samples if ran(s.design) and not s.right]
    fresh: dict[tuple[str, str], Sample] = {}
    for sample in found:
        fresh.setdefault((sample.question.id, answers.program(sample.design.script or "")), sample)
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in fresh.values():
        groups[sample.design.pattern].append(sample)
    most = -(-len(fresh) // max(len(groups), 1))
    return [sample for group in groups.values() for sample in group[:most]]


def seeds(questions: Sequence[Question], number: int) -> Iterator[dict[str, Any]]:
    """Example scripts as designer chats: every pattern in turn, each time with other agents."""
    names = list(prompts.PATTERNS)
    for i in range(number):
        question, (turn, place) = questions[i % len(questions)], divmod(i, len(names))
        script = prompts.example(names[place], question.kind, place + turn)
        row = _row("designer", prompts.designer(question.text), script, question)
        yield {**row, "pattern": names[place], "seed": True, "kept": True}


class Bootstrap:
    """The rounds. pick(n, k): k training questions of round n. Files go to RUN/cold_start/."""

    def __init__(
        self,
        sampler: Sampler,
        pick: Callable[[int, int], list[Question]],
        folder: RunFolder,
        say: Callable[[str], None],
    ) -> None:
        self.sampler, self.pick, self.folder, self.say = sampler, pick, folder, say
        self.taught = _Taught(sampler)
        self.cold = sampler.recipe.cold_start
        self.chats: dict[str, list[Chat]] = {role: [] for role in ROLES}
        self.outcomes: Counter[str] = Counter()

    def run(self) -> None:
        """Rounds, one at least, until the target share of valid scripts on the short prompt.

        Raises RunError when not one valid script came in all rounds.
        """
        probes = self.pick(self.cold.rounds + 1, min(PROBES, self.cold.questions))
        shares = [valid_share(self.sampler, probes)]
        self.say(f"cold start: {shares[0]:.0%} valid scripts on the short prompt, before")
        for number in range(1, self.cold.rounds + 1):
            self.learn(number, self.sample(number))
            shares.append(valid_share(self.sampler, probes))
            self.say(
                f"cold start: {shares[-2]:.0%} -> {shares[-1]:.0%} valid scripts on the short"
                f" prompt ({len(probes)} questions), target {self.cold.target_valid:.0%}"
            )
            if shares[-1] >= self.cold.target_valid:
                return
        if not self.outcomes["ok"] and not any(shares):
            seen = ", ".join(f"{name} {n}" for name, n in self.outcomes.most_common())
            raise RunError(f"cold start: no valid script in {number} rounds ({seen}); {ADVICE}")
        self.say(f"cold start: below the target after {number} rounds; {ADVICE}")

    def sample(self, number: int) -> list[Sample]:
        """The designs of a round, run and graded; a line of progress and cost per part."""
        recipe, stats = self.sampler.recipe, self.sampler.engine.stats
        questions, samples = self.pick(number, self.cold.questions), list[Sample]()
        began, tokens = time.monotonic(), stats.prompt_tokens + stats.completion_tokens
        for start in range(0, len(questions), PART):
            part = questions[start : start + PART]
            shape = Shape(recipe.rollout.designs, 1, TEMPERATURE)
            for tree in self.taught.rollout(part, shape, f"cold start {number}"):
                q, by = tree.question, recipe.credit.answer_from
                for d in tree.designs:
                    paid = [e for e in d.executions if paid_correct(e, q.kind, by) == 1]
                    samples.append(Sample(q, d, paid[0] if paid else None))
            calls = sum(len(run.calls) for s in samples for run in s.design.executions)
            spent = stats.prompt_tokens + stats.completion_tokens - tokens
            self.say(
                f"cold start {number}/{self.cold.rounds}: {start + len(part)} of {len(questions)}"
                f" questions, {len(samples)} scripts, {sum(ran(s.design) for s in samples)} ran,"
                f" {sum(s.right is not None for s in samples)} correct;"
                f" {calls} calls, {spent} tokens, {time.monotonic() - began:.0f} s"
            )
        return samples

    def learn(self, number: int, samples: list[Sample]) -> None:
        """Write a round's samples down and train on what all rounds kept, each chat once."""
        kept = chosen(samples, self.cold.batch_size)
        examples = list(seeds([s.question for s in samples], self.cold.seed_designs))
        lines = [row for s in samples for row in s.rows(s in kept)] + examples
        self.folder.write(
            f"cold_start/round-{number}.jsonl",
            "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines),
        )
        self.outcomes.update(line["outcome"] for line in lines if "outcome" in line)
        for line in lines:
            if line["kept"] and line["messages"] not in self.chats[line["role"]]:
                self.chats[line["role"]].append(line["messages"])
        formal = sum(s.right is None for s in kept)
        patterns = Counter(s.design.pattern for s in kept).most_common()
        self.say(
            f"  kept {len(kept)} scripts: {', '.join(f'{p} {n}' for p, n in patterns) or 'none'};"
            f" {len(examples)} examples join them"
            + f"; too few were correct, so {formal} that only ran are kept for form"
            * bool(formal)
        )
        began, engine = time.monotonic(), self.sampler.engine
        losses = coldstart.warm_start(self.sampler.recipe, engine.policy, engine, self.chats)
        if losses:
            self.say(
                f"  trained on {', '.join(f'{len(c)} {r}' for r, c in self.chats.items())} chats,"
                f" loss {', '.join(f'{n} {x:.3f}' for n, x in losses.items())},"
                f" {time.monotonic() - began:.0f} s"
            )
