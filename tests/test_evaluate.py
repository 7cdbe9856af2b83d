"""What is measured on held-out questions: by kind, beside rivals, with no design drawn twice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import small

from mxa_lite.evidence import evaluate
from mxa_lite.evidence.attempts import Attempt, summarize
from mxa_lite.evidence.predictions import against, difference, flips
from mxa_lite.evidence.rivals import best_by_kind, best_fixed
from mxa_lite.policy.generate import Engine
from mxa_lite.policy.load import load
from mxa_lite.policy.policy import Policy
from mxa_lite.policy.request import Completion, Request
from mxa_lite.rollout.opened import sampler_for
from mxa_lite.rollout.sampler import Sampler
from mxa_lite.runfolder import RunFolder
from mxa_lite.runs.measuring import Measuring
from mxa_lite.tasks import load as tasks


def attempts(kind: str, *right: int, pattern: str = "vote") -> list[Attempt]:
    """One attempt at each of the questions kind0, kind1, ..."""
    return [
        Attempt(f"{kind}{i}", None, float(c), pattern=pattern, kind=kind)
        for i, c in enumerate(right)
    ]


def test_every_kind_has_its_own_numbers() -> None:
    kinds = summarize(
        attempts("long", 1, 1, 1) + attempts("long", 0, pattern="chain") + attempts("short", 0)
    )["kinds"]
    assert list(kinds) == ["long", "short"]
    assert kinds["long"]["accuracy"] == pytest.approx(2.5 / 3)  # half of the first question
    assert kinds["long"]["patterns"] == {"chain": 0.25, "vote": 0.75}
    assert (kinds["short"]["low"], kinds["short"]["high"]) == (0.0, 0.0)
    assert "kinds" not in summarize(attempts("", 1, 0))


def test_the_best_fixed_system_is_chosen_where_it_is_not_scored() -> None:
    """On questions 0 and 2 `a` is right and `b` on 1 and 3: each half chooses what fails on the
    other, though each has 1/2 of all."""
    systems = {"a": attempts("q", 1, 0, 1, 0), "b": attempts("q", 0, 1, 0, 1)}
    chosen, name = best_fixed(systems)
    assert sorted((a.question, a.correct) for a in chosen) == [(f"q{i}", 0.0) for i in range(4)]
    assert name == "b / a"


def test_a_system_that_is_best_everywhere_is_the_best_fixed_one() -> None:
    systems = {"a": attempts("q", 1, 0, 0, 0), "b": attempts("q", 1, 1, 1, 0)}
    assert best_fixed(systems) == (
        sorted(systems["b"], key=lambda a: (int(a.question[1:]) % 2, a.question)),
        "b",
    )


def test_the_oracle_knows_the_kind() -> None:
    systems = {
        "vote": attempts("long", 0, 0, 0, 0) + attempts("short", 1, 1, 1, 1),
        "steps": attempts("long", 1, 1, 1, 1) + attempts("short", 0, 0, 0, 0),
    }
    chosen, names = best_by_kind(systems)
    assert names == {"long": "steps", "short": "vote"}
    assert [a.correct for a in chosen] == [1.0] * 8
    assert summarize(best_fixed(systems)[0])["accuracy"] == 0.5


def row(correct: float, pattern: str) -> dict[str, Any]:
    return {"correct": correct, "pattern": pattern}


def test_flips_have_the_base_rate_beside_them() -> None:
    """Of six pairs three keep the pattern, one of three newly right ones does; of four attempts
    that were wrong, one of two is right where the pattern stayed, both where it changed."""
    cold = {
        "a": [row(0, "vote"), row(0, "vote"), row(1, "vote")],
        "b": [row(0, "vote"), row(0, "vote"), row(1, "vote")],
    }
    final = {
        "a": [row(1, "vote"), row(0, "vote"), row(1, "vote")],
        "b": [row(1, "chain"), row(1, "chain"), row(0, "chain")],
    }
    assert flips(cold, final) == {
        **{"pairs": 6, "kept": 0.5, "newly_right": 3, "newly_right_kept": pytest.approx(1 / 3)},
        **{"wrong_cold": 4, "right_where_kept": 0.5, "right_where_changed": 1.0},
    }
    assert flips({}, {})["kept"] is None


def test_a_difference_is_of_the_questions_both_answered() -> None:
    assert difference({"a": 0.0, "b": 1.0}, {"b": 0.5, "c": 1.0}) == {
        **{"difference": -0.5, "low": -0.5, "high": -0.5},
        "questions": 1,
    }


def test_rivals_that_were_not_measured_are_left_out(tmp_path: Path) -> None:
    for mode, correct in (("designed", 1.0), ("single", 0.0)):
        line = json.dumps({"question": "q", "correct": correct})
        (tmp_path / f"{mode}.jsonl").write_text(line + "\n")
    beside = against(tmp_path, "designed", ("single", "router"))
    assert {rival: d["difference"] for rival, d in beside.items()} == {"single": 1.0}


class Counting(Engine):
    """The real engine; `asked` counts requests by role."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy, 512, 65_536)
        self.asked: Counter[str] = Counter()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.asked.update(request.role for request in requests)
        return super().generate(requests)


@pytest.fixture(scope="module")
def sampler() -> Iterator[Sampler]:
    recipe = small("task=stories", "rollout.max_calls=2", "cold_start={method: data}")
    policy = load(recipe)
    with sampler_for(recipe, policy) as made:
        made.engine = Counting(policy)
        yield made


