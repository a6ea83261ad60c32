"""Rewrites ConvTranspose as Conv + DepthToSpace for engines that have no INT8 kernel for it. Exact.

With a kernel of 4, stride 2 and padding 1, an even output row 2m is `x[m-1] w[3] + x[m] w[1]` and an odd one 2m+1 is
`x[m] w[2] + x[m+1] w[0]`: four 2x2 convolutions, one for each parity of row and column, over the map padded by one.
Their outputs, interleaved by DepthToSpace and cut by one on each side, are the output of the ConvTranspose ("Is the
deconvolution layer the same as a convolutional layer?", Shi et al., 2016). The number of multiplications is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant, drop_unused, new_initializer, walk, weight_of
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir


def rewrite_conv_transpose(model: ir.Model) -> RewriteReport:
    """Rewrites every 4x4, stride 2, padding 1 ConvTranspose, in place, and returns which.

    A ReLU behind it moves before the DepthToSpace, so that engines fuse it into the Conv. Names of tensors that remain
    stay, so that their ranges hold.

    Args:
        model: A cleaned graph.
    """
    done = []
    for node in walk(model):
        weight = weight_of(node)
        if weight is not None and can_rewrite(node):
            _rewrite(model, node, weight)
            done.append(node.name or "?")
    drop_unused(model)
    return RewriteReport(tuple(done))


def can_rewrite(node: ir.Node) -> bool:
    """Returns whether a node is a ConvTranspose of the size that is rewritten."""
    weight = weight_of(node)
    return node.op_type == "ConvTranspose" and weight is not None and _fits(node, weight)


def _fits(node: ir.Node, weight: np.ndarray) -> bool:
    def ints(name: str, default: list[int]) -> list[int]:
        return list(node.attributes[name].as_ints()) if name in node.attributes else default

    plain = not any(name in node.attributes for name in ("output_shape",))
    automatic = "auto_pad" in node.attributes and node.attributes["auto_pad"].as_string() != "NOTSET"
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    return (
        plain
        and not automatic
        and group == 1
        and weight.shape[2:] == (4, 4)
        and ints("strides", [1, 1]) == [2, 2]
        and ints("pads", [0] * 4) == [1] * 4
        and ints("dilations", [1, 1]) == [1, 1]
        and not any(ints("output_padding", [0, 0]))
        and (len(node.inputs) < 3 or constant(node.inputs[2]) is not None)
    )


def phase_weight(weight: np.ndarray) -> np.ndarray:
    """Returns the Conv weight `(4 * out, in, 2, 2)` of a ConvTranspose weight `(in, out, 4, 4)`.

    Output channel `(2 * row + column) * out + c` holds the sub-pixel `(row, column)` that DepthToSpace puts there.
    """
    taps = ((2, 0), (3, 1))
    phases = [weight[:, :, rows, :][:, :, :, columns].transpose(1, 0, 2, 3) for rows in taps for columns in taps]
    return np.ascontiguousarray(np.concatenate(phases))


def _rewrite(model: ir.Model, node: ir.Node, weight: np.ndarray) -> None:
    import onnx_ir as ir

    out = weight.shape[1]
    inputs = [node.inputs[0], new_initializer(model, f"{node.name}.phase_weight", phase_weight(weight))]
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None:
        inputs.append(new_initializer(model, f"{node.name}.phase_bias", np.tile(bias, 4)))
    conv = ir.node("Conv", inputs, {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}, name=node.name)
    new_nodes, value, result = [conv], conv.outputs[0], node.outputs[0]
    uses = list(result.uses())
    if len(uses) == 1 and uses[0].node.op_type == "Relu" and not result.is_graph_output():
        relu = ir.node("Relu", [value], name=uses[0].node.name)
        new_nodes.append(relu)
        value, result = relu.outputs[0], uses[0].node.outputs[0]
    interleave = ir.node("DepthToSpace", [value], {"blocksize": 2, "mode": "DCR"}, name=f"{node.name}_interleave")
    bounds = [
        new_initializer(model, f"{node.name}_{name}", np.array(numbers, np.int64))
        for name, numbers in (("starts", [1, 1]), ("ends", [-1, -1]), ("axes", [2, 3]))
    ]
    crop = ir.node("Slice", [interleave.outputs[0], *bounds], name=f"{node.name}_crop")
    new_nodes += [interleave, crop]
    source = node.inputs[0]
    _name_values(new_nodes, source, out, result)
    old_nodes = [node] if result is node.outputs[0] else [node, uses[0].node]
    name = result.name
    model.graph.insert_before(node, new_nodes)
    result.replace_all_uses_with(crop.outputs[0], replace_graph_outputs=True)
    model.graph.remove(old_nodes, safe=True)
    crop.outputs[0].name = name


def _name_values(nodes: list[ir.Node], source: ir.Value | None, out: int, result: ir.Value) -> None:
    """Gives the new values names, types and shapes; the last one takes over the old result's shape."""
    import onnx_ir as ir

    for node in nodes[:-1]:
        node.outputs[0].name = f"{node.name}_phases" if node.op_type != "DepthToSpace" else f"{node.name}_output"
    for node in nodes:
        node.outputs[0].type = result.type
    nodes[-1].outputs[0].shape = result.shape
    if source is None or source.shape is None:
        return
    batch, _, height, width = source.shape
    if isinstance(height, int) and isinstance(width, int):
        for node in nodes[:-1]:
            interleaved = node.op_type == "DepthToSpace"
            dims = (
                [batch, out, 2 * height + 2, 2 * width + 2] if interleaved else [batch, 4 * out, height + 1, width + 1]
            )
            node.outputs[0].shape = ir.Shape(dims)
