"""The checks of `mxa-lite selftest`, each a function of its name; imported after Unsloth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from mxa_lite.learn.batching import Trajectory, trajectories
from mxa_lite.learn.step import Step
from mxa_lite.learn.trainer import RoleTrainer
from mxa_lite.machine import at_size
from mxa_lite.machine.anchors import FixedDesigns
from mxa_lite.machine.doctor import device, xformers
from mxa_lite.machine.plain_side import ADAPTERS, MERGED, cold_start, requests
from mxa_lite.machine.plan import GIB, OVERHEAD, estimate, plan, total
from mxa_lite.policy.generate import Engine
from mxa_lite.policy.load import choose_dtype
from mxa_lite.policy.policy import Policy
from mxa_lite.policy.request import Completion
from mxa_lite.recipe.file import dump, override
from mxa_lite.recipe.keys import Recipe
from mxa_lite.recipe.shapes import shape_of
from mxa_lite.records import UpdateNumbers
from mxa_lite.rollout.opened import load_policy, sampler_for
from mxa_lite.sandbox.box import Limits, Sandbox
from mxa_lite.sandbox.confine import LEVELS
from mxa_lite.stdio import stdout_for_json
from mxa_lite.tree import ROLES, Tree

Found = tuple[bool, str]  # whether it passed, a line about it
Weights = dict[str, torch.Tensor]
SGD = {  # so that what a weight moves by is its gradient
    **{"train.optim": "sgd", "train.learning_rate": 1.0, "train.weight_decay": 0.0},
    "train.max_grad_norm": 1e6,
}


class Skip(Exception):
    """Why a check does not apply here."""


@dataclass
class Ground:
    """What checks share, made when the first asks for it."""

    recipe: Recipe
    folder: Path
    other_side: Callable[..., subprocess.Popen[str]]  # starts `plain_side.py`: names, stderr

    @cached_property
    def policy(self) -> Policy:
        return drawn(load_policy(self.recipe), 0.08)

    @cached_property
    def trees(self) -> list[Tree]:
        """Hand-written systems, rolled out; every call has an advantage of 1 or -1."""
        with sampler_for(self.recipe, self.policy) as sampler:
            engine, sandbox, grader = sampler.engine, sampler.sandbox, sampler.grader
            self.engine = engine
            return FixedDesigns(engine, sandbox, grader, self.recipe).some("selftest")

    @cached_property
    def plain(self) -> dict[str, Any]:
        """What plain PEFT says about the trees' calls and the greedy completions."""
        calls = [{"role": t.role, **vars(t.call)} for t in self.calls]
        pairs = zip(ROLES * 16, self.said(0.0), strict=True)
        greedy = [{"role": role, **vars(completion)} for role, completion in pairs]
        torch.save({"calls": calls, "greedy": greedy}, self.folder / "asked.pt")
        self.policy.save(self.folder / ADAPTERS)
        (self.folder / "recipe.yaml").write_text(dump(self.recipe), encoding="utf-8")
        command = ["export", str(self.folder), "--merged", str(self.folder / MERGED)]
        self.exported = subprocess.run(
            [sys.executable, "-m", "mxa_lite", *command], capture_output=True, text=True
        )
        return self.answer("plain PEFT")

    @cached_property
    def sized(self) -> tuple[Recipe, Policy]:
        """A recipe of a size worth a card, and a policy with random weights."""
        if not torch.cuda.is_available():
            raise Skip("no GPU here")
        size, model = torch.cuda.get_device_properties(0).total_memory, self.recipe.model
        at_size.write_model(shape_of(at_size.recipe().model.name), self.folder / "sized")
        sets = [f"model.{key}={getattr(model, key)}" for key in ("loader", "dtype")]
        recipe = at_size.recipe(size / GIB, *sets, f"model.name={self.folder / 'sized'}")
        if (planned := total(estimate(shape_of(recipe.model.name), recipe))) > size:
            raise Skip(f"{at_size.RECIPE} takes {planned / GIB:.1f} GB")
        return recipe, load_policy(recipe)

    def answer(self, name: str) -> dict[str, Any]:
        """What the process without Unsloth answers; it has the policy's adapters."""
        self.policy.save(self.folder / ADAPTERS)
        with self.other_side([name], subprocess.PIPE) as process:
            _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{name}: {errors.strip().splitlines()[-1]}")
        return dict(torch.load(self.folder / f"{name}.pt"))

    @property
    def calls(self) -> list[Trajectory]:
        """Trajectories of the trees, the designer's first."""
        return [t for role in ROLES for t in trajectories(self.trees, (role,))]

    def said(self, temperature: float) -> list[Completion]:
        """Completions of at most 64 tokens for 16 questions, the two roles in turn."""
        self.trees  # noqa: B018 - makes the engine
        return self.engine.generate(requests(self.recipe, temperature))

    def train(
        self,
        name: str,
        roles: Sequence[tuple[str, ...]],
        sets: dict[str, Any],
        resume: Path | None = None,
    ) -> tuple[list[Weights], list[UpdateNumbers]]:
        """A step of the trees for each entry of `roles`: all adapter weights before each and at the
        end, and what was measured."""
        recipe = override(self.recipe, {"train.steps": len(roles), **sets})
        policy, steps, weights = drawn(load_policy(recipe), 0.08), list[Step](), list[Weights]()

        def take(number: int) -> Step:
            weights.append(_weights(policy))
            steps.append(Step.of(number, self.trees, roles[number - 1]))
            return steps[-1]

        trainer = RoleTrainer(recipe, policy, self.folder / name, take)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        return [*weights, _weights(policy)], [step.numbers[0] for step in steps]


