"""What goes wrong in a run without stopping it: named from its metrics, with what to turn.

Every warning has a key, which is the same each time it is due, so that a reader can be told once.
No torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from mxa_lite.records import StepLine
from mxa_lite.tree import ROLES

STEPS = 3  # in a row that make a state, not chance
WINDOW = 10  # steps over which a trend is read: the later half against the earlier
MOVE = 0.05  # of a mean in 0..1 over half a window; less is noise
COPIED = 0.05  # share of paid answers that stand in the question
LIMITS = {  # outcome -> the key whose limit it ran into
    "timeout": "sandbox.seconds",
    "memory": "sandbox.memory_mb",
    "call_budget": "rollout.max_calls",
    "token_budget": "rollout.max_tokens",
}


def warnings_of(lines: Sequence[StepLine]) -> dict[str, str]:
    """What the last steps of `metrics.jsonl` give reason to say: key -> one sentence or two.

    lines: of `metrics.step_line`, in order.
    """
    last = lines[-STEPS:]
    warnings = _skipped(last)
    if len(last) == STEPS:
        warnings |= _state(last) | _hacked(lines[-WINDOW:]) | _copied(last) | _apart(last)
    return warnings


def first_due(lines: Sequence[StepLine]) -> dict[str, int]:
    """Every warning of a run, as it was first put -> the step after which it was due."""
    due: dict[str, tuple[str, int]] = {}
    for end, line in enumerate(lines, 1):
        for key, text in warnings_of(lines[max(end - WINDOW, 0) : end]).items():
            due.setdefault(key, (text, line["step"]))
    return dict(due.values())


def _state(last: Sequence[StepLine]) -> dict[str, str]:
    """The last steps are all alike in a way that stops learning; the most telling reason alone."""
    outcome, share = _most_frequent(last)
    frequent = f" (most frequent outcome: {outcome}, {share:.0%})" if outcome else ""
    steps = f"for {STEPS} steps{frequent}"
    if all(line["valid_scripts"] == 0 for line in last):
        return {
            "no valid script": f"absorbing state: no script was valid {steps}, so no call is made,"
            " all rewards are equal and nothing can be learned any more. Start again with a lower"
            " train.learning_rate.designer or a longer cold_start"
        }
    if all(line["calls"] == 0 for line in last):
        return {
            "no call": f"absorbing state: no agent was called {steps}, so the executor learns"
            " nothing and no design earns anything. Start again with a lower"
            " train.learning_rate.designer or a longer cold_start"
        }
    for verdict, word, knob in ((0, "wrong", "easier"), (1, "right", "harder")):
        if all(line["correct"] == verdict for line in last):
            turn = f"The task needs {knob} questions, or rollout.max_completion_tokens other limits"
            if outcome in LIMITS and not verdict:
                turn = f"Raise {LIMITS[outcome]}"
            text = f"every execution was {word} {steps}: such groups teach nothing. {turn}"
            return {f"all {word}": text}
    return {
        f"no signal {role}": f"no group of the {role} has had signal {steps}: all its rewards were"
        " equal. Raise rollout.designs, rollout.executions or train.questions"
        for role in ROLES
        if all(_without_signal(line, role) for line in last)
    }


def _most_frequent(last: Sequence[StepLine]) -> tuple[str, float]:
    """The most frequent outcome and its share of all; "" where none is counted."""
    counts = sum((Counter(line.get("outcomes") or {}) for line in last), Counter[str]())
    if not counts:
        return "", 0.0
    name, count = counts.most_common(1)[0]
    return name, count / counts.total()


def _without_signal(line: StepLine, role: str) -> bool:
    groups = line["groups"][role]
    return line["role"] in (role, "both") and groups["total"] > 0 and not groups["signal"]


def _hacked(lines: Sequence[StepLine]) -> dict[str, str]:
    if len(lines) < WINDOW or _rise([line["correct"] for line in lines]) > -MOVE:
        return {}
    return {
        f"hacked {role}": f"over {WINDOW} steps the {role}'s reward has risen and the share of"
        " right answers has fallen: something else than right answers is paid. Lower"
        " credit.format_weight and read what was paid in the report"
        for role in ROLES
        if _rise([line["reward"][role] or 0.0 for line in lines]) > MOVE
    }


def _rise(values: Sequence[float]) -> float:
    half = len(values) // 2
    return fmean(values[half:]) - fmean(values[:half])


def _skipped(last: Sequence[StepLine]) -> dict[str, str]:
    skipped = [line for line in last if line.get("step_skipped")]
    if not skipped:
        return {}
    return {
        "skipped": f"step {skipped[-1]['step']} moved no weight: its float16 gradients overflowed"
        f" and the next are scaled by {skipped[-1]['scale']:g}; now and then this is normal, and if"
        " it goes on, set model.dtype=float32"
    }


def _apart(last: Sequence[StepLine]) -> dict[str, str]:
    gaps = [max((line.get("logp_gap") or {"": 0.0}).values()) for line in last]
    if last[-1].get("engine") != "vllm" or min(gaps) <= 0.05:  # a quarter of train.clip
        return {}
    return {
        "logp_gap": f"for {STEPS} steps vLLM's log-probs were {max(gaps):.2f} a token off those of"
        " the update (logp_gap): it learns from others than were sampled. Set model.dtype=float32"
        " or engine=waves; part of it comes of train.updates above 1"
    }


def _copied(last: Sequence[StepLine]) -> dict[str, str]:
    shares = [line.get("paid_in_question") or 0.0 for line in last]
    if fmean(shares) <= COPIED:
        return {}
    return {
        "copied": f"over {STEPS} steps more than {COPIED:.0%} of the paid answers stand in the"
        " question word for word: they may be copied, not worked out. Read them in the report and"
        " check the task's gold answers"
    }