def asked_by(sampler: Sampler) -> Counter[str]:
    """Requests of each role until now."""
    assert isinstance(sampler.engine, Counting)
    return sampler.engine.asked.copy()


def test_designs_that_were_drawn_give_what_drawing_them_again_gives(sampler: Sampler) -> None:
    """The swap cells execute the designs of the evaluation."""
    questions = tasks.load(sampler.recipe.task, 1).test[:4]
    exam = evaluate.Exam(sampler, questions, 2, 1.0)
    trees = evaluate.designed_trees(exam)
    asked = asked_by(sampler)["designer"]
    designs = {tree.question.id: tree.designs for tree in trees}
    drawn = evaluate.Drawn(sampler, designs)
    once = evaluate.designed(evaluate.Exam(drawn, questions, 2, 1.0))
    assert asked_by(sampler)["designer"] == asked == 8
    assert any(len(a.calls) > 1 for a in once)
    assert once == evaluate.designed(exam)
    assert [len(d.executions) for tree in trees for d in tree.designs if d.outcome is None]


def test_votes_cost_at_least_what_the_designed_systems_cost(sampler: Sampler) -> None:
    """A dear designed system of two calls with long replies needs more than two votes."""
    questions = tasks.load(sampler.recipe.task, 1).test[:2]
    (one,) = evaluate.direct(evaluate.Exam(sampler, questions[:1], 1, 1.0))
    dear = [Attempt("q", None, 0.0, one.calls * 2) for _ in questions]
    dear[0].calls = one.calls * 10
    exam = evaluate.Exam(sampler, questions, 1, 1.0)
    before = asked_by(sampler)["executor"]
    votes, count = evaluate.self_consistency(exam, dear)
    assert asked_by(sampler)["executor"] - before == count * len(questions)  # each vote once
    mine, theirs = summarize(votes), summarize(dear)
    assert mine["calls"] == count >= theirs["calls"] == 6
    assert mine["completion_tokens"] >= theirs["completion_tokens"]


@pytest.mark.parametrize(
    ("mode", "trained_cold"), [("designer_only", "trained"), ("executor_only", "cold")]
)
def test_a_role_that_never_learned_is_not_measured_twice(
    sampler: Sampler, tmp_path: Path, mode: str, trained_cold: str
) -> None:
    """trained_cold has the trained designer and the cold executor."""
    folder = RunFolder(tmp_path)
    ends = {
        when: {"designed": summarize(attempts("", right))}
        for when, right in (("cold", 0), ("final", 1))
    }
    folder.write_json("eval.json", ends)
    recipe = small("task=stories", f"schedule.mode={mode}")
    other = Sampler(sampler.engine, sampler.sandbox, sampler.grader, recipe)
    sampler.engine.policy.save(tmp_path / "final")
    measuring = Measuring(other, tasks.load(recipe.task, 1).test[:1], folder, lambda _: None)
    measuring.swap(tmp_path / "missing", tmp_path / "final")
    swap = folder.read_json("eval.json")["swap"]
    cells = {"trained": swap["trained_trained"], "cold": swap["cold_cold"]}
    assert (cells["cold"]["accuracy"], cells["trained"]["accuracy"]) == (0.0, 1.0)
    assert swap["trained_cold"] == cells[trained_cold]
    assert swap["cold_trained"] == cells["cold" if trained_cold == "trained" else "trained"]


@pytest.mark.slow
def test_a_run_on_questions_of_kinds_measures_all_rivals(tmp_path: Path) -> None:
    sets = {
        **{"task": "stories", "cold_start.method": "none", "train.steps": "2"},
        **{"train.questions": "2", "rollout.designs": "2", "rollout.max_calls": "3"},
        **{"schedule.period": "1", "eval.questions": "6", "eval.samples": "2"},
        "eval.baselines": "[single, self_consistency, fixed, router]",
        "eval.fixed_samples": "1",
        "rollout.max_completion_tokens": "{designer: 64, executor: 24}",
    }
    flags = [word for pair in sets.items() for word in ("--set", "=".join(pair))]
    program = [sys.executable, "-m", "mxa_lite", "run", "arithmetic", "--output", str(tmp_path)]
    subprocess.run([*program, *flags], check=True)
    results = json.loads((tmp_path / "eval.json").read_text())
    cold, final = results["cold"], results["final"]
    assert not [mode for mode in cold if mode.startswith(("fixed", "router", "oracle"))]
    assert {"router", "fixed_best", "oracle_kind", "fixed_vote", "fixed_map"} <= set(final)
    assert "fixed_vote_4" not in final  # of 4 calls
    for measured in (cold, final):
        votes, designed = measured["self_consistency"], measured["designed"]
        assert votes["calls"] >= designed["calls"]
        assert votes["completion_tokens"] >= designed["completion_tokens"]
    kinds = set(final["designed"]["kinds"])
    assert kinds <= {"short", "long", "together"}
    assert set(final["oracle_kind"]["system"]) == kinds
    assert set(final["fixed_best"]["system"].split(" / ")) <= {m[6:] for m in final}
    summary = json.loads((tmp_path / "summary.json").read_text())
    rivals = {"single", "self_consistency", "fixed_best", "oracle_kind", "router"}
    assert set(summary["against"]) == rivals
    assert set(summary["patterns_by_kind"]["final"]) == kinds
    alone = results["swap"]["trained_cold"]["accuracy"] - cold["designed"]["accuracy"]
    assert summary["alone"]["trained_cold"]["difference"] == pytest.approx(alone)
    page = (tmp_path / "report.html").read_text()
    assert "Beside its rivals" in page and "Patterns by kind" in page
