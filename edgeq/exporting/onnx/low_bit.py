"""Files of FP32 activations whose weights have 2 to 8 bits: those that an engine has kernels for, and simulated ones.

ONNX Runtime has kernels for 2, 4 and 8 bits, OpenVINO for 4 and 8, both in groups of 16 to 256. All else is simulated:
the file holds the floats that its integers stand for, says so by its precision, and runs in `simulated-narrow` alone.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from edgeq.exporting.graphs.graph import opset_of
from edgeq.exporting.onnx.int4_weights import INT4_OPSET
from edgeq.exporting.onnx.low_bit_nodes import Form, insert_low_bit_weights
from edgeq.exporting.onnx.writer import FloatModel, engine_graph, write_artifact
from edgeq.exporting.passes.divide_channels import divide_channels
from edgeq.exporting.passes.opset import raise_opset
from edgeq.exporting.planning.keep import resolve_keep
from edgeq.exporting.planning.low_bit import LINEAR, make_low_bit_plan
from edgeq.exporting.quantization_facts import LowBitFacts
from edgeq.quantizers.weight import stored_bits
from edgeq.schemes import LayerScheme, PerGroup, Scheme

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    import onnx_ir as ir

    from edgeq.exporting.artifact import Artifact
    from edgeq.exporting.jobs import QuantizeLayers
    from edgeq.exporting.planning.keep import Kept, VitPlan
    from edgeq.quantizers import QuantizedWeight
    from edgeq.targets import Target

GROUP_SIZE = 32
"""Inputs with a scale of their own, unless told otherwise: it divides the widths of nearly all networks."""

_KERNEL_GROUPS = (16, 32, 64, 128, 256)
_KERNEL_BITS: dict[Form, tuple[int, ...]] = {"matmul_nbits": (2, 4, 8), "dequantize_linear": (4, 8), "float": ()}
WHOLE_GROUPS: dict[Form, frozenset[str]] = {
    "matmul_nbits": frozenset({"Conv"}),  # its kernels pad
    "dequantize_linear": frozenset({"Conv", *LINEAR}),
    "float": frozenset(),
}
"""Form -> operators whose inputs the groups have to divide."""
_FLOAT_BITS = 32


def form_of(target: Target, bits: int, group_size: int) -> Form:
    """Returns how a target's engine takes weights of so many bits in groups of a size; `float` if it has no kernel."""
    form: Form = "matmul_nbits" if target.runtimes[0] == "onnxruntime" else "dequantize_linear"
    return form if bits in _KERNEL_BITS[form] and group_size in _KERNEL_GROUPS else "float"


def bits_of(precision: str) -> int:
    """Returns the bits of one of `LOW_BITS`."""
    found = re.fullmatch(r"w([2-8])", precision)
    assert found is not None  # noqa: S101 - precisions are checked before anything is written
    return int(found[1])


def write_low_bit(
    model: FloatModel,
    target: Target,
    folder: Path,
    precision: str,
    kept: Kept | None = None,
    vit_plan: VitPlan = "balanced",
    group_size: int | None = None,
    quantize: QuantizeLayers | None = None,
) -> Artifact:
    """Returns the artifact with weights of few bits, written to `folder`.

    Args:
        model: The float model.
        target: Whose rules and engine to follow.
        folder: Where to write.
        precision: One of `LOW_BITS`.
        kept: Nodes that stay in float; by default those that `vit_plan` keeps.
        vit_plan: What of a transformer stays in float.
        group_size: Inputs with a scale of their own, 8 to 256; by default 32.
        quantize: Quantizes the weights; by default they are rounded to nearest.

    Raises:
        ModelError: no layer takes such weights.
    """
    bits, size = bits_of(precision), group_size or GROUP_SIZE
    weight = Scheme(bits=bits, signed=False, symmetric=False, granularity=PerGroup(size))
    return write_weights(model, target, folder, form_of(target, bits, size), weight, kept, vit_plan, quantize)


@dataclasses.dataclass(frozen=True)
class LowBitGraph:
    """A float graph, and what its layers are to hold instead of their weights.

    Attributes:
        graph: The graph, with AWQ's scales in it.
        weights: Layer -> its weight `(out, in)`.
        facts: What a manifest says of them.
    """

    graph: ir.Model
    weights: Mapping[str, QuantizedWeight]
    facts: dict[str, Any]


def quantized_graph(
    model: FloatModel,
    target: Target,
    form: str,
    weight: Scheme,
    kept: Kept | None = None,
    vit_plan: VitPlan = "balanced",
    quantize: QuantizeLayers | None = None,
    whole_groups: Collection[str] = (),
    opset: int = 0,
) -> LowBitGraph:
    """Returns a copy of the float graph, and the weights of its layers by a scheme.

    Args:
        model: The float model.
        target: Whose rules to follow.
        form: How linear layers are to hold their weights, as the manifest has it.
        weight: How weights are stored.
        kept: Nodes that stay in float.
        vit_plan: What of a transformer stays in float.
        quantize: Quantizes the weights.
        whole_groups: Operators whose inputs the groups have to divide.
        opset: The least that the graph is brought to.
    """
    graph = engine_graph(model, target)
    if opset_of(graph) < opset:
        raise_opset(graph, opset)
    kept = resolve_keep(graph, vit_plan=vit_plan) if kept is None else kept
    plan = make_low_bit_plan(graph, target.rules, kept, LayerScheme(weight), quantize, whole_groups)
    weights, scaled = divide_channels(graph, plan.layers.inputs, plan.layers.weights)
    operators = {decision.name: decision.op_type for decision in plan.decisions}
    size = weight.granularity.size if isinstance(weight.granularity, PerGroup) else None
    low_bit = LowBitFacts(
        nodes=len(weights),
        bits=weight.bits,
        form=form,
        group_size=size,
        bits_per_weight=None if size is None else stored_bits(weight, size),
        convolutions=sum(operators[each] not in LINEAR for each in weights),
        folded=len(scaled.done),
        multiplied=len(scaled.left),
        codebook=weight.codebook or "",
    )
    facts: dict[str, Any] = {
        "low_bit": dataclasses.asdict(low_bit),
        "float_nodes": {each.name: each.reason for each in plan.decisions if each.is_float},
        "notes": list(plan.layers.notes),
    }
    return LowBitGraph(graph, weights, facts)


def write_weights(
    model: FloatModel,
    target: Target,
    folder: Path,
    form: Form,
    weight: Scheme,
    kept: Kept | None = None,
    vit_plan: VitPlan = "balanced",
    quantize: QuantizeLayers | None = None,
) -> Artifact:
    """Returns the artifact whose weights are stored by a scheme; arguments as of `write_low_bit`.

    Args:
        model: The float model.
        target: Whose rules to follow.
        folder: Where to write.
        form: How linear layers hold their weights.
        weight: How weights are stored; of unsigned integers in groups, unless the form is `float`.
        kept: Nodes that stay in float.
        vit_plan: What of a transformer stays in float.
        quantize: Quantizes the weights.
    """
    opset = INT4_OPSET if form != "float" else 0
    found = quantized_graph(model, target, form, weight, kept, vit_plan, quantize, WHOLE_GROUPS[form], opset)
    insert_low_bit_weights(found.graph, found.weights, form)
    called, facts = f"w{weight.bits}", found.facts
    if form == "float":
        facts = {**facts, "simulated_bits": {"weights": weight.bits, "activations": _FLOAT_BITS}}
        called = f"simulated-{called}"
    return write_artifact(model, found.graph, target, called, folder, facts)
