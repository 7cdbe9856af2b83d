"""CPU tensors said to be on a card: mixing them with others raises, as on a real one.

What is on the card is marked at its storage, which views, saved tensors and gradients share.
`Asked` sees what Python asks for: devices, and moves between them. `Said` sees every operation
beneath it, those of a backward pass too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CARD, CPU = torch.device("cuda", 0), torch.device("cpu")
NAMES = {"cpu": CPU, "cuda": CARD, "cuda:0": CARD, "0": CARD}
ops = torch.ops.aten
INDEXED = {ops.index, ops.index_put, ops.index_put_, ops._index_put_impl_}  # by a CPU's indices too
GETTERS = {
    Tensor.device.__get__: lambda where: where,
    Tensor.is_cuda.__get__: lambda where: where == CARD,
    Tensor.is_cpu.__get__: lambda where: where == CPU,
}
CUDA = {  # what torch.cuda answers meanwhile
    "is_available": True,
    "device_count": 1,
    "current_device": 0,
    "set_device": None,
    "empty_cache": None,
    "memory_allocated": 0,
    "memory_reserved": 0,
    "max_memory_allocated": 0,
    "mem_get_info": (1 << 34, 1 << 34),
    "get_device_name": "a card",
    "get_device_capability": (8, 0),
    "random.get_rng_state": torch.zeros(16, dtype=torch.uint8),
}


def place(tensor: Tensor) -> torch.device:
    """Where a tensor is said to be."""
    return CARD if hasattr(tensor.untyped_storage(), "on_card") else CPU


def say(tensor: Tensor) -> None:
    """Say that it is on the card, and so all that share its storage."""
    tensor.untyped_storage().on_card = True  # type: ignore[attr-defined]


def tensors(values: Any) -> list[Tensor]:
    """The tensors in nested values, but those of the meta device, which are nowhere."""
    if isinstance(values, Tensor):
        return [] if values.is_meta else [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (tuple, list)):
        return []
    return [tensor for value in values for tensor in tensors(value)]


def storages(of: list[Tensor]) -> set[int]:
    return {t.untyped_storage()._cdata for t in of}


class Said(TorchDispatchMode):
    """Raises RuntimeError where an operation mixes tensors that are said to be on the card with
    others. A number (0-d) may come from the CPU, as on a card.

    made: where tensors are that C++ makes from none. moving: what is done is no operation.
    """

    made, moving = CPU, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.moving:
            return func(*args, **kwargs)
        given = tensors((args, kwargs))
        on_card = any(place(t) == CARD for t in given)
        if on_card and func.overloadpacket is not ops.copy_:
            check(func, args, kwargs)
        result = func(*args, **kwargs)
        if on_card or (not given and self.made == CARD):
            before = storages(given)
            for tensor in tensors(result):
                if not storages([tensor]) <= before:
                    say(tensor)
        return result

    @contextlib.contextmanager
    def making(self, where: torch.device, moving: bool = False) -> Iterator[None]:
        before = self.made, self.moving
        self.made, self.moving = where, moving
        try:
            yield
        finally:
            self.made, self.moving = before


def check(func: Any, args: Any, kwargs: Any) -> None:
    """Raise where one of these arguments, of which one is on the card, has to be there too."""
    if func.overloadpacket in INDEXED and place(args[0]) == CARD:
        args = (args[0], *args[2:])
    written = storages(tensors(args[:1])) if func.overloadpacket.__name__[-1] == "_" else set()
    for t in tensors((args, kwargs)):
        if place(t) == CPU and (t.dim() or storages([t]) <= written):
            raise RuntimeError(f"{func}: tensors on cuda:0 and on cpu, that one {tuple(t.shape)}")


class Asked(TorchFunctionMode):
    """What Python asks for, done on the CPU: there a card's tensors are made, moved and told."""

    def __init__(self, said: Said) -> None:
        super().__init__()
        self.said = said

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        said, kwargs = self.said, dict(kwargs or {})
        if func in GETTERS and not args[0].is_meta:
            return GETTERS[func](place(args[0]))
        if func is torch.device and args == (0,):
            return CARD
        given = tensors((args, kwargs))
        here = CARD if any(place(t) == CARD for t in given) else CPU
        if func in (Tensor.numpy, Tensor.__array__) and here == CARD:
            raise TypeError("a tensor on cuda:0 has no numpy array")
        func, args = by_name(func, args, kwargs)
        there = NAMES.get(str(kwargs.get("device")))
        if there is None:  # no device is asked for, or the meta device
            with said.making(here):
                return func(*args, **kwargs)
        with said.making(there, moving=True):
            made = func(*args, **kwargs | {"device": CPU})
            if place(made) != there and storages([made]) <= storages(given):
                made = made.clone()
        if there == CARD:
            say(made)
        return made

    def backward(self, roots: Any, *arguments: Any, **named: Any) -> Any:
        """Autograd's engine, in which functions of Python's may run."""
        with self, self.said.making(place(roots[0])):
            return _engine_run_backward(roots, *arguments, **named)


def by_name(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The function and its arguments by position; the device it asks for goes among `kwargs`."""
    if func in (Tensor.cuda, Tensor.cpu):
        kwargs["device"] = CARD if func is Tensor.cuda else CPU
        return Tensor.to, args[:1]
    if func is Tensor.new_tensor:
        kwargs.setdefault("device", place(args[0]))
    if func is not Tensor.to or len(args) == 1 or isinstance(args[1], torch.dtype):
        return func, args
    own, to, *rest = args
    if isinstance(to, Tensor):
        kwargs |= {"device": place(to), "dtype": to.dtype}
    else:
        kwargs |= {"device": to, **dict(zip(("dtype", "non_blocking", "copy"), rest, strict=False))}
    return func, (own,)


@contextlib.contextmanager
def said_cuda() -> Iterator[None]:
    """A machine that has a card, by its own account."""
    said = Said()
    asked = Asked(said)
    with contextlib.ExitStack() as stack:
        for name, answer in CUDA.items():
            stack.enter_context(patch(f"torch.cuda.{name}", lambda *_, a=answer, **__: a))
        # A hook within an operation sees true devices, so that checkpointing would find two.
        metadata = {"default": lambda tensor: (tensor.shape, tensor.dtype)}
        looks = "torch.utils.checkpoint._allowed_determinism_checks_to_fns"
        stack.enter_context(patch.dict(looks, metadata))
        # else transformers reads weights in threads, which no mode sees
        stack.enter_context(patch.dict("os.environ", {"HF_DEACTIVATE_ASYNC_LOAD": "1"}))
        stack.enter_context(patch("torch.autograd._engine_run_backward", asked.backward))
        stack.enter_context(said)
        stack.enter_context(asked)
        yield
