"""One line of `metrics.jsonl` from a step's trees. No torch.

Everything a clock or the machine decides stands under `seconds` or `memory`; the rest repeats.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from mxa_lite.credit.advantage import GroupStats
from mxa_lite.records import StepLine, Sums, UpdateNumbers
from mxa_lite.tree import Call, Execution, Outcome, Tree


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return fmean(numbers) if numbers else None


def outcomes(trees: Sequence[Tree], executions: int) -> dict[str, int]:
    """How often each outcome came, per execution; a refused script counts as N of them."""
    counts: Counter[str] = Counter({str(outcome): 0 for outcome in Outcome})
    for tree in trees:
        for design in tree.designs:
            if design.outcome is not None:
                counts[str(design.outcome)] += executions
            for execution in design.executions:
                counts[str(execution.outcome)] += 1
    return dict(counts)


def _calls(trees: Sequence[Tree]) -> dict[str, list[Call]]:
    designs = [d for tree in trees for d in tree.designs]
    return {
        "designer": [d.call for d in designs if d.call.completion_ids],
        "executor": [c for d in designs for e in d.executions for c in e.calls],
    }


def spread(trees: Sequence[Tree]) -> dict[str, float | None]:
    """Health of the signal: mean deviation of rewards within a design (intra) and of the designs'
    mean rewards within a question (inter)."""
    intra = [
        pstdev([e.reward for e in d.executions])
        for tree in trees
        for d in tree.designs
        if len(d.executions) > 1
    ]
    inter = [pstdev([d.reward for d in tree.designs]) for tree in trees if len(tree.designs) > 1]
    return {"intra": _mean(intra), "inter": _mean(inter)}


def paid_in_question(trees: Sequence[Tree]) -> float | None:
    """The share of right answers to "math" questions that stand in the question, word for word.

    Such an answer may be copied and not worked out. The gold answer's own text is none: where it
    stands in the question, to write it down is what was asked. None where nothing was right.
    """
    paid = [
        (tree.question, e.answer.strip())
        for tree in trees
        for design in tree.designs
        for e in design.executions
        if e.correct and e.answer and tree.question.kind == "math"
    ]
    return _mean(
        float(answer != question.gold and _stands(answer, question.text))
        for question, answer in paid
    )


def _stands(answer: str, text: str) -> bool:
    """Not as a part of a longer word or number."""
    return re.search(rf"(?<![\w.]){re.escape(answer)}(?!\w|\.\w)", text) is not None


def _per_token(sums: Sums) -> dict[str, float]:
    return {role: value / count for role, (value, count) in sums.items() if count}


def step_line(
    step: int,
    roles: Sequence[str],
    trees: Sequence[Tree],
    groups: GroupStats,
    executions: int,
    numbers: UpdateNumbers,
) -> StepLine:
    designs = [d for tree in trees for d in tree.designs]
    ran: list[Execution] = [e for d in designs for e in d.executions]
    calls = _calls(trees)
    counts = outcomes(trees, executions)
    total = sum(counts.values())
    padded = numbers["padded_tokens"]
    return {
        "step": step,
        "role": roles[0] if len(roles) == 1 else "both",
        "reward": {
            "designer": _mean(d.reward for d in designs),
            "executor": _mean(e.reward for e in ran),
        },
        "correct": sum(e.correct for e in ran) / total if total else 0.0,
        "paid_in_question": paid_in_question(trees),
        "format": _mean(e.format for e in ran),
        "valid_scripts": _mean(float(d.outcome is None) for d in designs),
        "outcomes": counts,
        "patterns": dict(sorted(Counter(d.pattern for d in designs).items())),
        "groups": {
            "designer": {
                "total": groups.designer_groups,
                "signal": groups.designer_groups - groups.designer_equal,
            },
            "executor": {
                "total": groups.executor_groups,
                "signal": groups.executor_groups - groups.executor_equal,
            },
        },
        "spread": spread(trees),
        "calls": len(calls["executor"]),
        "greedy_calls": groups.greedy_calls,
        "completion_length": {
            role: _mean(len(c.completion_ids) for c in of_role) for role, of_role in calls.items()
        },
        "truncated": {
            role: _mean(float(c.truncated) for c in of_role) for role, of_role in calls.items()
        },
        "prompt_cut": sum(c.prompt_cut for of_role in calls.values() for c in of_role),
        "tokens": {
            "prompt": sum(len(c.prompt_ids) for of_role in calls.values() for c in of_role),
            "completion": sum(len(c.completion_ids) for of_role in calls.values() for c in of_role),
        },
        "padding_waste": 1 - numbers["trained_tokens"] / padded if padded else 0.0,
        "clipped": _per_token(numbers["clipped"]),
        "logp_gap": _per_token(numbers["logp_gap"]),
        "entropy": _per_token(numbers["entropy"]),
        "micro_batches": numbers["micro_batches"],
        "trajectories": numbers["trajectories"],
        "trained_rows": numbers["trained_rows"],
        "trained_tokens": numbers["trained_tokens"],
        "lr": numbers["lr"],
        "loss": numbers["loss"],
        "grad_norm": numbers["grad_norm"],
        "step_skipped": numbers["step_skipped"],
        "scale": numbers["scale"],
    }


def flat_numbers(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a line by names with slashes, by which loggers group them."""
    numbers: dict[str, float] = {}
    for key, value in line.items():
        if isinstance(value, dict):
            numbers |= flat_numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            numbers[f"{prefix}{key}"] = value
    return numbers
