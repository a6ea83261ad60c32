"""How checkpoints store a linear layer of few bits: GPTQ's layout, AWQ's, and compressed-tensors' `pack-quantized`.

Each packs integers into words of 32 bits, lowest bits first, along an axis of its own. GPTQ's readers add 1 to the zero
points, so the file holds one less; AWQ's take a word's integers in the order 0, 2, 4, 6, 1, 3, 5, 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeq.errors import InputError
from edgeq.exporting.checkpoints.shards import TensorSpec
from edgeq.quantizers.weight import QuantizedWeight

_WORD = 32
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Layout:
    """A layout.

    Attributes:
        name: As `format` and the folder's `config.json` have it.
        bits: What its readers take.
        symmetric: Whether its readers want all zero points in the middle.
        pack: A layer's weight `(out, in)` -> suffix of a tensor's name -> tensor.
        specs: Outputs, inputs, groups and bits -> suffix -> what the tensor is.
        config: Bits, size of a group and the modules left in float -> what `config.json` says of it.
    """

    name: str
    bits: tuple[int, ...]
    symmetric: bool
    pack: Callable[[QuantizedWeight], dict[str, np.ndarray]]
    specs: Callable[[int, int, int, int], dict[str, TensorSpec]]
    config: Callable[[int, int, Sequence[str]], dict[str, Any]]


def packed(integers: np.ndarray, bits: int, order: Sequence[int] | None = None) -> np.ndarray:
    """Returns integers as words of 32 bits along the last axis, int32.

    Args:
        integers: Unsigned integers; the length of the last axis is a multiple of those in a word.
        bits: Of each.
        order: Which of its integers a word holds, from the lowest bits on; by default as they lie.
    """
    count = _WORD // bits
    words = integers.reshape(*integers.shape[:-1], -1, count)[..., list(order or range(count))].astype(np.uint32)
    shifts = np.arange(count, dtype=np.uint32) * np.uint32(bits)
    return np.asarray(np.bitwise_or.reduce(words << shifts, axis=-1)).view(np.int32)


def get_layout(name: str) -> Layout:
    """Returns the layout of that name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in LAYOUTS:
        raise InputError(f"`format` {name}: a Hugging Face folder is written as {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def _pack_gptq(weight: QuantizedWeight) -> dict[str, np.ndarray]:
    bits = weight.scheme.bits
    zeros = (weight.zero_point.T.astype(np.int64) - 1) % 2**bits
    inputs = weight.integers.shape[1]
    return {
        "qweight": np.ascontiguousarray(packed(weight.integers, bits).T),
        "qzeros": packed(zeros, bits),
        "scales": np.ascontiguousarray(weight.scale.T.astype(np.float16)),
        "g_idx": (np.arange(inputs) // (inputs // weight.scale.shape[1])).astype(np.int32),
    }


def _gptq_specs(outputs: int, inputs: int, groups: int, bits: int) -> dict[str, TensorSpec]:
    return {
        "qweight": TensorSpec("int32", (inputs * bits // _WORD, outputs)),
        "qzeros": TensorSpec("int32", (groups, outputs * bits // _WORD)),
        "scales": TensorSpec("float16", (groups, outputs)),
        "g_idx": TensorSpec("int32", (inputs,)),
    }


def _pack_awq(weight: QuantizedWeight) -> dict[str, np.ndarray]:
    bits = weight.scheme.bits
    return {
        "qweight": packed(np.ascontiguousarray(weight.integers.T), bits, _AWQ_ORDER),
        "qzeros": packed(np.ascontiguousarray(weight.zero_point.T), bits, _AWQ_ORDER),
        "scales": np.ascontiguousarray(weight.scale.T.astype(np.float16)),
    }


def _awq_specs(outputs: int, inputs: int, groups: int, bits: int) -> dict[str, TensorSpec]:
    return {
        "qweight": TensorSpec("int32", (inputs, outputs * bits // _WORD)),
        "qzeros": TensorSpec("int32", (groups, outputs * bits // _WORD)),
        "scales": TensorSpec("float16", (groups, outputs)),
    }


def _pack_compressed(weight: QuantizedWeight) -> dict[str, np.ndarray]:
    return {
        "weight_packed": packed(weight.integers, weight.scheme.bits),
        "weight_scale": weight.scale.astype(np.float16),
        "weight_shape": np.array(weight.integers.shape, np.int64),
    }


def _compressed_specs(outputs: int, inputs: int, groups: int, bits: int) -> dict[str, TensorSpec]:
    return {
        "weight_packed": TensorSpec("int32", (outputs, inputs * bits // _WORD)),
        "weight_scale": TensorSpec("float16", (outputs, groups)),
        "weight_shape": TensorSpec("int64", (2,)),
    }


def _gptq_config(bits: int, group_size: int, left: Sequence[str]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "quant_method": "gptq", "bits": bits, "group_size": group_size, "sym": True, "desc_act": False,
        "damp_percent": 0.01, "true_sequential": True, "checkpoint_format": "gptq", "lm_head": "lm_head" not in left,
    }  # fmt: skip
    if left:
        config["dynamic"] = {f"-:{_pattern(module)}": {} for module in left}
    return config


def _awq_config(bits: int, group_size: int, left: Sequence[str]) -> dict[str, Any]:
    return {
        "quant_method": "awq", "bits": bits, "group_size": group_size, "zero_point": True, "version": "gemm",
        "modules_to_not_convert": list(left) or None,
    }  # fmt: skip


def _compressed_config(bits: int, group_size: int, left: Sequence[str]) -> dict[str, Any]:
    weights = {
        "num_bits": bits, "type": "int", "symmetric": True, "strategy": "group", "group_size": group_size,
        "dynamic": False,
    }  # fmt: skip
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": [f"re:{_pattern(module)}" for module in left],
    }  # fmt: skip


def _pattern(module: str) -> str:
    """Returns a regular expression for a module and all within it, wherever the reader's model has it."""
    escaped = module.replace(".", r"\.")
    return rf"(.*\.)?{escaped}(\..*)?$"


LAYOUTS: Mapping[str, Layout] = {
    "gptq": Layout("gptq", (2, 4, 8), True, _pack_gptq, _gptq_specs, _gptq_config),
    "awq": Layout("awq", (4,), False, _pack_awq, _awq_specs, _awq_config),
    "compressed-tensors": Layout(
        "compressed-tensors", (4, 8), True, _pack_compressed, _compressed_specs, _compressed_config
    ),
}
"""Name -> layout."""