def drawn(policy: Policy, deviation: float) -> Policy:
    """Adapters that are not zero, so that every matrix has a gradient; the same ones each time."""
    torch.manual_seed(11)
    with torch.no_grad():
        for name, parameter in sorted(policy.model.named_parameters()):
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape) * deviation)
    return policy


def _weights(policy: Policy) -> Weights:
    parameters = policy.model.named_parameters()
    return {name: p.detach().cpu().clone() for name, p in parameters if "lora_" in name}


def _moved(before: Weights, after: Weights, role: str) -> bool:
    return any(f".{role}." in n and not torch.equal(before[n], after[n]) for n in before)


def check_device(ground: Ground) -> Found:
    if not torch.cuda.is_available():
        raise Skip("no GPU here")
    dtype, why = choose_dtype(ground.recipe.model)
    a = torch.randn(256, 256, dtype=dtype)
    right = a.double() @ a.double()
    off = float(((a.cuda() @ a.cuda()).cpu() - right).norm() / right.norm())
    text = f"{device()}, {dtype} ({why}), off {off:.2g}; xformers {xformers() or 'fits'}"
    return off < 0.01, text


def check_sandbox(_: Ground) -> Found:
    with Sandbox(Limits(), LEVELS[0]) as sandbox:
        return LEVELS.index(sandbox.level) > 0, sandbox.level


def check_adapters(ground: Ground) -> Found:
    model, loader = ground.policy.model, ground.policy.loader
    weights, layers = dict(model.named_parameters()), model.get_base_model().model.layers
    lora = [p for name, p in weights.items() if "lora_" in name]
    four_bit = sum(type(weight).__name__ == "Params4bit" for weight in weights.values())
    devices, fused = {str(p.device) for p in weights.values()}, sum(map(_is_fused, layers))
    good = len(model.peft_config) == 2 and len(lora) == 4 * four_bit == 28 * len(layers)
    good = good and len(devices) == 1 and {p.dtype for p in lora} == {torch.float32}
    good = good and (loader == "plain" or devices == {"cpu"} or fused == len(layers))
    text = f"loader {loader}: {len(lora)} matrices, {four_bit} 4-bit layers, {fused} fused blocks"
    return good, f"{text}, on {', '.join(devices)}"


def _is_fused(layer: Any) -> bool:
    """Whether Unsloth put its kernels for adapters into all three places of a block."""
    forwards = [getattr(layer.self_attn, name, None) for name in ("apply_qkv", "apply_o")]
    forwards.append(getattr(layer.mlp.forward, "__func__", None))  # of a partial, perhaps
    names = [getattr(getattr(forward, "func", forward), "__name__", "") for forward in forwards]
    return all(name.startswith("apply_lora") for name in names)


def check_log_probs(ground: Ground) -> Found:
    sampled = torch.cat([torch.tensor(t.call.logps) for t in ground.calls])
    plain, other_role = torch.cat(ground.plain["logps"]), torch.cat(ground.plain["other"])
    gaps, apart = (sampled - plain).abs(), float((plain - other_role).abs().mean())
    mean, peak = float(gaps.mean()), float(gaps.max())
    text = f"mean gap {mean:.2g}, at most {peak:.2g}, of {len(gaps)} tokens; other role {apart:.2g}"
    return mean < 0.02 and peak < 0.3 and apart > 10 * mean, text


def check_greedy(ground: Ground) -> Found:
    ties = ground.plain["ties"]
    same = sum(tie <= 0 for tie in ties)
    text = f"{same} of {len(ties)} rows as plain PEFT's, all tokens within {max(ties):.2g}"
    return max(ties) < 0.1, text


def check_gradients(ground: Ground) -> Found:
    expected = ground.plain["gradients"]
    (before, after), _ = ground.train("gradients", [ROLES], SGD)
    off = max(
        float((before[name] - after[name] - gradient).norm() / gradient.norm())
        for name, gradient in expected.items()
    )
    text = f"at most {off:.2%} off in {len(expected)} of {len(before)} matrices"
    return off < 0.06 and len(expected) == len(before), text


def check_repeats(ground: Ground) -> Found:
    first, second = ([c.completion_ids for c in ground.said(1.0)] for _ in range(2))
    same = sum(a == b for a, b in zip(first, second, strict=True))
    return same == len(first), f"{same} of {len(first)} rows equal"


