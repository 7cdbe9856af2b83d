"""One of several processes that take an optimizer step together; `test_distributed` starts them.

Arguments: a folder for what is learnt, the loss type, the number of questions.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from conftest import small
from made_trees import Seen, on_policy, trees

from mxa_lite.learn import distributed
from mxa_lite.learn.trainer import RoleTrainer
from mxa_lite.policy.load import load


def main(target: Path, loss_type: str, questions: int) -> None:
    """Save the adapters after one step over recorded trees, of which each process has its share."""
    distributed.join()
    torch.set_num_threads(1)
    recipe = small(
        "train.steps=1",
        "model.quantization=none",
        "train.optim=sgd",
        "train.learning_rate=1.0",
        "train.max_grad_norm=1000",
        "train.tokens_per_micro_batch=100",
        f"train.loss_type={loss_type}",
    )
    policy = load(recipe)
    mine = trees(1, questions)[distributed.RANK :: distributed.SIZE]
    with tempfile.TemporaryDirectory() as folder:
        seen = Seen(lambda step: on_policy(policy, mine), lambda step: ("designer", "executor"))
        RoleTrainer(recipe, policy, Path(folder), seen.take).train()
    if distributed.MAIN:
        policy.save(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
