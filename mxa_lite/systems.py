"""Fixed, hand-written systems, one per pattern, and the evaluation of a trained run beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from mxa_lite import evaluate, tasks
from mxa_lite.ask import opened
from mxa_lite.evaluate import Attempt
from mxa_lite.predictions import question_means
from mxa_lite.rollout import Sampler
from mxa_lite.stats import paired
from mxa_lite.tree import Call, Design, Question, Tree

_AGENT = 'a = Agent("solver", "Work step by step.")\n'
_CRITIC = 'c = Agent("critic", "Look for a mistake.")\n'
_JUDGE = 'j = Agent("judge", "Check each answer.")\n'
SYSTEMS = {
    "single": _AGENT + "answer(a(question))",
    "vote": _AGENT + 'answer(Ensemble("vote", [a] * 3)(question))',
    "judge": _AGENT + _JUDGE + 'answer(Ensemble("panel", [a, a], "consensus", j)(question))',
    "reflect": _AGENT + _CRITIC + 'answer(Reflection("r", a, c, num_iterations=1)(question))',
    "debate": _AGENT + 'answer(Debate("debate", [a, a])(question))',
    "chain": _AGENT + 'answer(Workflow("chain").add_node(a).add_node(a).run(question))',
}


def fixed(
    sampler: Sampler, questions: Sequence[Question], samples: int, temperature: float
) -> dict[str, list[Attempt]]:
    """Mode `fixed_<pattern>` -> `samples` runs of that system per question."""
    found = {}
    for pattern, script in SYSTEMS.items():
        tries = [q for q in questions for _ in range(samples)]
        designs = [Design(Call("designer", "", 0, []), script, pattern) for _ in tries]
        pairs = list(zip(tries, designs, strict=True))
        sampler.run_scripts(pairs, temperature)
        trees = [Tree(question, [design]) for question, design in pairs]
        attempts = evaluate.attempts_of(trees, sampler.recipe.credit.answer_from)
        found[f"fixed_{pattern}"] = [replace(a, calls=a.calls[1:]) for a in attempts]  # no designer
    return found


def _measured(run: Path, sets: tuple[str, ...], folder: Path, own: bool) -> dict[str, Any]:
    """One run's modes; own: the fixed systems too."""
    with opened(run, sets) as sampler:
        recipe = sampler.recipe
        data = tasks.load(recipe.task, recipe.seed, training=False)
        questions = data.test[: recipe.eval.questions]
        results: dict[str, Any] = evaluate.measure(sampler, questions, folder)
        if own and recipe.method == "metaagent" and "fixed_single" not in results:
            more = fixed(sampler, questions, recipe.eval.samples, recipe.rollout.temperature)
            evaluate.save_predictions(more, folder)
            results |= {mode: evaluate.summarize(attempts) for mode, attempts in more.items()}
        return results


def evaluate_run(run: Path, beside: Path | None, sets: tuple[str, ...]) -> dict[str, Any]:
    """What `mxa-lite eval --json` prints: modes of `final`, of `with`, and paired differences.

    The modes of the second run are named `with_<mode>` among the differences, `b - a` over the
    questions both answered. Predictions are kept in `predictions/eval/` of the run.
    """
    folder = run / "predictions" / "eval"
    result: dict[str, Any] = {"final": _measured(run, sets, folder, True)}
    means = {mode: question_means(folder / f"{mode}.jsonl") for mode in result["final"]}
    if beside is not None:
        other = folder / "with"
        result["with"] = _measured(beside, sets, other, False)
        means |= {f"with_{m}": question_means(other / f"{m}.jsonl") for m in result["with"]}
    result["differences"] = []
    for (a, first), (b, second) in combinations(means.items(), 2):
        shared = [q for q in first if q in second]
        mean, low, high = paired([first[q] for q in shared], [second[q] for q in shared])
        entry = {"a": a, "b": b, "difference": mean, "low": low, "high": high}
        result["differences"].append({**entry, "questions": len(shared)})
    return result
