"""Q/DQ graphs of fewer than 8 bits, to be simulated: where methods that INT8 hides behind its 256 levels come apart.

No engine of ours has kernels for, say, 6-bit activations; what such a file scores is simulated (`simulated-narrow`) and
says nothing of speed. The graph is that of `insert_qdq` with other numbers:

1. The grid of an activation covers the range of its 8-bit grid with `2**bits` levels; a Clip on the integers, between
   QuantizeLinear and DequantizeLinear, keeps them there.
2. Weights lie on `-(2**(bits - 1) - 1)` to its opposite, one scale where they had one.
3. Biases keep their int32: no kernel saves on them.

With 8 bits the outputs are those of `insert_qdq`, bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.calibrators.grid import check_bits
from edgeq.exporting.graphs.graph import constant, new_initializer, walk, weight_of
from edgeq.exporting.onnx.qdq import dead_channels, insert_qdq, quantize_weight, round_to_int8, weight_axis
from edgeq.exporting.onnx.writer import FloatModel, plan_int8, write_artifact
from edgeq.exporting.planning.plan import QuantPlan, TensorGrid
from edgeq.exporting.planning.selection import VitPlan

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.calibrators.ranges import Ranges
    from edgeq.exporting.artifact import Artifact
    from edgeq.targets import Rules, Target


def simulate(
    model: FloatModel,
    target: Target,
    ranges: Ranges,
    keep: Sequence[str],
    weight_bits: int,
    activation_bits: int,
    folder: Path,
    vit_plan: VitPlan = "balanced",
) -> Artifact:
    """Returns the artifact of a Q/DQ graph of fewer bits, written to `folder`, for `evaluate_artifacts`.

    Its precision is `simulated-w6a6` for 6 bits each, and it runs in `simulated-narrow` alone.

    Args:
        model: The float model.
        target: Whose rules decide what is quantized.
        ranges: The ranges of the activations; those of `mse`, `lp`, `entropy` and `best` want the option `bits` too.
        keep: Nodes that stay in float.
        weight_bits: From 2 to 8.
        activation_bits: From 2 to 8.
        folder: Where to.
        vit_plan: What of a transformer is quantized, as for `write_int8`.

    Raises:
        InputError: the bits are not 2 to 8, or `keep` matches nothing.
        MismatchError: the ranges were collected for another model or other pre-processing.
    """
    graph, plan, facts = plan_int8(model, target, ranges, keep, vit_plan)
    insert_narrow_qdq(graph, plan, target.rules, weight_bits, activation_bits)
    facts["simulated_bits"] = {"weights": weight_bits, "activations": activation_bits}
    return write_artifact(model, graph, target, f"simulated-w{weight_bits}a{activation_bits}", folder, facts)


def insert_narrow_qdq(model: ir.Model, plan: QuantPlan, rules: Rules, weight_bits: int, activation_bits: int) -> None:
    """Writes the plan into the graph, in place, with fewer bits.

    Args:
        model: The float graph that the plan was made for.
        plan: What to quantize, on grids of 8 bits.
        rules: The target's rules for weights and biases.
        weight_bits: From 2 to 8.
        activation_bits: From 2 to 8.

    Raises:
        InputError: the bits are not 2 to 8.
    """
    check_bits(weight_bits)
    check_bits(activation_bits)
    int8_nodes = {choice.name for choice in plan.nodes if choice.precision == "int8"}
    weights = {node.name: weight for node in model.graph if (weight := weight_of(node)) is not None}
    tensors = {name: narrow_grid(grid, rules, activation_bits) for name, grid in plan.tensors.items()}
    insert_qdq(model, dataclasses.replace(plan, tensors=tensors), rules)
    for node in walk(model):
        if node.name in int8_nodes and node.name in weights:
            _narrow_weight(node, weights[node.name], rules, weight_bits)
    _clip_activations(model, set(plan.tensors), activation_bits)


def narrow_grid(grid: TensorGrid, rules: Rules, bits: int) -> TensorGrid:
    """Returns the grid of so many bits that covers the range of an 8-bit grid; its integers are in `integer_ends`."""
    if bits == 8:
        return grid
    middle = 2 ** (bits - 1)
    unsigned = grid.dtype == "uint8"
    if rules.symmetric_activations and not (unsigned and grid.zero_point == 0):
        return TensorGrid(grid.scale * 127 / (middle - 1), middle if unsigned else 0, grid.dtype)
    levels = 2**bits - 1
    zero = round((grid.zero_point if unsigned else grid.zero_point + 128) * levels / 255)
    return TensorGrid(grid.scale * 255 / levels, zero if unsigned else zero - middle, grid.dtype)


def integer_ends(dtype: str, bits: int) -> tuple[int, int]:
    """Returns the smallest and the largest integer of a grid of so many bits, stored as `uint8` or `int8`."""
    return (0, 2**bits - 1) if dtype == "uint8" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _narrow_weight(node: ir.Node, weight: np.ndarray, rules: Rules, bits: int) -> None:
    """Puts a weight that `insert_qdq` has quantized on the grid of fewer bits."""
    value = node.inputs[1]
    dequantize = value.producer() if value is not None else None
    assert dequantize is not None  # noqa: S101 - insert_qdq has put it there
    integers, scale, _ = dequantize.inputs
    written = constant(scale)
    assert written is not None  # noqa: S101 - scales are constants
    axis = weight_axis(node, weight, rules)
    natural, scale_of_bits = quantize_weight(weight, axis, bits)
    # Where a bias asked for a coarser grid than the weight, it goes on having it; a dead channel has the bias's alone.
    widened = np.where(dead_channels(natural, axis), written, np.maximum(scale_of_bits, written)).astype(np.float32)
    _replace(scale, widened)
    if constant(integers) is not None:  # else the float weight stands behind a QuantizeLinear of the same scale
        _replace(integers, round_to_int8(weight, widened, axis))


def _replace(value: ir.Value | None, array: np.ndarray) -> None:
    import onnx_ir as ir

    assert value is not None  # noqa: S101 - it was read as a constant
    value.const_value = ir.tensor(array, name=value.name)


def _clip_activations(model: ir.Model, quantized: set[str], bits: int) -> None:
    """Inserts a Clip behind every QuantizeLinear of an activation."""
    import onnx_ir as ir

    ends: dict[str, list[ir.Value]] = {}
    for node in walk(model):
        source = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        if source is None or source.name not in quantized:
            continue
        integers = node.outputs[0]
        kind = integers.dtype
        assert kind is not None  # noqa: S101 - insert_qdq has given it
        dtype = kind.numpy()
        if str(dtype) not in ends:
            ends[str(dtype)] = [
                new_initializer(model, f"{dtype}_{name}", np.array(end, dtype))
                for name, end in zip(("least", "most"), integer_ends(str(dtype), bits), strict=True)
            ]
        clip = ir.node("Clip", [integers, *ends[str(dtype)]], name=f"{source.name}_clip")
        clip.outputs[0].name, clip.outputs[0].shape = f"{source.name}_clipped", integers.shape
        clip.outputs[0].type = integers.type
        uses = [use for use in integers.uses() if use.node is not clip]
        model.graph.insert_after(node, clip)
        for use in uses:
            use.node.replace_input_with(use.idx, clip.outputs[0])
