"""Cold start in a box: the base model learns the script language from samples of its own.

Shown the language, it writes scripts for training questions and runs them; what was correct becomes
chats on the short prompts of training, and both adapters learn the chats of all rounds so far.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mxa_lite.credit.advantage import paid_correct
from mxa_lite.errors import RunError
from mxa_lite.learn import warmstart
from mxa_lite.learn.warmstart import Chat
from mxa_lite.mas import answers, prompts
from mxa_lite.policy.policy import ROLES
from mxa_lite.rollout.canned import Canned, Ungraded
from mxa_lite.rollout.sampler import Sampler, Shape
from mxa_lite.runfolder import RunFolder
from mxa_lite.tree import Call, Design, Outcome, Question

TEMPERATURE = 0.7  # of samples to learn from; the share of valid scripts is taken at training's own
PROBES = 32  # questions on which that share is measured, at most
DIVIDED = ("pipeline", "map")  # patterns whose calls solve parts
PART = 16  # questions sampled between two lines of progress
ADVICE = (
    "take a bigger instruct model (model.name), more rounds or training (cold_start.rounds, .steps,"
    " .learning_rate), longer scripts (rollout.max_completion_tokens.designer), or given data"
    " (cold_start.method=data)"
)


class _Taught(Sampler):
    """A sampler whose designer is shown the language; patterns are asked for in turn."""

    turn = 0

    def designer_prompt(self, question: Question) -> Chat:
        """As many examples as fit; without room for one, the short prompt, its reply begun."""
        turn, names = self.turn, list(prompts.PATTERNS)
        self.turn += 1
        asked, other = (names[n % len(names)] for n in (turn, turn + 1 + turn // len(names) % 5))
        room = self.engine.max_length - self.recipe.rollout.max_completion_tokens.designer
        for shown in ([other, asked, asked], [asked]):
            messages = prompts.teaching(question.text, question.kind, shown, turn)
            if not self.engine.encode(messages, room)[1]:
                return messages
        return [*prompts.designer(question.text), messages[-1]]

    def checked(self, call: Call) -> Design:
        call.reply = prompts.BEGUN + call.reply
        return super().checked(call)


FORMAL = "<delivery>\\boxed{1}</delivery>\n<solution>\nprint(1)\n</solution>"


def valid_share(sampler: Sampler, questions: Sequence[Question]) -> float:
    """Share of designs on the short prompt that run to an answer, tried with canned replies."""
    designs = sampler.design(questions, Shape(1, 1, sampler.recipe.rollout.temperature), "probe")
    whole = [(q, designs[q.id][0]) for q in questions if designs[q.id][0].outcome is None]
    engine: Any = Canned({"*": [FORMAL]})
    rehearsal = Sampler(engine, sampler.sandbox, Ungraded(), sampler.recipe)
    rehearsal.run_scripts(whole, 0.0)
    return sum(ran(design) for _, design in whole) / len(questions)


def ran(design: Design) -> bool:
    """Whether a script is valid: an execution of it came to an answer."""
    return any(run.outcome is Outcome.OK for run in design.executions)


@dataclass(eq=False)
class Sample:
    """A design, run at most once."""

    question: Question
    design: Design
    correct: bool

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
            "kept": kept,
        }
        right = (run and run.answer) or ""
        for call in run.calls if run else ():
            value = answers.last_boxed(call.reply) if self.question.kind == "math" else None
            other = value is not None and not answers.same_value(value, right)
            # the calls on parts of a question come to other values than the whole
            good = self.correct and not call.truncated and (not other or design.pattern in DIVIDED)
            row = _row("executor", call.messages, call.reply, self.question)
            yield {**row, "agent": call.agent, "kept": good}


def _row(role: str, prompt: Chat, reply: str, question: Question) -> dict[str, Any]:
    messages = [*prompt, {"role": "assistant", "content": reply}]
    return {"role": role, "messages": messages, "question": question.id}


def chosen(samples: Sequence[Sample], enough: int) -> list[Sample]:
    """Correct designs, no two alike for a question, no pattern above the mean over patterns.

    Where fewer than `enough` are correct, others that ran follow: the form can be learned.
    """
    found = [s for s in samples if s.correct]
    if len(found) < enough:
        found += [s for s in samples if ran(s.design) and not s.correct]
    fresh: dict[tuple[str, str], Sample] = {}
    for s in found:
        fresh.setdefault((s.question.id, answers.program(s.design.script or "")), s)
    groups: dict[str, list[Sample]] = defaultdict(list)
    for s in fresh.values():
        groups[s.design.pattern].append(s)
    most = -(-len(fresh) // max(len(groups), 1))
    return [s for group in groups.values() for s in group[:most]]


def seeds(questions: Sequence[Question], number: int) -> Iterator[dict[str, Any]]:
    """Example scripts as designer chats: every pattern in turn, each time with other agents."""
    names = list(prompts.PATTERNS)
    for i in range(number):
        question, (turn, place) = questions[i % len(questions)], divmod(i, len(names))
        script = prompts.example(names[place], question.kind, place + turn)
        row = _row("designer", prompts.designer(question.text), script, question)
        yield {**row, "pattern": names[place], "seed": True, "kept": True}


@dataclass
class Bootstrap:
    """The rounds. pick(n, k): k training questions of round n. Files go to RUN/cold_start/."""

    sampler: Sampler
    pick: Callable[[int, int], list[Question]]
    folder: RunFolder
    say: Callable[[str], None]
    chats: dict[str, list[Chat]] = field(default_factory=lambda: {role: [] for role in ROLES})
    outcomes: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """Rounds, one at least, until the target share of valid scripts on the short prompt.

        Raises RunError when not one valid script came in all rounds.
        """
        cold = self.sampler.recipe.cold_start
        probes = self.pick(cold.rounds + 1, min(PROBES, cold.questions))
        shares = [valid_share(self.sampler, probes)]
        self.say(f"cold start: {shares[0]:.0%} valid scripts on the short prompt, before")
        for number in range(1, cold.rounds + 1):
            began = time.monotonic()
            losses = self.learn(number, self.sample(number))
            shares.append(valid_share(self.sampler, probes))
            self.say(
                f"cold start {number}/{cold.rounds}: {shares[-2]:.0%} -> {shares[-1]:.0%} valid"
                f" scripts on the short prompt ({len(probes)} questions, target"
                f" {cold.target_valid:.0%}); loss"
                f" {', '.join(f'{name} {loss:.3f}' for name, loss in losses.items()) or '-'};"
                f" {time.monotonic() - began:.0f} s"
            )
            if shares[-1] >= cold.target_valid:
                return
        if not self.outcomes["ok"] and not any(shares):
            seen = ", ".join(f"{name} {n}" for name, n in self.outcomes.most_common())
            raise RunError(f"cold start: no valid script in {number} rounds ({seen}); {ADVICE}")
        self.say(f"cold start: below the target; {ADVICE}")

    def sample(self, number: int) -> list[Sample]:
        """The designs of a round, run and graded; a line of progress and cost per part."""
        base, recipe, stats = self.sampler, self.sampler.recipe, self.sampler.engine.stats
        taught = _Taught(base.engine, base.sandbox, base.grader, recipe)
        questions, found = self.pick(number, recipe.cold_start.questions), list[Sample]()
        began, tokens = time.monotonic(), stats.prompt_tokens + stats.completion_tokens
        shape, by = Shape(recipe.rollout.designs, 1, TEMPERATURE), recipe.credit.answer_from
        for start in range(0, len(questions), PART):
            part = questions[start : start + PART]
            for tree in taught.rollout(part, shape, f"cold start {number}"):
                for d in tree.designs:
                    paid = [paid_correct(run, tree.question.kind, by) for run in d.executions]
                    found.append(Sample(tree.question, d, 1 in paid))
            valid, correct = (sum(ran(s.design) for s in found), sum(s.correct for s in found))
            calls = sum(len(run.calls) for s in found for run in s.design.executions)
            spent = stats.prompt_tokens + stats.completion_tokens - tokens
            self.say(
                f"  {start + len(part)}/{len(questions)} questions: {len(found)} scripts, {valid}"
                f" ran, {correct} correct; {calls} calls, {spent} tokens,"
                f" {time.monotonic() - began:.0f} s"
            )
        return found

    def learn(self, number: int, samples: list[Sample]) -> dict[str, float]:
        """Write a round's samples down and train on what all rounds kept, each chat once."""
        recipe, engine = self.sampler.recipe, self.sampler.engine
        kept = chosen(samples, recipe.cold_start.batch_size)
        examples = list(seeds([s.question for s in samples], recipe.cold_start.seed_designs))
        lines = [row for s in samples for row in s.rows(s in kept)] + examples
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        self.folder.write(f"cold_start/round-{number}.jsonl", text)  # all that was sampled
        self.outcomes.update(line["outcome"] for line in lines if "outcome" in line)
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
            + f", and {len(examples)} examples; training on "
            + ", ".join(f"{len(chats)} {role}" for role, chats in self.chats.items())
            + " chats, in cold_start/chats.jsonl"
        )
        return warmstart.warm_start(recipe, engine.policy, engine, self.chats)
