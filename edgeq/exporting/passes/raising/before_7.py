"""Opsets 1 to 6, which Caffe2, CNTK and PyTorch before 1.0 wrote. Exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.exporting.passes.node_builder import NodeBuilder, Rule, attribute, dims, known, set_attribute, set_input

if TYPE_CHECKING:
    import onnx_ir as ir

_BROADCASTING = ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")
_TO_CHANNELS = 1


def _broadcast(node: ir.Node, make: NodeBuilder) -> None:
    """The second operand began at `axis` of the first; since opset 7 the last axes meet."""
    axis = attribute(node, "axis")
    if node.outputs[0].shape is None and node.inputs[0] is not None:
        node.outputs[0].shape = node.inputs[0].shape  # inferred by nobody in these opsets, and asked for by the next
    if attribute(node, "broadcast", 0) and axis is not None:
        set_input(node, 1, _aligned(node, axis, make))
    set_attribute(node, "axis", None)
    set_attribute(node, "broadcast", None)


def _slope(node: ir.Node, make: NodeBuilder) -> None:
    slope = dims(node.inputs[1])
    if slope is not None and slope != (1,) and len(slope) == 1:
        set_input(node, 1, _aligned(node, _TO_CHANNELS, make))


def _aligned(node: ir.Node, axis: int, make: NodeBuilder) -> ir.Value | None:
    first, second = dims(node.inputs[0]), dims(node.inputs[1])
    if first is None or second is None:
        make.refuse(
            "of opset 6 or older broadcasts to a tensor of unknown rank; export the model again, opset 7 or newer"
        )
    behind = len(first) - axis % len(first) - len(second)
    if behind <= 0:
        return node.inputs[1]
    return make("Unsqueeze", node.inputs[1], axes=list(range(len(second), len(second) + behind)))


def _shape(node: ir.Node, make: NodeBuilder) -> None:
    set_input(node, 1, make.ints(*attribute(node, "shape")))
    set_attribute(node, "shape", None)


def _cast(node: ir.Node, make: NodeBuilder) -> None:
    import onnx_ir as ir

    to = attribute(node, "to")
    set_attribute(node, "to", int(ir.DataType[to]) if isinstance(to, str) else to)


def _concat(node: ir.Node, make: NodeBuilder) -> None:
    set_attribute(node, "axis", attribute(node, "axis", 1))


def _split(node: ir.Node, make: NodeBuilder) -> None:
    if len(node.inputs) > 1:
        lengths = known(node.inputs[1])
        if lengths is None:
            make.refuse("of opset 1 has computed lengths; export the model again with a newer opset")
        node.resize_inputs(1)
        set_attribute(node, "split", lengths.reshape(-1).tolist())


def _pad(node: ir.Node, make: NodeBuilder) -> None:
    set_attribute(node, "pads", attribute(node, "paddings"))
    set_attribute(node, "paddings", None)


def _upsample(node: ir.Node, make: NodeBuilder) -> None:
    scales = [1.0, 1.0, attribute(node, "height_scale"), attribute(node, "width_scale")]
    mode = attribute(node, "mode", "nearest")
    set_attribute(node, "scales", scales)
    set_attribute(node, "mode", "linear" if mode == "bilinear" else mode)
    set_attribute(node, "height_scale", None)
    set_attribute(node, "width_scale", None)


def _selu(node: ir.Node, make: NodeBuilder) -> None:
    set_attribute(node, "alpha", attribute(node, "alpha", 1.6732))
    set_attribute(node, "gamma", attribute(node, "gamma", 1.0507))


def _without(*names: str) -> Rule:
    """Returns the rule that takes attributes away which decide nothing outside training."""

    def drop(node: ir.Node, make: NodeBuilder) -> None:
        for name in names:
            set_attribute(node, name, None)

    return drop


BEFORE_7: dict[tuple[str, int], Rule] = {
    **{(name, 7): _broadcast for name in _BROADCASTING},
    ("BatchNormalization", 7): _without("is_test"),
    ("Cast", 6): _cast,
    ("Concat", 4): _concat,
    ("Dropout", 7): _without("is_test"),
    **{(name, 7): _without("output_sequence") for name in ("GRU", "LSTM", "RNN")},
    ("Gemm", 7): _without("broadcast"),
    ("PRelu", 7): _slope,
    ("Pad", 2): _pad,
    ("Reshape", 5): _shape,
    ("Selu", 6): _selu,
    ("Split", 2): _split,
    ("Upsample", 7): _upsample,
}
