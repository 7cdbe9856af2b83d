"""Copies of the base with one adapter each added to its weights, for generation alone.

A rollout reads the weights once per token: dequantising them and adding the adapter each time costs
more than half of a small model's step. A copy is always made from the base, so it never drifts.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight

from mxa_lite.policy.decode import Decoder


def adapter_weights(model: Any, name: str) -> list[torch.Tensor]:
    """An adapter's weights in all layers: PEFT keeps them under its name."""
    return [p.detach() for path, p in model.named_parameters() if name in path.split(".")]


class Merged:
    """For each adapter a whole model, and its decoder where there is one.

    builds: how often each adapter has been merged.
    """

    def __init__(self, model: Any, max_length: int) -> None:
        self._base, self._max_length = model.get_base_model(), max_length
        self._layers: dict[str, Any] = {
            name: module
            for name, module in self._base.named_modules()
            if isinstance(module, BaseTunerLayer)
        }
        self._copies: dict[str, Any] = {}
        self._decoders: dict[str, Decoder | None] = {}
        self._seen: dict[str, list[torch.Tensor]] = {}
        self.builds: Counter[str] = Counter()

    @torch.no_grad()
    def of(self, name: str) -> tuple[Any, Decoder | None]:
        """The model with this adapter as it is now; merged anew only when its weights have moved.

        They are compared, since not every optimizer tells torch that it has written to a weight.
        """
        if name not in self._copies:
            self._copies[name] = self._copied()
        weights = adapter_weights(self._base, name)
        previous = self._seen.get(name)
        if previous is None or not all(map(torch.equal, weights, previous)):
            self._merge(name)
            self._seen[name] = [weight.clone() for weight in weights]
        return self._copies[name], self._decoders[name]

    def _copied(self) -> Any:
        """A model that shares all but the adapted layers with the base."""
        with torch.device("meta"):
            copy = type(self._base)(self._base.config)
        base_modules = dict(self._base.named_modules())
        for name, module in copy.named_modules():
            if name not in self._layers:
                module._parameters.update(base_modules[name]._parameters)
                module._buffers.update(base_modules[name]._buffers)
        copy.generation_config = self._base.generation_config
        return copy.eval().requires_grad_(False)

    def _merge(self, name: str) -> None:
        copy = self._copies[name]
        modules = dict(copy.named_modules())
        for layer_name, layer in self._layers.items():
            base = layer.get_base_layer()
            weight = dequantize_module_weight(base).to(self._base.dtype)
            weight = weight + layer.get_delta_weight(name).to(weight.dtype)
            module = modules[layer_name]
            if module.weight.is_meta:
                module.weight = torch.nn.Parameter(weight, requires_grad=False)
                module._parameters["bias"] = base._parameters.get("bias")
            else:
                module.weight.data.copy_(weight)
        if name not in self._decoders:
            fits = Decoder.fits(copy)
            self._decoders[name] = Decoder(copy, self._max_length) if fits else None
        self.builds[name] += 1
