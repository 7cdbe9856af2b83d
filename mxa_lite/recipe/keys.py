"""Typed recipes: every key, its type and its default, and the checks that need no model.

`recipe.file` reads the YAML. `recipes/base.yaml` explains each key; a test holds the two together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    computed_field,
    model_validator,
)

from mxa_lite.recipe import own
from mxa_lite.tree import ROLES, Role

LrScheduler = Literal["constant_with_warmup", "constant", "linear", "cosine"]
LossType = Literal["dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo"]
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
COLUMNS = ("question", "answer", "tests")
GYM = "reasoning_gym:"
MADE_UP = ("arithmetic", "stories", "sums")
GENERATED = (*MADE_UP, *(f"{name}:tune" for name in MADE_UP))  # the latter have other tests
# A test holds these to `tasks.sources`.
TASKS = (
    "gsm8k", "math500", "aime24", "aime25", "olympiadbench", "polaris",
    "mbpp", "humaneval", "apps", "code_contests", "livecodebench",
)  # fmt: skip
MOST = 2**31 - 1  # of any number: beyond lie overflows in libraries, and no recipe


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


Count = Annotated[int, BeforeValidator(_number), Field(ge=0, le=MOST)]
Positive = Annotated[int, BeforeValidator(_number), Field(gt=0, le=MOST)]
Real = Annotated[float, BeforeValidator(_number), Field(ge=0, le=MOST)]
Above = Annotated[float, BeforeValidator(_number), Field(gt=0, le=MOST)]
Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]


def _named(value: own.Own) -> own.Own:
    if not value.name:
        raise ValueError("must be FILE.py:NAME, with the name of a function")
    return value


def _unnamed(value: own.Own) -> own.Own:
    if value.name:
        raise ValueError("must be FILE.py, without the name of a function")
    return value


def _whole(value: Any) -> Any:
    """An `Own` that `model_dump` took apart, as `override` hands it back."""
    is_own = isinstance(value, dict) and value.keys() == own.Own.__dataclass_fields__.keys()
    return own.Own(**value) if is_own else value


_AsText = PlainSerializer(str, when_used="json")
_Whole = Annotated[InstanceOf[own.Own], BeforeValidator(_whole), _AsText]
OwnFunction = Annotated[_Whole, AfterValidator(_named)]
OwnFile = Annotated[_Whole, AfterValidator(_unnamed)]


class Block(BaseModel):
    """A block of keys; unknown ones are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )


class Model(Block):
    """The base model: `embedded`, a local folder, or a Hub id "org/name"."""

    name: str = "embedded"
    loader: Literal["auto", "unsloth", "plain"] = "auto"
    quantization: Literal["4bit", "none"] = "4bit"
    adapters: Literal["per_role", "shared"] = "per_role"
    max_length: Positive = 4096  # prompt and completion together, tokens
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    chat_template: dict[str, bool | int | float | str] = {}  # arguments of apply_chat_template


class Lora(Block):
    """The adapters; `targets` is "all-linear" or a list of module names."""

    r: Positive = 16
    alpha: Positive = 32
    dropout: Share = 0.0
    targets: Annotated[str | list[str], Field(min_length=1)] = "all-linear"


class TaskSpec(Block):
    """Where questions come from: a known task, local files, an own function, or a weighted mix.

    score: an own function that grades the answers, in place of the kit's graders. columns: our name
    (of COLUMNS) -> the file's column. held_out: share of a local train file that is kept for
    evaluation when there is no `test`.
    """

    name: str | OwnFunction | None = None
    score: OwnFunction | None = None
    train: str | None = None
    test: str | None = None
    limit: Positive | None = None
    columns: dict[str, str] = {}
    kind: Literal["math", "code"] | None = None
    held_out: Annotated[Share, Field(gt=0, lt=1)] = 0.1
    weight: Real = 1.0  # within a mix
    mix: list[TaskSpec] = []

    @model_validator(mode="after")
    def _is_a_source(self) -> TaskSpec:
        if not (self.name or self.train or self.mix):
            raise ValueError("needs a name, a train file or a mix")
        if any(source.mix for source in self.mix):
            raise ValueError("holds a mix within a mix")
        if unknown := sorted({*self.columns} - {*COLUMNS}):
            raise ValueError(f"columns names {unknown[0]!r}; allowed: {', '.join(COLUMNS)}")
        return self


class Lengths(Block):
    """New tokens per completion of each role; one number sets both."""

    designer: Positive = 1024
    executor: Positive = 1024