def check_steps(ground: Ground) -> Found:
    weights, numbers = ground.train("steps", [ROLES, ROLES, ("executor",), ("executor",)], {})
    norms = [update["grad_norm"] for update in numbers]
    moves = [[_moved(a, b, role) for role in ROLES] for a, b in pairwise(weights)]
    text = "gradient norms " + ", ".join("none" if n is None else f"{n:.3g}" for n in norms)
    good = all(norms) and moves == [[True, True]] * 2 + [[False, True]] * 2
    return good, f"{text}; moved (designer, executor): {moves}"


def check_resume(ground: Ground) -> Found:
    off, cuda = {}, torch.cuda.is_available()
    for optim in ("adamw_torch", "paged_adamw_8bit")[: 1 + cuda]:
        sets = {"train.save_every": 2, "train.optim": optim}
        (start, *_, unbroken), _ = ground.train(f"whole {optim}", [ROLES] * 4, sets)
        middle = ground.folder / f"whole {optim}" / "step-00002"
        (*_, resumed), _ = ground.train(f"rest {optim}", [ROLES] * 4, sets, middle)
        moved = sum(float((unbroken[n] - start[n]).norm()) for n in unbroken)
        off[optim] = sum(float((unbroken[n] - resumed[n]).norm()) for n in unbroken) / moved
    text = ", ".join(f"{optim}: {value:.2g} of the movement off" for optim, value in off.items())
    return max(off.values()) <= 0.01 * cuda, text


def check_cold_start(ground: Ground) -> Found:
    ours, plain = cold_start(ground.recipe), ground.plain["cold"]
    text = f"loss {ours[0]:.3f} to {ours[-1]:.3f}, plain PEFT's to {plain[-1]:.3f}"
    return ours[-1] < ours[0] and abs(ours[-1] / plain[-1] - 1) < 0.02, text


def check_float16(ground: Ground) -> Found:
    if not torch.cuda.is_available():
        raise Skip("no GPU here, and the scaler needs one")
    _, numbers = ground.train("float16", [ROLES] * 8, {"model.dtype": "float16"})
    skipped = sum(update["step_skipped"] for update in numbers)
    return skipped <= 3, f"{skipped} of 8 skipped, scale {numbers[-1]['scale']}"


def check_export(ground: Ground) -> Found:
    ties = ground.plain.get("merged")
    if ties is None:
        return False, f"it ended with: {ground.exported.stderr.strip()[-300:]}"
    same = sum(tie <= 0 for tie in ties)
    return max(ties) < 0.1, f"{same} of {len(ties)} rows equal, all tokens within {max(ties):.2g}"


def check_vllm(ground: Ground) -> Found:
    if find_spec("vllm") is None:
        raise Skip("vLLM is not installed")
    gaps = ground.answer("vLLM")["gaps"]
    text = f"mean gap {float(gaps.mean()):.2g}, at most {float(gaps.max()):.2g}"
    return float(gaps.mean()) < 0.05, f"{text}, of {len(gaps)} tokens"


def check_memory(ground: Ground) -> Found:
    recipe, policy = ground.sized
    planned = total(estimate(shape_of(recipe.model.name), recipe)) - OVERHEAD
    peak, counts = at_size.forced(at_size.Phases(recipe, policy), at_size.Memory())
    times = ", ".join(f"{count} times in {phase}" for phase, count in counts.items())
    text = f"{at_size.RECIPE} with gpu={recipe.gpu}: {peak / GIB:.2f} GB of {planned / GIB:.2f}"
    good = 0.5 <= peak / planned <= 1.1 and all(counts.values())
    return good, f"{text} planned; out of memory when forced {times}"


def check_speed(ground: Ground) -> Found:
    cuda = torch.cuda.is_available()
    recipe, policy = ground.sized if cuda else (ground.recipe, ground.policy)
    texts, best, graphs = list[str](), 0.0, cuda and policy.loader == "unsloth"
    for mode, value in (("", "0"), (" with CUDA graphs", "1"))[: 1 + graphs]:
        os.environ[at_size.GRAPHS] = value
        speeds = at_size.rates(Engine(policy, recipe.model.max_length, recipe.generation_tokens))
        texts.append(", ".join(f"{speed:.0f}" for speed in speeds) + mode)
        best = max(best, *speeds)
    if cuda:
        steps = (end["row_steps"] for end in plan(at_size.recipe())["rests_on"].values())
        hours = " to ".join(f"{count / best / 3600:.1f}" for count in steps)
        texts.append(f"{hours} hours for all that `plan` guesses {at_size.RECIPE} to decode")
    return best > 0, f"tokens a second at 8, 32, 64 rows: {'; '.join(texts)}"


def run(ground: Ground, names: list[str]) -> None:
    """Run these checks in turn, a line of JSON on stdout for each."""
    for name in names:
        check = globals()["check_" + name.replace("-", "_").replace(" ", "_")]
        begun = time.monotonic()
        with stdout_for_json(True):
            try:
                passed, text = check(ground)
                result = "passed" if passed else "failed"
            except Skip as reason:
                result, text = "skipped", str(reason)
        seconds = round(time.monotonic() - begun, 1)
        print(json.dumps({"result": result, "text": text, "seconds": seconds}), flush=True)
