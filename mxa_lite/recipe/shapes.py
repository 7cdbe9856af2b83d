"""Sizes of models: those people bring most from models.csv, others from a config.json."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mxa_lite import embedded
from mxa_lite.errors import InputError
from mxa_lite.recipe.checks import is_path

NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)
REFUSED = {  # in a name -> what it is
    r"awq|gptq|fp8|gguf": "quantized in another way than the kit's NF4; take the 16-bit model",
    r"moe|mixtral|\d+b-a\d+b": "a mixture of experts, which adapters of linear layers do not reach",
}
# What a name may end in without another shape: copies, quantized or tuned otherwise.
ENDINGS = r"(-unsloth|-bnb-4bit|-instruct|-it|-base|-thinking|-\d{4})+$"


class Shape(NamedTuple):
    """Sizes of a Llama-like decoder, as its config.json names them."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: int  # whether the head is the embedding

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """From the keys of a config.json; KeyError where one without a default is missing."""
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        defaults = {"num_key_value_heads": heads, "head_dim": hidden // heads}
        stated = {key: value for key, value in config.items() if value is not None}
        config = defaults | {"tie_word_embeddings": False} | stated
        return cls(*(config[key] for key in KEYS))

    def linears(self) -> dict[str, tuple[int, int]]:
        """(in, out) of the linear layers of one block."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        h, i = self.hidden, self.intermediate
        return {
            "q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h),
            "gate_proj": (h, i), "up_proj": (h, i), "down_proj": (i, h),
        }  # fmt: skip

    def linear_parameters(self) -> int:
        """Those of the linear layers of all blocks."""
        return self.layers * sum(fan_in * fan_out for fan_in, fan_out in self.linears().values())

    def kv_bytes(self, b: int) -> int:
        """Keys and values of one token in all blocks, b bytes a number."""
        return 2 * self.layers * self.kv_heads * self.head_dim * b


KEYS = (  # of a config.json, in the order of Shape's fields
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings"),
)
with (Path(__file__).parent / "models.csv").open(encoding="utf-8", newline="") as _lines:
    SHAPES = {
        row["name"]: Shape(*(int(row[key]) for key in KEYS)) for row in csv.DictReader(_lines)
    }


def shape_from_config(path: Path) -> Shape:
    """The shape a config.json describes; InputError where it is another thing, or not dense."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        method = (config.get("quantization_config") or {}).get("quant_method", "bitsandbytes")
        config = config.get("text_config", config)
        experts = [k for k, v in config.items() if "experts" in k and isinstance(v, int) and v > 1]
        shape = Shape.of(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"not the config of a decoder this kit can plan: {error}"
        raise InputError(f"{path}: {reason}") from None
    if experts or method != "bitsandbytes":
        fault = f"a mixture of experts ({experts[0]})" if experts else f"quantized by {method}"
        raise InputError(f"{path}: the model is {fault}; take a dense 16-bit one")
    return shape


def _family(name: str) -> str:
    return re.sub(ENDINGS, "", name.rpartition("/")[2].lower())


def shape_of(name: str) -> Shape:
    """The shape of model.name, a copy's by that of its original, else InputError."""
    if name == "embedded" or is_path(name):
        folder = embedded.FOLDER if name == "embedded" else Path(name).expanduser()
        return shape_from_config(folder / "config.json")
    for pattern, reason in REFUSED.items():
        if re.search(pattern, name, re.I):
            raise InputError(f'plan: "{name}" is {reason}')
    for model, shape in SHAPES.items():
        if _family(model) == _family(name):
            return shape
    listed = ", ".join(["embedded", *SHAPES])
    raise InputError(
        f'plan: the shape of "{name}" is not known; known: {listed}, their copies in 4 bit, or a'
        " local folder"
    )
