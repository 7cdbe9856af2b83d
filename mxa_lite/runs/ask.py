"""One question to a trained run: design, execution as it happens, one agent alone as a fallback."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from mxa_lite.errors import InputError, json_object
from mxa_lite.evidence import report
from mxa_lite.policy.request import Completion
from mxa_lite.recipe.keys import Recipe
from mxa_lite.rollout.canned import Graph, ShownCall, Ungraded, graph, shown_calls
from mxa_lite.rollout.opened import load_policy, sampler_for
from mxa_lite.rollout.sampler import Sampler, Shape, Waiting, call_of
from mxa_lite.rollout.single import single_trees
from mxa_lite.runfolder import checkpoint_name, latest_checkpoint
from mxa_lite.runs.stored import stored_recipe
from mxa_lite.stdio import printable
from mxa_lite.tree import Call, Design, NodeRecord, Outcome, Question, Tree

TAG = "ask"  # in every sampling key: the same question gets the same reply


def checkpoint_of(run: Path) -> Path:
    """The folder of the adapters of a run: the last complete checkpoint, else the cold start."""
    return latest_checkpoint(run / "checkpoints") or run / "checkpoints" / checkpoint_name(0)


@contextmanager
def opened(run: Path, sets: tuple[str, ...] = ()) -> Iterator[Sampler]:
    """A sampler with a run's trained policy. Raises InputError for what is no run."""
    recipe = stored_recipe(run, sets, checkpoint=True)
    policy = load_policy(recipe)
    policy.load(checkpoint_of(run))
    with sampler_for(recipe, policy) as sampler:
        yield sampler


def kind_of(run: Path, recipe: Recipe) -> str:
    """Whether the run's questions are "math" or "code"."""
    for path in sorted((run / "rollouts").glob("step-*.jsonl"))[:1]:
        with path.open(encoding="utf-8", errors="replace") as file:
            first = file.readline()  # a file may hold a hundred megabytes
        return str(json_object(first, f"{path} line 1")["question"]["kind"])
    return recipe.task.kind or "math"


class _Watched(Sampler):
    """A sampler that tells of every design and every call when it is there."""

    def __init__(self, base: Sampler, watch: Callable[[Design | Call], None]) -> None:
        super().__init__(base.engine, base.sandbox, Ungraded(), base.recipe)
        self.watch = watch

    def checked(self, call: Call) -> Design:
        design = super().checked(call)
        self.watch(design)
        return design

    def _reply(self, wave: list[tuple[Waiting, Completion]]) -> None:
        for waiting, completion in wave:
            call = call_of(waiting.request, completion, waiting.event.agent)
            call.path = waiting.event.path
            self.watch(call)
        super()._reply(wave)


class Answered(TypedDict):
    """What `mxa-lite design --json` prints. fallback: a single agent answers, for this reason."""

    question: str
    script: str | None
    pattern: str
    outcome: str
    answer: str | None
    fallback: bool
    reason: str | None
    calls: list[ShownCall]
    graph: Graph


@dataclass
class Asked:
    """What came of a question. reason: why a single agent answered instead of the design."""

    tree: Tree
    answer: str | None
    reason: str | None

    def to_json(self) -> Answered:
        design = self.tree.designs[0]
        executions = [e for d in self.tree.designs for e in d.executions]
        return {
            "question": self.tree.question.text,
            "script": design.script,
            "pattern": design.pattern,
            "outcome": str(design.outcome or next((e.outcome for e in design.executions), "ok")),
            "answer": self.answer,
            "fallback": self.reason is not None,
            "reason": self.reason,
            "calls": shown_calls([call for e in executions for call in e.calls]),
            "graph": graph([node for e in executions for node in e.nodes]),
        }

    def page(self, back: bool = False) -> str:
        """Answer, script, graph and transcript as HTML. back: with a link to a served report."""
        return report.page(
            title="A question",
            note=self.reason and f"The design failed ({self.reason}); a single agent answers.",
            answer=(self.tree.question.text, self.answer or "no answer"),
            steps=[{"label": "question", "data": report.pack([self.tree.to_json()])}],
            back=back,
        )

    def _repr_html_(self) -> str:
        return report.framed(self.page())


def _failure(design: Design) -> str | None:
    execution = design.executions[0] if design.executions else None
    if execution is not None and execution.outcome is Outcome.OK and execution.answer:
        return None
    failed = execution if execution is not None else design
    outcome = Outcome.NO_ANSWER if failed.outcome is Outcome.OK else failed.outcome
    return f"{outcome}: {failed.error}" if failed.error else str(outcome)


def ask(
    sampler: Sampler, text: str, kind: str, watch: Callable[[Design | Call], None] = lambda _: None
) -> Asked:
    """Design a system for a question, run it, and let one agent answer if that fails.

    watch gets the design, then every call as it is answered. Raises InputError without a text.
    """
    if not text.strip():
        raise InputError("the question is empty")
    clean = text.strip().encode("utf-8", "replace").decode()  # a terminal may hand over any bytes
    question = Question("asked", clean, "asked", kind)
    recipe = sampler.recipe
    temperature = recipe.rollout.temperature
    tree, reason, watched = Tree(question, []), None, _Watched(sampler, watch)
    if recipe.method == "metaagent":
        tree = watched.rollout([question], Shape(1, 1, temperature), TAG)[0]
        reason = _failure(tree.designs[0])
        if reason is None:
            return Asked(tree, tree.designs[0].executions[0].answer, None)
    (alone,) = single_trees(watched, [question], Shape(1, 1, temperature), 0)
    tree.designs += alone.designs
    (execution,) = alone.designs[0].executions
    watch(execution.calls[0])
    return Asked(tree, execution.answer, reason)


def drawn(nodes: Sequence[NodeRecord]) -> list[str]:
    """The workflow as an indented tree, one line a visit: what it was shown stands behind "<-"."""
    by_path = {str(node["path"]): node for node in nodes}
    order = sorted(by_path, key=lambda p: [(len(index), index) for index in p.split(".")])
    lines = []
    for path in order:
        node = by_path[path]
        parents = [str(by_path[p]["name"]) for p in node["parents"] if p in by_path]
        line = f"{'   ' * path.count('.')}└─ {node['name']} ({node['kind']})"
        line += f" <- {', '.join(parents)}" if parents else ""
        lines.append(printable(line + (f"  failed: {node['error']}" if node["error"] else "")))
    return lines
