"""The hierarchical sampler: question -> M designs -> N executions -> calls.

Executions run at once, each in its own sandbox. A wave starts when every live execution waits for
the model; the engine then answers all waiting calls in batches. What has ended is graded meanwhile.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mxa_lite.mas.check import check
from mxa_lite.policy.request import Completion, Request, seed_of
from mxa_lite.recipe.keys import Recipe
from mxa_lite.rollout.chosen import choose_prompts
from mxa_lite.sandbox.box import CallRequest, Ended, Job, Sandbox
from mxa_lite.texts import answers, prompts
from mxa_lite.tree import Call, Design, Execution, Outcome, Question, Tree, path_key

if TYPE_CHECKING:  # torch is loaded where a model is
    from mxa_lite.policy.generate import Engine

ALIVE = 256  # executions at once; more wait for these to end


class Grades(Protocol):
    """What the sampler needs of a grader."""

    def grade_many(self, pairs: list[tuple[Question, str]]) -> Sequence[Any]: ...


class Shape(NamedTuple):
    """How to roll out: M, N, and the temperature of both roles."""

    designs: int
    executions: int
    temperature: float = 1.0


@dataclass
class Clock:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started


@dataclass
class _Running:
    """An execution under way. key: what its calls are seeded from."""

    design: Design
    question: Question
    key: tuple[Any, ...]
    execution: Execution
    tokens: int = 0


class Waiting(NamedTuple):
    """A call that waits for the model."""

    running: _Running
    event: CallRequest
    request: Request


class Sampler:
    """Rolls out questions with one policy, one sandbox and one grader."""

    def __init__(self, engine: Engine, sandbox: Sandbox, grader: Grades, recipe: Recipe) -> None:
        self.engine, self.sandbox, self.grader, self.recipe = engine, sandbox, grader, recipe
        self.clock = Clock()

    def rollout(self, questions: Sequence[Question], shape: Shape, tag: int | str) -> list[Tree]:
        """One tree per question, graded but without credit; `tag` (the step) goes into all keys."""
        step = tag if isinstance(tag, int) else 0
        with self.clock("execute_sandbox"):
            self.sandbox.prepare(min(len(questions) * shape.designs * shape.executions, ALIVE))
        with self.clock("design"):
            designs = self.design(questions, shape, tag)
        trees = [Tree(q, designs[q.id], step) for q in questions]
        jobs = [
            self._running(tree.question, design, (tag, tree.question.id, m, n))
            for tree in trees
            for m, design in enumerate(tree.designs)
            if design.outcome is None
            for n in range(shape.executions)
        ]
        self._execute(jobs, shape.temperature)
        return trees

    def design(
        self, questions: Sequence[Question], shape: Shape, tag: int | str
    ) -> dict[str, list[Design]]:
        """M checked designs per question id."""
        requests = [
            Request(
                self.designer_prompt(question),
                "designer",
                (self.recipe.seed, tag, question.id, m, "design"),
                shape.temperature,
                self.recipe.rollout.max_completion_tokens.designer,
            )
            for question in questions
            for m in range(shape.designs)
        ]
        answered = iter(zip(requests, self.engine.generate(requests), strict=True))
        return {
            q.id: [self.checked(call_of(*next(answered), "designer")) for _ in range(shape.designs)]
            for q in questions
        }

    def designer_prompt(self, question: Question) -> list[dict[str, str]]:
        if choose_prompts(self.recipe)[0] == "short":
            return prompts.designer(question.text)
        return self.fitting(prompts.examples(question.text, question.kind))

    def fitting(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        """An `examples` prompt with as many examples as leave the designer room to write."""
        room = self.engine.max_length - self.recipe.rollout.max_completion_tokens.designer
        while len(messages) > 2 and self.engine.encode(messages, room)[1]:
            messages = [messages[0], *messages[3:]]
        return messages

    def checked(self, call: Call) -> Design:
        """A designer's completion as a design: script extracted and checked, never an exception."""
        script = answers.extract_script(call.reply)
        if script is None:
            error = "no script in the completion"
            return Design(call, outcome=Outcome.NO_SCRIPT, error=error)
        if len(script) > self.recipe.rollout.max_script_chars:
            error = f"the script is longer than {self.recipe.rollout.max_script_chars} characters"
            return Design(call, script, outcome=Outcome.REJECTED, error=error)
        return self.design_of(script, call)

    def design_of(self, script: str, call: Call) -> Design:
        """A script as a design, whoever wrote it."""
        checked = check(script, self.sandbox.node_names)
        return Design(call, script, checked.pattern, checked.outcome, checked.error)

    def run_scripts(self, pairs: Sequence[tuple[Question, Design]], temperature: float) -> None:
        """Execute given designs once each, e.g. hand-written ones; graded, without credit."""
        jobs = [
            self._running(q, design, ("fixed", q.id, design.script, n))
            for n, (q, design) in enumerate(pairs)
        ]
        self._execute(jobs, temperature)

    def _running(self, question: Question, design: Design, key: tuple[Any, ...]) -> _Running:
        execution = Execution(Outcome.CRASHED)
        design.executions.append(execution)
        return _Running(design, question, (self.recipe.seed, *key), execution)

    def _execute(self, jobs: list[_Running], temperature: float) -> None:
        """Run and grade, some at once. Only one thread at a time uses the grader, and no other than
        this one the sandbox and the model."""
        with ThreadPoolExecutor(1, "grade") as grading:
            graded: list[Future[None]] = []
            for start in range(0, len(jobs), ALIVE):
                for ended in self._run(jobs[start : start + ALIVE], temperature):
                    graded.append(grading.submit(self._grade, ended))
            with self.clock("grade"):  # as far as it was not done while the model worked
                for future in graded:
                    future.result()

    def _run(self, jobs: list[_Running], temperature: float) -> Iterator[list[_Running]]:
        """Run executions to their ends; yields those that ended since the last wave."""
        live: dict[int, _Running] = {}
        waiting: list[Waiting] = []
        with self.clock("execute_sandbox"):
            for job in jobs:
                source = job.design.script or ""
                seed = seed_of((*job.key, "script"))
                question = job.question
                live[self.sandbox.start(Job(source, question.text, question.kind, seed))] = job
        while live:
            ended: list[_Running] = []
            with self.clock("execute_sandbox"):
                for event in self.sandbox.poll(None):
                    if isinstance(event, Ended):
                        ended.append(live.pop(event.job))
                        self._ended(ended[-1], event)
                        waiting = [call for call in waiting if call.event.job != event.job]
                    elif event.job in live:
                        job = live[event.job]
                        waiting.append(
                            Waiting(job, event, self.request_of(job, event, temperature))
                        )
                idle = self.sandbox.idle()
            if ended:
                yield ended
            if waiting and idle:
                wave = sorted(waiting, key=lambda call: (call.event.job, path_key(call.event.path)))
                waiting = []
                with self.clock("execute_model"):
                    completions = self.engine.generate([call.request for call in wave])
                with self.clock("execute_sandbox"):
                    self._reply(list(zip(wave, completions, strict=True)))

    def request_of(self, job: _Running, event: CallRequest, temperature: float) -> Request:
        """An agent's call as the model gets it."""
        return Request(
            event.messages,
            "executor",
            (*job.key, event.path, event.number),
            temperature if event.temperature is None or temperature == 0 else event.temperature,
            self.recipe.rollout.max_completion_tokens.executor,
            event.agent,
        )

    def _reply(self, wave: list[tuple[Waiting, Completion]]) -> None:
        stopped: dict[int, tuple[Outcome, str | None]] = {}
        for call, completion in wave:
            if completion.error is not None:
                stopped.setdefault(call.event.job, (Outcome.CRASHED, completion.error))
                continue
            running = call.running
            recorded = call_of(call.request, completion, call.event.agent)
            recorded.path, recorded.number = call.event.path, call.event.number
            running.execution.calls.append(recorded)
            running.tokens += len(completion.completion_ids)
            if running.tokens > self.recipe.rollout.max_tokens:
                stopped.setdefault(call.event.job, (Outcome.TOKEN_BUDGET, None))
        for job, (outcome, error) in stopped.items():
            self.sandbox.stop(job, outcome, error)
        for call, completion in wave:
            if call.event.job not in stopped:
                self.sandbox.reply(call.event.job, call.event.id, completion.text)

    def _ended(self, job: _Running, event: Ended) -> None:
        execution = job.execution
        execution.outcome, execution.error = event.outcome, event.error
        execution.nodes, execution.seconds = event.nodes, event.seconds
        execution.stdout, execution.stderr = event.stdout, event.stderr
        if event.message is not None:
            execution.answer = answers.extract(event.message, job.question.kind)

    def _grade(self, jobs: list[_Running]) -> None:
        graded = [j for j in jobs if j.execution.outcome is Outcome.OK and j.execution.answer]
        pairs = [(j.question, j.execution.answer or "") for j in graded]
        for job, verdict in zip(graded, self.grader.grade_many(pairs), strict=True):
            job.execution.correct = float(verdict.correct)


def call_of(request: Request, completion: Completion, agent: str) -> Call:
    """A request and its completion as a call of the tree."""
    return Call(
        agent=agent,
        path="",
        number=0,
        messages=request.messages,
        reply=completion.text,
        prompt_ids=completion.prompt_ids,
        completion_ids=completion.completion_ids,
        logps=completion.logps,
        temperature=request.temperature,
        truncated=completion.truncated,
        prompt_cut=completion.prompt_cut,
    )
