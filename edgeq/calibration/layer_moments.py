"""Second moments of what linear layers read, measured on the inputs that a calibration keeps with its ranges."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeq.calibration.layer_inputs import moment_requests
from edgeq.calibration.statistics import NonFiniteError, Request
from edgeq.calibration.statistics.second_moments import SecondMoments
from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.planning.plan import weight_axis
from edgeq.quantizers.error_feedback import drawn_to_mean
from edgeq.runtimes.observer import ActivationObserver

if TYPE_CHECKING:
    import onnx_ir as ir

_BYTES = 1 << 29
"""Matrices that are gathered at a time, at most."""


def layer_moments(
    graph: ir.Model, layers: Collection[str], feeds: Sequence[Mapping[str, np.ndarray]], threads: int | None = None
) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    """Yields name and the second moments per row `(K, K)`, positive definite, of Gemm and MatMul layers.

    Layers whose weight does not multiply the last axis of what they read are left out, and so are those that read NaN
    or infinite values.

    Args:
        graph: The float graph.
        layers: Names of its layers.
        feeds: Inputs of the graph, each by name, all of one shape.
        threads: CPU threads of the engine.

    Raises:
        EngineError: the engine cannot run the graph.
    """
    requests = {name: request for name, request in moment_requests(graph).items() if name in layers}
    for part in _parts(graph, requests) if feeds else ():
        gathered = {request: SecondMoments() for request in part.values()}
        observer = ActivationObserver(graph, [request.tensor for request in gathered], threads)
        for feed in feeds:
            arrays = observer.observe(feed)
            for request in list(gathered):
                try:
                    gathered[request].update(arrays[request.tensor])
                except NonFiniteError:
                    del gathered[request]
        drawn = {request: drawn_to_mean(each.matrices[0], each.rows) for request, each in gathered.items()}
        yield from ((name, drawn[request]) for name, request in part.items() if request in drawn)


def _parts(graph: ir.Model, requests: Mapping[str, Request]) -> Iterator[dict[str, Request]]:
    """Yields the requests in parts whose matrices fit into memory together; equal ones are in one part."""
    bytes_of = {}
    for node in graph.graph:
        if str(node.name) in requests and (weight := weight_of(node)) is not None:
            bytes_of[str(node.name)] = 8 * weight.shape[1 - (weight_axis(node, weight) or 0)] ** 2
    by_request: dict[Request, list[str]] = {}
    for name, request in requests.items():
        by_request.setdefault(request, []).append(name)
    part: dict[str, Request] = {}
    size = 0
    for request, names in by_request.items():
        added = bytes_of[names[0]]
        if part and size + added > _BYTES:
            yield part
            part, size = {}, 0
        part |= dict.fromkeys(names, request)
        size += added
    if part:
        yield part
