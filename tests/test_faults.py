"""What ends a training early, and what it leaves: full disks, NaN, closed pipes."""

from __future__ import annotations

import math
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import small
from made_trees import Seen, on_policy, trees
from test_run import command, metrics

from mxa_lite.errors import RunError
from mxa_lite.learn.step import Step
from mxa_lite.learn.trainer import RoleTrainer
from mxa_lite.policy.load import load
from mxa_lite.recipe.keys import Recipe
from mxa_lite.rollout.opened import sampler_for
from mxa_lite.runfolder import RunFolder
from mxa_lite.runs.interrupts import Interrupts
from mxa_lite.runs.train import Run
from mxa_lite.tasks import load as tasks


def trainer(recipe: Recipe, folder: Path) -> tuple[RoleTrainer, Seen]:
    policy = load(recipe)
    seen = Seen(lambda step: on_policy(policy, trees(step)), lambda step: ("executor",))
    return RoleTrainer(recipe, policy, folder, seen.take), seen


def test_a_full_disk_is_one_sentence_and_earlier_checkpoints_stay(tmp_path: Path) -> None:
    role_trainer, _ = trainer(small("train.steps=2", "train.save_every=1"), tmp_path)
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "optimizer.pt").symlink_to("/dev/full")
    with pytest.raises(RunError, match="step-00002 cannot be written") as error:
        role_trainer.train()
    assert "\n" not in str(error.value)
    assert not any(tmp_path.glob("*-2")) and not any(tmp_path.glob("step-00002"))
    assert (tmp_path / "step-00001" / "trainer_state.json").is_file()


def test_more_steps_of_a_falling_rate_begin_at_the_rate_of_the_new_end(tmp_path: Path) -> None:
    """Fault: the first step after a finished linear schedule was taken at rate 0."""
    sets = ("train.lr_scheduler=linear", "train.save_every=2")
    trainer(small("train.steps=2", *sets), tmp_path)[0].train()
    longer, seen = trainer(small("train.steps=4", *sets), tmp_path)
    longer.train(resume_from_checkpoint=str(tmp_path / "step-00002"))
    assert [numbers["lr"] for numbers in seen.numbers] == pytest.approx([5e-4, 2.5e-4])


def test_a_step_whose_numbers_are_none_is_named_and_nothing_of_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small("train.steps=2", "train.save_every=1", "eval.questions=0", "task.limit=4")
    folder = RunFolder(tmp_path)
    folder.create("")
    policy = load(recipe)
    with sampler_for(recipe, policy) as sampler:
        this = Run(recipe, folder, sampler, tasks.load(recipe.task, 1))
        rolled_out = this.take

        def broken(number: int) -> Step:
            step = rolled_out(number)
            with torch.no_grad():
                next(p for n, p in policy.model.named_parameters() if "lora_" in n)[:] = math.nan
            return step

        monkeypatch.setattr(this, "take", broken)
        with pytest.raises(RunError, match=r"step 1 .* no longer a number; .*learning_rate"):
            this.train()
    assert not folder.read_metrics() and not any(folder.checkpoints.glob("step-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_a_scheduler_or_a_closing_terminal_sends_counts_as_ctrl_c(number: int) -> None:
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        assert not interrupts.asked
        signal.raise_signal(number)
        assert interrupts.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_a_closed_pipe_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "piped"
    process = subprocess.Popen(
        command(folder, train__steps="50"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout and process.stderr
    while " 1/50 " not in process.stdout.readline():
        assert process.poll() is None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 130
    assert f"saved in {folder}/checkpoints/step-" in said and "--resume` goes on" in said
    (saved,) = (folder / "checkpoints").glob("step-*/trainer_state.json")
    assert int(saved.parent.name[5:]) == len(metrics(folder))
