"""What tests/test_unsloth.py runs with Unsloth's code for a GPU, on a CPU: its Triton kernels are
interpreted, and the questions it asks about a card are answered.

    python unsloth_kernels.py FILE

Writes to FILE what `measured` finds, greedy completions, and the kernels that ran. In float16: over
float32 weights Unsloth leaves its adapter kernels out, and the interpreter computes with bfloat16
as with integers. Without 4 bit, checkpointing and compiled code, which need a card.
"""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

os.environ |= {
    "TRITON_INTERPRET": "1",
    "UNSLOTH_ALLOW_CPU": "1",  # its paths for CUDA, without a card
    "UNSLOTH_BNB_TRITON": "0",  # kernels for 4 bit
    "UNSLOTH_TRITON_FAST_LAUNCH": "0",  # of compiled kernels
    "UNSLOTH_COMPILE_DISABLE": "1",
    "HF_DEACTIVATE_ASYNC_LOAD": "1",  # the mode below sees one thread
}

import torch
from conftest import small
from torch.overrides import TorchFunctionMode
from triton.runtime import interpreter

from mxa_lite.policy import unsloth_first
from mxa_lite.stdio import stdout_for_json

CPU = torch.device("cpu", 0)
PROPERTIES = {"name": "none", "total_memory": 1 << 34, "major": 8, "minor": 0, "warp_size": 32}
STREAM = SimpleNamespace(synchronize=lambda: None, cuda_stream=0)
CARD = {  # what torch.cuda answers
    "device_count": 1,
    "current_device": 0,
    "current_stream": STREAM,
    "default_stream": STREAM,
    "is_current_stream_capturing": False,
    "get_device_capability": (8, 0),
    "get_device_properties": SimpleNamespace(multi_processor_count=1, **PROPERTIES),
    "mem_get_info": (1 << 34, 1 << 34),
    **dict.fromkeys(("memory_allocated", "memory_reserved", "max_memory_reserved"), 0),
    **dict.fromkeys(("empty_cache", "synchronize"), None),
}
KERNELS: set[str] = set()  # that were launched


class OnCpu(TorchFunctionMode):
    """What is asked for on a card is made on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.device and place(args[0]) is CPU:
            return CPU
        if "device" in kwargs:
            kwargs["device"] = place(kwargs["device"])
        if func is torch.Tensor.to:
            args = (args[0], *map(place, args[1:2]), *args[2:])
        return func(*args, **kwargs)


def place(device: Any) -> Any:
    """A device, the CPU instead of a card; anything else as it is."""
    named = isinstance(device, str | torch.device) and str(device).startswith("cuda")
    return CPU if named or type(device) is int else device


def launched(self: Any, *args: Any, **kwargs: Any) -> Any:
    KERNELS.add(self.fn.__name__)
    return launch(self, *args, **kwargs)


for question, answer in CARD.items():
    setattr(torch.cuda, question, lambda *_, a=answer, **__: a)
torch._C._cuda_getCurrentRawStream = lambda index: 0  # type: ignore[attr-defined]
launch, interpreter.GridExecutor.__call__ = interpreter.GridExecutor.__call__, launched

RECIPE = small("model.loader=unsloth", "model.dtype=float16", "model.quantization=none")
unsloth_first(RECIPE.model)

from scored import asked, measured  # noqa: E402

from mxa_lite.machine.proofs import drawn  # noqa: E402
from mxa_lite.policy.generate import Engine  # noqa: E402
from mxa_lite.policy.load import load  # noqa: E402
from mxa_lite.policy.unsloth import FastLanguageModel  # noqa: E402


def without_checkpointing(name: str) -> None:
    """A function of Unsloth's, without what needs memory that CUDA has pinned."""
    real = getattr(FastLanguageModel, name)

    def call(*args: Any, **given: Any) -> Any:
        return real(*args, **given | {"use_gradient_checkpointing": False})

    setattr(FastLanguageModel, name, staticmethod(call))


for function in ("from_pretrained", "get_peft_model"):
    without_checkpointing(function)
with stdout_for_json(True), OnCpu():
    policy = drawn(load(RECIPE), 0.02)
    found = measured(policy)
    calls = asked()
    said = zip(calls, Engine(policy, 512, 65_536).generate(calls), strict=True)
    found["greedy"] = [(call.role, c.prompt_ids, c.completion_ids) for call, c in said]
torch.save(found | {"kernels": sorted(KERNELS)}, sys.argv[1])