class Rates(Block):
    """Peak learning rate of each role's adapter; one number sets both.

    An adapter that both share takes the executor's.
    """

    designer: Real = 5e-6
    executor: Real = 5e-6


class Rollout(Block):
    """The shape of the tree: M designs a question, N executions a design.

    weights: what completions are generated with: the base with its adapter, or copies of the base
    into which the adapters are merged; auto: copies where they are exact and small.
    """

    designs: Positive = 4
    executions: Positive = 4
    temperature: Above = 1.0
    max_completion_tokens: Lengths = Lengths()
    max_calls: Positive = 32
    max_script_chars: Positive = 20_000
    max_tokens: Positive = 65_536  # completion tokens of one execution
    nodes: OwnFile | None = None  # further node classes of the script language
    weights: Literal["auto", "merged", "adapter"] = "auto"


class Credit(Block):
    """Who is paid for what; the defaults are the paper's.

    reward, advantage: `paper`, or an own function. format_when: whether the form of a wrong answer
    is paid. pass_ratio: code tasks pay the share of passed tests, in evaluations too, not all or
    nothing.
    """

    reward: Literal["paper"] | OwnFunction = "paper"
    advantage: Literal["paper"] | OwnFunction = "paper"
    executor_group: Literal["question", "design"] = "question"
    executor_unit: Literal["trajectory", "execution"] = "trajectory"
    format_weight: Real = 0.4
    format_when: Literal["always", "correct"] = "always"
    answer_from: Literal["reply", "any"] = "reply"
    pass_ratio: bool = False


class Schedule(Block):
    """Which role learns at which step."""

    mode: Literal["stagewise", "coupled", "designer_only", "executor_only"] | OwnFunction = (
        "stagewise"
    )
    first: Role = "executor"
    period: Positive = 30


class Train(Block):
    """The optimizer steps; names follow Transformers' and TRL's arguments."""

    steps: Count = 120
    questions: Positive = 8
    learning_rate: Rates = Rates()
    warmup_steps: Count = 10
    lr_scheduler: LrScheduler = "constant_with_warmup"  # does not change when `steps` grows
    loss_type: LossType = "dapo"
    clip: Real = 0.2
    updates: Positive = 1  # optimizer updates over the trajectories of one step
    weight_decay: Real = 0.01
    max_grad_norm: Real = 1.0
    tokens_per_micro_batch: Positive = 8192
    prefix_sharing: bool = True
    optim: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit", "sgd"] = "adamw_torch"
    save_every: Positive = 10
    keep: Positive | None = None  # checkpoints at most, the last ones; None = all
    show_every: Count = 10  # steps between questions that are shown with two designs; 0 = never
    report_to: Annotated[
        list[Literal["tensorboard", "wandb", "trackio"]],
        BeforeValidator(lambda v: [v] if isinstance(v, str) else v),
    ] = []


class ColdStart(Block):
    """The supervised warm start before RL."""

    method: Literal["none", "data", "bootstrap"] = "none"
    data: str | None = None
    steps: Positive = 100
    learning_rate: Real = 2e-4
    batch_size: Positive = 8
    rounds: Positive = 2
    target_valid: Share = 0.8
    questions: Positive = 64
    seed_designs: Count = 12


class Eval(Block):
    """What is measured on the held-out questions, before and after; every 0 = only then.

    fixed_samples: runs of each hand-written system a question, after training only. systems: own
    ones, measured in the same way; a recipe names their folder.
    """

    questions: Count = 200
    samples: Positive = 4
    every: Count = 0
    greedy: bool = True
    baselines: list[Literal["single", "self_consistency", "fixed", "router"]] = [
        "single",
        "self_consistency",
    ]
    fixed_samples: Positive = 2
    systems: list[OwnFile] = []
    swap: bool = True


class SandboxSpec(Block):
    """The least isolation a run accepts, and what one script may use."""

    require: Literal["rlimits", "landlock", "seccomp", "namespaces"] = "rlimits"
    seconds: Annotated[Above, Field(le=86_400)] = 10  # a day: waits are counted in milliseconds
    memory_mb: Positive = 512
    disk_mb: Positive = 64


