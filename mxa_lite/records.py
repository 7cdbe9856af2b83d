"""What the JSON files of a run folder hold. Whoever writes one or reads one says so by these types;
of an older run some keys may be missing.

metrics.jsonl: a StepLine a step. eval.json: Results. summary.json: Summary. predictions/*/*.jsonl:
a Prediction an attempt. rollouts/*.jsonl: a tree a question (`tree.py`).
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

When = Literal["cold", "final"]  # before the training, after it
ByRole = dict[str, float | None]
Sums = dict[str, tuple[float, float]]  # role -> (sum over its tokens, tokens)


class UpdateCounts(TypedDict):
    """Of one update, or of all those of a step. Loss and gradient norm are None where they are not
    finite. step_skipped: float16's gradients overflowed. scale: of the next ones; None in other
    dtypes."""

    micro_batches: int
    trajectories: int
    trained_rows: int
    trained_tokens: int
    step_skipped: int
    lr: float
    loss: float | None
    grad_norm: float | None
    scale: float | None


class UpdateNumbers(UpdateCounts):
    """What a trainer counts of one update, and what is made of it in a StepLine."""

    padded_tokens: int
    out_of_memory: int
    clipped: Sums
    logp_gap: Sums
    entropy: Sums


class StepLine(UpdateCounts):
    """The metrics of a step."""

    step: int
    role: str
    stage: NotRequired[int]
    engine: NotRequired[str]
    reward: ByRole
    correct: float
    paid_in_question: float | None
    format: float | None
    valid_scripts: float | None
    outcomes: dict[str, int]
    patterns: dict[str, int]
    groups: dict[str, dict[str, int]]
    spread: dict[str, float | None]
    calls: int
    greedy_calls: int
    completion_length: ByRole
    truncated: ByRole
    prompt_cut: int
    tokens: dict[str, int]
    padding_waste: float
    clipped: dict[str, float]
    logp_gap: dict[str, float]
    entropy: dict[str, float]
    seconds: NotRequired[dict[str, float]]
    memory: NotRequired[dict[str, float]]


class KindNumbers(TypedDict):
    """A mode on the questions of one kind. patterns: share of the attempts."""

    accuracy: float
    low: float
    high: float
    patterns: dict[str, float]


class ModeNumbers(TypedDict):
    """Accuracy (avg@k) with its 95 % interval, pass@k, cost per attempt in calls and tokens.

    kinds: where questions have kinds. votes: of self-consistency. system: that a mode chose, or by
    kind.
    """

    accuracy: float
    low: float
    high: float
    pass_at_k: float
    k: int
    calls: float
    tokens: float
    prompt_tokens: float
    completion_tokens: float
    questions: int
    attempts: int
    kinds: NotRequired[dict[str, KindNumbers]]
    votes: NotRequired[int]
    system: NotRequired[str | dict[str, str]]


Modes = dict[str, ModeNumbers]


class Results(TypedDict, total=False):
    """during: by step. swap: by cell, None where the table cannot be. seconds: of one attempt, by
    when and mode."""

    cold: Modes
    during: dict[str, Modes]
    final: Modes
    swap: Modes | None
    seconds: dict[str, dict[str, float]]


class Prediction(TypedDict):
    """tokens: that all its calls wrote. kind: of the question, "" where it has none."""

    question: str
    answer: str | None
    correct: float
    calls: int
    tokens: int
    pattern: str
    outcome: str
    kind: str


class Difference(TypedDict):
    """A mean over questions with its paired 95 % interval."""

    difference: float
    low: float
    high: float
    questions: int


class Flips(TypedDict):
    """Attempts before and after training, and whether the design's pattern stayed.

    kept: its share of all `pairs`, the base rate; newly_right_kept: its share of the pairs that
    were wrong and are right. The paper reads these as the executor's gain and the others as the
    designer's (appendix F), which says something only beside the base rate. right_where_kept,
    right_where_changed: accuracy now of what was wrong. None where there is no such pair.
    """

    pairs: int
    kept: float | None
    newly_right: int
    newly_right_kept: float | None
    wrong_cold: int
    right_where_kept: float | None
    right_where_changed: float | None


class Beside(TypedDict, total=False):
    """What stands beside the headline.

    against, greedy_against: the trained main mode minus each rival, paired over questions.
    alone: what each role's learning alone brings, swap cell minus cold_cold, paired too.
    patterns_by_kind: when -> kind -> pattern -> share; total_variation: when -> "kind, kind".
    """

    against: dict[str, Difference]
    greedy_against: dict[str, Difference]
    alone: dict[str, Difference]
    flips: Flips
    patterns_by_kind: dict[str, dict[str, dict[str, float]]]
    total_variation: dict[str, dict[str, float]]


class Summary(Beside):
    """cold, final, gain, interval: of the mode's accuracy. swap: accuracies. seconds: of steps."""

    mode: str
    steps: int
    cold: float | None
    final: float | None
    gain: float | None
    interval: list[float] | None
    swap: dict[str, float] | None
    seconds: float
    finished: str
