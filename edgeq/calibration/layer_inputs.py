"""Which statistics describe what the layers of a graph read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeq.calibration.statistics import Request, Statistic
from edgeq.calibration.statistics.channel_extremes import ChannelExtremesStatistic
from edgeq.exporting.graphs.data_flow import image_values
from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.graphs.linear import linear_of
from edgeq.exporting.graphs.masks import infinite_values
from edgeq.exporting.saturation.kernels import paired_weight

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


def extreme_requests(model: ir.Model) -> list[Request]:
    """Returns requests for the channels' extremes of what layers read whose sums saturate on some x86 CPUs.

    Args:
        model: A cleaned graph.
    """
    from_image, masked = image_values(model), infinite_values(model)
    found: dict[str, Request] = {}
    for node in model.graph:
        source, weight = node.inputs[0] if node.inputs else None, weight_of(node)
        if weight is None or source is None or source not in from_image or source in masked:
            continue
        if paired_weight(node, weight.shape) is not None:
            axis = 1 if node.op_type in ("Conv", "ConvTranspose") else -1
            found.setdefault(str(source.name), Request.of(str(source.name), "channel_extremes", axis=axis))
    return list(found.values())


def channel_maxima(*gathered: Mapping[Request, Statistic]) -> dict[str, tuple[float, ...]]:
    """Returns tensor name -> the largest value of each channel in all that was gathered; what saw no values is left."""
    found: dict[str, np.ndarray] = {}
    for request, statistic in (each for part in gathered for each in part.items()):
        if isinstance(statistic, ChannelExtremesStatistic) and statistic.seen:
            maximum = statistic.extremes.maximum
            found[request.tensor] = np.maximum(found.get(request.tensor, maximum), maximum)
    return {name: tuple(maxima.tolist()) for name, maxima in found.items()}


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
