"""Which statistics describe what the layers of a graph read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.calibration.statistics import Request
from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.graphs.linear import linear_of

if TYPE_CHECKING:
    import onnx_ir as ir


def moment_requests(model: ir.Model) -> dict[str, Request]:
    """Returns layer's name -> the second moments of its input, for linear layers and 2-D convolutions.

    Layers without a constant weight are left out, and convolutions that leave their padding to the engine (`auto_pad`).
    Layers that read the same values in the same way share a request.

    Args:
        model: A cleaned graph.
    """
    requests = {}
    for node in model.graph:
        request = _of_convolution(node) if node.op_type == "Conv" else _of_linear(node)
        if request is not None:
            requests[str(node.name)] = request
    return requests


def _of_linear(node: ir.Node) -> Request | None:
    layer = linear_of(node)
    if layer is None or layer.node is not node or node.inputs[0] is None:
        return None
    return Request.of(str(node.inputs[0].name), "second_moments")


def _of_convolution(node: ir.Node) -> Request | None:
    weight, attributes = weight_of(node), node.attributes
    automatic = "auto_pad" in attributes and attributes["auto_pad"].as_string() not in ("NOTSET", "VALID")
    if weight is None or weight.ndim != 4 or automatic or node.inputs[0] is None:
        return None

    def integers(name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(attributes[name].as_ints()) if name in attributes else default

    return Request.of(
        str(node.inputs[0].name),
        "second_moments",
        kernel=tuple(weight.shape[2:]),
        strides=integers("strides", (1, 1)),
        pads=integers("pads", (0, 0, 0, 0)),
        dilations=integers("dilations", (1, 1)),
        groups=attributes["group"].as_int() if "group" in attributes else 1,
    )
