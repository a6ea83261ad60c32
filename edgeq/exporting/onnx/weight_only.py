"""Files of FP16 whose linear layers have weights of 4 bits: a DequantizeLinear in blocks.

Each block of neighbours along the inputs of a layer has a scale of its own (ONNX operators, DequantizeLinear-21,
`block_size`): in FP16 for INT4, and for FP4 in FP8 behind a DequantizeLinear of its own, by one number in FP16 (NVFP4).
Engines keep 4 bits a weight in memory and multiply in FP16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.exporting.graphs.graph import new_initializer, opset_of
from edgeq.exporting.graphs.names import keeps_names
from edgeq.exporting.onnx.writer import FloatModel, engine_graph, write_artifact
from edgeq.exporting.passes.opset import raise_opset
from edgeq.exporting.planning.fp16_audit import audit_fp16
from edgeq.exporting.planning.keep import resolve_keep
from edgeq.exporting.planning.weight_only import make_weight_only_plan
from edgeq.exporting.tensorrt.strong_typing import to_fp16
from edgeq.schemes import PerGroup

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

    from edgeq.calibrators.ranges import Ranges
    from edgeq.exporting.artifact import Artifact
    from edgeq.exporting.jobs import LayerMoments
    from edgeq.exporting.planning.keep import Kept, VitPlan
    from edgeq.exporting.planning.plan import QuantPlan
    from edgeq.quantizers.weight import QuantizedWeight
    from edgeq.targets import Target

W4, FP4 = "w4", "fp4"
"""The precisions, as manifests, file names and schemes have them."""

_OPSET = {W4: 21, FP4: 23}
"""The first with such weights in blocks."""


def write_weight_only(
    model: FloatModel,
    target: Target,
    folder: Path,
    precision: str,
    ranges: Ranges | None = None,
    kept: Kept | None = None,
    vit_plan: VitPlan = "balanced",
    layer_moments: LayerMoments | None = None,
) -> Artifact:
    """Returns the artifact with weights of 4 bits, written to `folder`.

    Args:
        model: The float model.
        target: Whose rules to follow; its graphs are FP16.
        folder: Where to write.
        precision: `w4` or `fp4`.
        ranges: What calibration saw of this model, to keep in FP32 what FP16 cannot compute.
        kept: Nodes that stay in FP16; by default those that `vit_plan` keeps.
        vit_plan: What of a transformer stays in FP16.
        layer_moments: Measures what layers read, so that their outputs change least; without it weights are rounded to
            nearest.

    Raises:
        ModelError: no layer takes such weights, or a constant does not fit into FP16.
        MismatchError: the ranges were collected for another model or other pre-processing.
    """
    if ranges is not None:
        ranges.check(model_digest=model.digest, preprocessing_digest=model.preprocessing.digest)
    graph = engine_graph(model, target)
    if opset_of(graph) < _OPSET[precision]:
        raise_opset(graph, _OPSET[precision])
    kept = resolve_keep(graph, vit_plan=vit_plan) if kept is None else kept
    plan = make_weight_only_plan(graph, target.rules, kept, precision, layer_moments)
    islands = audit_fp16(graph, ranges)
    insert_weights(graph, plan)
    to_fp16(graph, islands)
    facts: dict[str, Any] = {
        f"{precision}_nodes": len(plan.weights),
        "float_nodes": {each.name: each.reason for each in plan.decisions if each.is_float},
        "notes": list(plan.notes),
        "fp16": "in the graph",
        **({} if ranges is None else {"fp16_islands": islands}),
    }
    return write_artifact(model, graph, target, precision, folder, facts)


@keeps_names
def insert_weights(model: ir.Model, plan: QuantPlan) -> None:
    """Writes the weights of a plan into the graph, in place, stored in 4 bits behind a DequantizeLinear in blocks."""
    for node in list(model.graph):
        if (quantized := plan.weights.get(str(node.name))) is not None:
            _insert(model, node, quantized)


def _insert(model: ir.Model, node: ir.Node, quantized: QuantizedWeight) -> None:
    import ml_dtypes
    import onnx_ir as ir

    old, granularity = node.inputs[1], quantized.scheme.granularity
    assert old is not None and isinstance(granularity, PerGroup)  # noqa: S101 - the plan has seen to it
    kind = "fp4" if quantized.scheme.is_float4 else "int4"
    numbers = quantized.integers if quantized.scheme.is_float4 else quantized.integers.astype(ml_dtypes.int4)
    stored = new_initializer(model, f"{old.name}_{kind}", numbers)
    number = str(stored.name).removeprefix(f"{old.name}_{kind}")  # of the second layer of one weight
    scales = _scales(model, node, quantized, f"{old.name}_scale", number)
    attributes = {"axis": granularity.axis, "block_size": granularity.size}
    dequantize = ir.node("DequantizeLinear", [stored, scales], attributes, name=f"{old.name}_dequantize{number}")
    (result,) = dequantize.outputs
    result.name, result.shape, result.type = f"{old.name}_dequantized{number}", old.shape, old.type
    model.graph.insert_before(node, dequantize)
    node.replace_input_with(1, result)
    if not old.uses() and not old.is_graph_output():
        del model.graph.initializers[str(old.name)]


def _scales(model: ir.Model, node: ir.Node, quantized: QuantizedWeight, name: str, number: str) -> ir.Value:
    """Returns the scales of a weight; those of FP4 come from a DequantizeLinear before the layer."""
    import ml_dtypes
    import onnx_ir as ir

    if quantized.tensor_scale is None:
        return new_initializer(model, name, quantized.scale.astype(np.float32))
    steps = (quantized.scale / quantized.tensor_scale).astype(ml_dtypes.float8_e4m3fn)
    scales = [new_initializer(model, f"{name}_fp8", steps), new_initializer(model, name, quantized.tensor_scale)]
    dequantize = ir.node("DequantizeLinear", scales, name=f"{name}_dequantize{number}")
    (result,) = dequantize.outputs
    result.name = f"{name}_dequantized{number}"
    result.shape, result.type = ir.Shape(steps.shape), ir.TensorType(ir.DataType.FLOAT)
    model.graph.insert_before(node, dequantize)
    return result