class Recipe(Block):
    """One run. `task` and `model` must be given; everything else has a default.

    generation_tokens: most tokens (prompt and completion, padding included) of one generation
    batch, which bounds its KV cache. prompts: the kit's, or a file of functions that replace some.
    gpu: a preset of memory knobs, already applied here.
    versions: what wrote a stored recipe; never compared.
    """

    seed: Count = 1
    method: Literal["metaagent", "single_agent"] = "metaagent"
    model: Model
    lora: Lora = Lora()
    task: Annotated[
        TaskSpec, BeforeValidator(lambda v: {"name": v} if isinstance(v, str | own.Own) else v)
    ]
    rollout: Rollout = Rollout()
    credit: Credit = Credit()
    schedule: Schedule = Schedule()
    train: Train = Train()
    prompts: Literal["auto", "short", "examples"] | OwnFile = "auto"
    cold_start: ColdStart = ColdStart()
    eval: Eval = Eval()
    sandbox: SandboxSpec = SandboxSpec()
    engine: Literal["waves", "vllm"] = "waves"
    gpu: Literal["none", "8gb", "12gb", "16gb", "24gb"] = "none"
    generation_tokens: Positive = 65_536
    threads: Annotated[Positive, Field(le=1024)] | None = None
    versions: dict[str, str] = {}

    @property
    def mode(self) -> str:
        """The mode of eval.json that the method is judged by."""
        return "single" if self.method == "single_agent" else "designed"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def own(self) -> dict[str, str]:
        """The hash of each own file by its name; stored with a run, compared when it resumes."""
        return {name: file.hash for name, file in own.files(own_choices(self)).items()}

    @model_validator(mode="after")
    def _prompts_have_room(self) -> Recipe:
        for role in ROLES:
            length = getattr(self.rollout.max_completion_tokens, role)
            if length >= self.model.max_length:
                raise ValueError(
                    f"rollout.max_completion_tokens.{role} ({length}) leaves no room for a prompt"
                    f" in model.max_length ({self.model.max_length})"
                )
        return self


def own_choices(recipe: Recipe) -> dict[str, own.Own]:
    """Every key whose value is a user's own, in the order of the recipe."""
    tasks = {"task": recipe.task} | {f"task.mix[{i}]": t for i, t in enumerate(recipe.task.mix)}
    values = {f"{key}.name": task.name for key, task in tasks.items()}
    values |= {f"{key}.score": task.score for key, task in tasks.items()}
    values |= {
        "rollout.nodes": recipe.rollout.nodes,
        "credit.reward": recipe.credit.reward,
        "credit.advantage": recipe.credit.advantage,
        "schedule.mode": recipe.schedule.mode,
        "prompts": recipe.prompts,
        **{f"{own.SCRIPTS}[{i}]": script for i, script in enumerate(recipe.eval.systems)},
    }
    return {key: value for key, value in values.items() if isinstance(value, own.Own)}


# Knobs of memory and speed alone: tokens of one update batch, tokens of one generation batch.
GPU_PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "8gb": {"train": {"tokens_per_micro_batch": 2048}, "generation_tokens": 16_384},
    "12gb": {"train": {"tokens_per_micro_batch": 4096}, "generation_tokens": 32_768},
    "16gb": {"train": {"tokens_per_micro_batch": 8192}, "generation_tokens": 32_768},
    "24gb": {"train": {"tokens_per_micro_batch": 16_384}, "generation_tokens": 65_536},
}


def flat(recipe: Recipe) -> dict[str, Any]:
    """Dotted key -> value, in the order of the recipe; `versions` left out."""

    def walk(value: Any, key: str) -> dict[str, Any]:
        if not isinstance(value, dict) or not value:
            return {key: value}
        return {k: v for name in value for k, v in walk(value[name], f"{key}.{name}").items()}

    data = recipe.model_dump(mode="json", exclude={"versions"})
    return {key[1:]: value for key, value in walk(data, "").items()}


# Keys that change no sample: memory, threads, logging, saving, measuring on the way.
KNOBS = (
    *("gpu", "generation_tokens", "threads", "train.tokens_per_micro_batch"),
    *("train.save_every", "train.keep", "train.show_every", "train.report_to", "eval.every"),
)


def changes(stored: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (stored value, new value), where they differ."""
    old, fresh = flat(stored), flat(new)
    values = {key: (old.get(key), fresh.get(key)) for key in old | fresh}
    return {key: (was, now) for key, (was, now) in values.items() if was != now}


def diff(stored: Recipe, new: Recipe) -> str | None:
    """The first key that keeps `new` from resuming. KNOBS may change, `train.steps` may grow."""
    for key, (was, now) in changes(stored, new).items():
        if key not in KNOBS and not (key == "train.steps" and now >= was):
            return key
    return None
