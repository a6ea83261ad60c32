"""TFLite files whose fully connected layers have weights of 4 bits in groups, each with a scale in FP16.

LiteRT's kernels multiply them by inputs that are quantized to 8 bits at every run. They take groups of 32 to 256 inputs
that divide a row, without zero points; convolutions have no such form and stay in float. ai-edge-quantizer rounds the
weights to nearest, and the file is read back.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from edgeq.errors import InputError, ModelError
from edgeq.exporting.quantization_facts import LowBitFacts
from edgeq.exporting.tflite.graph import Graph, Operator, read_graph, rename_tensors
from edgeq.exporting.tflite.keep import operator_name
from edgeq.exporting.tflite.layers import computed_by_name
from edgeq.exporting.tflite.plan import LAYERS
from edgeq.exporting.tflite.quantize import end_names, open_quantizer, run_quantizer

W4 = "w4"
"""The precision."""

GROUP_SIZE = 32
"""Inputs that share a scale, unless told otherwise."""

_GROUPS = (32, 64, 128, 256)
_BITS, _SCALE_BITS = 4, 16
_KIND = "FULLY_CONNECTED"


def in_four_bits(
    content: bytes, name: str, kept: Mapping[str, str], group_size: int | None
) -> tuple[bytes, dict[str, Any]]:
    """Returns the file, and what the manifest says of it.

    Args:
        content: A float file whose tensors have names of their own.
        name: What to call the file in errors.
        kept: Name of an operator -> why it stays in float.
        group_size: Inputs that share a scale; by default 32.

    Raises:
        InputError: the kernels have no such groups.
        ModelError: no layer takes such weights, or the quantizer did something else.
        MissingDependencyError: the extra `tflite` is not installed.
    """
    size = group_size or GROUP_SIZE
    if size not in _GROUPS:
        raise InputError(
            f"`group_size` {size}: LiteRT's kernels take groups of {', '.join(map(str, _GROUPS))}; choose one of them"
        )
    before = read_graph(content, name)
    floats = {
        operator_name(before, operator): reason
        for operator in before.operators
        if operator.kind in LAYERS and (reason := _float_reason(before, operator, kept, size)) is not None
    }
    layers = [each for each in before.operators if each.kind == _KIND and operator_name(before, each) not in floats]
    if not layers:
        raise ModelError(
            f"{name}: no layer can have weights of 4 bits in TFLite: that takes a fully connected one whose inputs are "
            f"a multiple of {size}; choose another `group_size`, int8 or dynamic"
        )
    worker = open_quantizer(content)
    for operator in layers:
        _add_rule(worker, f"^{re.escape(operator_name(before, operator))};", size)
    quantized = run_quantizer(worker, None, name)
    quantized = rename_tensors(quantized, end_names(before, read_graph(quantized, name)), name)
    _check(before, read_graph(quantized, name), layers, name)
    facts = LowBitFacts(
        nodes=len(layers), bits=_BITS, form="blockwise", group_size=size, bits_per_weight=_BITS + _SCALE_BITS / size
    )
    return quantized, {"low_bit": dataclasses.asdict(facts), "float_nodes": floats}


def _float_reason(graph: Graph, operator: Operator, kept: Mapping[str, str], size: int) -> str | None:
    """Returns why a layer stays in float, `None` if it need not."""
    if (reason := kept.get(operator_name(graph, operator))) is not None:
        return reason
    if operator.kind != _KIND:
        return f"LiteRT has no {operator.kind} with weights of 4 bits in groups"
    weight = graph.values.get(operator.inputs[1])
    if weight is None:
        return "its weight is not a constant"
    inputs = weight.shape[-1]
    return f"its {inputs} inputs are no multiple of groups of {size}" if inputs % size else None


def _add_rule(worker: Any, scope: str, size: int) -> None:
    from ai_edge_quantizer import qtyping

    weights = qtyping.TensorQuantizationConfig(
        num_bits=_BITS, symmetric=True, granularity=qtyping.QuantGranularity(f"BLOCKWISE_{size}")
    )
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.INTEGER
    )
    worker.update_quantization_recipe(scope, qtyping.TFLOperationName(_KIND), config)


def _check(before: Graph, after: Graph, layers: list[Operator], name: str) -> None:
    """Reads the weights of a quantized graph back.

    Raises:
        ModelError: a layer has other weights than was decided.
    """
    computed = computed_by_name(before, after)
    for operator in layers:
        output = before.tensors[operator.outputs[0]].name
        found = computed.get(output)
        held = None if found is None else after.tensors[found.inputs[1]].dtype
        if held != "int4":
            raise ModelError(f"{name}: {output!r} was to have weights of int4, but has {held}; please report the model")
