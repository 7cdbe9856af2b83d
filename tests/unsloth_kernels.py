"""What tests/test_unsloth.py runs with Unsloth's code for a GPU, on a CPU: its Triton kernels are
interpreted, and the questions it asks about a card are answered.

    python unsloth_kernels.py FILE DTYPE

Writes to FILE what `measured` finds, in float16 greedy completions too, and the kernels that ran.
Over float32 weights Unsloth leaves its adapter kernels out. With bfloat16 the interpreter computes
as with integers, and it cuts off where a card rounds: both are mended here. Without 4 bit,
checkpointing and compiled code, which need a card.
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

import numpy as np
import torch
import triton.language as tl
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


def rounded(data: Any) -> Any:
    """Bits of bfloat16, the nearest to these numbers."""
    numbers = torch.from_numpy(np.ascontiguousarray(data, np.float32))
    return numbers.bfloat16().view(torch.uint16).numpy().reshape(np.shape(data))


def widened(bits: Any) -> Any:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def converted(data: Any, source: Any, target: Any, mode: Any) -> Any:
    if (source, target) == (tl.float32, tl.bfloat16):
        return rounded(data)
    return widened(data) if source == tl.bfloat16 else convert(data, source, target, mode)


def in_float32(real: Any) -> Any:
    """An operation that computes with bfloat16 in float32, and rounds once."""

    def call(self: Any, *arguments: Any) -> Any:
        halves = [getattr(getattr(a, "dtype", None), "scalar", None) for a in arguments]
        if tl.bfloat16 not in halves:
            return real(self, *arguments)
        wide = [
            interpreter.TensorHandle(widened(a.data), tl.float32) if half == tl.bfloat16 else a
            for a, half in zip(arguments, halves, strict=True)
        ]
        result = real(self, *wide)
        if result.data.dtype != np.float32:  # a comparison
            return result
        return interpreter.TensorHandle(rounded(result.data), tl.bfloat16)

    return call


convert, interpreter._convert_float = interpreter._convert_float, converted
for operation in ("unary_op", "binary_op", "create_fma"):
    builder = interpreter.InterpreterBuilder
    setattr(builder, operation, in_float32(getattr(builder, operation)))
for question, answer in CARD.items():
    setattr(torch.cuda, question, lambda *_, a=answer, **__: a)
torch._C._cuda_getCurrentRawStream = lambda index: 0  # type: ignore[attr-defined]
launch, interpreter.GridExecutor.__call__ = interpreter.GridExecutor.__call__, launched

RECIPE = small(f"model.dtype={sys.argv[2]}", "model.loader=unsloth", "model.quantization=none")
unsloth_first(RECIPE.model)
for module in [m for name, m in sys.modules.items() if name.startswith("unsloth")]:
    if hasattr(module, "SUPPORTS_BFLOAT16"):
        module.SUPPORTS_BFLOAT16 = True  # type: ignore[attr-defined]

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
    calls = asked() if sys.argv[2] == "float16" else []
    said = zip(calls, Engine(policy, 512, 65_536).generate(calls), strict=True)
    found["greedy"] = [(call.role, c.prompt_ids, c.completion_ids) for call, c in said]
    assert policy.model.dtype == getattr(torch, sys.argv[2])
torch.save(found | {"kernels": sorted(KERNELS)}, sys.argv[1])
