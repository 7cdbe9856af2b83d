"""Class Policy: one base model that speaks for both roles, each through its LoRA adapter."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft.utils import load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError

from mxa_lite.errors import InputError
from mxa_lite.policy.decode import Decoder
from mxa_lite.policy.merged import Merged
from mxa_lite.policy.template import Template


@dataclass
class Policy:
    """One base model that speaks for both roles.

    adapters: role -> name of its adapter; both roles name "shared" with `adapters: shared`.
    notes: how it was loaded and why, one sentence each, for the log and `doctor`.
    ends: tokens that end a completion.
    threads: how many CPU threads prompts and updates get now, where single tokens are decoded with
    another number. wide: from how many rows on single tokens get them too.
    merged: whole weights to generate with; None: generation goes through the adapters.
    before_learning: called when training is switched to, for an engine that holds memory.
    """

    model: Any  # a PeftModel; Unsloth's has extra methods
    tokenizer: Any
    adapters: dict[str, str]
    loader: str
    ends: list[int]
    template: Template
    notes: list[str] = field(default_factory=list)
    threads: Callable[[], int] | None = None
    wide: float = math.inf
    merged: Merged | None = None
    before_learning: Callable[[], None] = lambda: None

    def take_free_threads(self) -> None:
        """Compute with as many threads as other programs leave now."""
        if self.threads:
            torch.set_num_threads(self.threads())

    @contextlib.contextmanager
    def all_threads(self) -> Iterator[None]:
        """Compute with all free threads meanwhile."""
        before = torch.get_num_threads()
        self.take_free_threads()
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters, each once."""
        return tuple(dict.fromkeys(self.adapters.values()))

    def activate(self, role: str) -> None:
        """Make the role's adapter the one the next forward uses.

        PEFT freezes the others when it switches; all stay trainable here, because the optimizer
        must know both (also on resume) and an adapter that is not active gets no gradient at all.
        """
        name = self.adapters[role]
        if self.model.active_adapters != [name]:
            self.model.set_adapter(name)
            self.model.set_requires_grad(list(self.names), True)

    def speaker(self, role: str) -> tuple[Any, Decoder | None]:
        """The model that generates for a role, and its decoder where it has one."""
        if self.merged is not None:
            return self.merged.of(self.adapters[role])
        self.activate(role)
        return self.model, None

    def generating(self) -> None:
        """Switch to generation: no dropout, no checkpointing."""
        if self.loader == "unsloth":
            from mxa_lite.policy import unsloth

            unsloth.for_inference(self.model)
        self.model.eval()

    def learning(self) -> None:
        self.before_learning()
        if self.loader == "unsloth":
            from mxa_lite.policy import unsloth

            unsloth.for_training(self.model)
        self.model.train()

    def save(self, folder: Path, names: Iterable[str] | None = None) -> None:
        """Write each adapter to `folder/<name>` in PEFT's own format."""
        self.model.save_pretrained(str(folder), selected_adapters=list(names or self.names))

    def load(self, folder: Path, names: Iterable[str] | None = None) -> None:
        """Read adapters that `save` wrote; weights come back bit for bit.

        Raises InputError for a missing or damaged one.
        """
        for name in names or self.names:
            try:
                if not (folder / name / "adapter_model.safetensors").is_file():
                    raise InputError(f"{folder / name}: no adapter_model.safetensors")
                weights = load_peft_weights(str(folder / name), device="cpu")
                set_peft_model_state_dict(self.model, weights, adapter_name=name)
            except (SafetensorError, RuntimeError) as error:
                reason = str(error).splitlines()[0]
                raise InputError(f"{folder / name}: damaged adapter: {reason}") from error


def out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out, in torch or in the matrix library beneath it."""
    return isinstance(error, torch.OutOfMemoryError) or "CUBLAS_STATUS_ALLOC" in str(error)


@contextlib.contextmanager
def exact_adapters(model: Any) -> Iterator[None]:
    """Keep the adapters' float32 weights through the start of a TRL trainer.

    Over a quantized base TRL casts adapters to bfloat16 when a trainer is made (seen in 1.15). A
    step of 1e-3 on a weight of 0.05 is then mostly rounding, and small models do not learn.
    """
    weights = [(p, p.data) for p in model.parameters() if p.requires_grad]
    yield
    for parameter, data in weights:
        parameter.data = data
