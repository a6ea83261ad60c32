"""Quantizes the weights of a graph layer by layer, each for what it reads behind the layers that are quantized already.

One walk over the calibration inputs computes every node once. Layers that read the same tensor are done together: its
second moments are gathered, AWQ's scales are searched for all of them, their weights are quantized, and the nodes
behind run with what the file will hold. The second moments of one tensor are in memory at a time. Each group is logged,
so that the same command continues after an interruption.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import edgeq
from edgeq.boundary import convert
from edgeq.calibration.layer_inputs import moment_requests
from edgeq.calibration.reconstruction.walk import Walk
from edgeq.calibration.statistics import NonFiniteError, Request, Statistic
from edgeq.calibration.statistics.second_moments import SecondMoments
from edgeq.exporting.graphs.digest import graph_digest
from edgeq.exporting.jobs import PlannedWeight, QuantizedLayers, ScaledInput
from edgeq.exporting.planning.low_bit import as_stored
from edgeq.packing import PackedArray, pack_array, unpack_array
from edgeq.progress import progress_bar
from edgeq.quantizers import ROUND, QuantizedWeight, get_weight_method
from edgeq.quantizers.channel_scales import scaled, search_channel_scales
from edgeq.quantizers.error_feedback import drawn_to_mean
from edgeq.quantizers.recipes import Recipe, get_recipe
from edgeq.quantizers.weight import joined
from edgeq.resume import JobLog

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.schemes import Scheme

_MAX_BYTES = 1 << 32


def quantize_layers(
    graph: ir.Model,
    planned: Mapping[str, PlannedWeight],
    *,
    method: str,
    feeds: Sequence[Mapping[str, np.ndarray]] = (),
    threads: int | None = None,
) -> QuantizedLayers:
    """Returns the planned weights in few bits.

    Args:
        graph: The float graph.
        planned: Layer -> its weight.
        method: A name of `edgeq.quantizers.recipes.RECIPES`.
        feeds: Inputs of the graph, each by name, all of one shape; methods that need no data read none.
        threads: CPU threads of ONNX Runtime.

    Raises:
        InputError: there is no such method, or it needs inputs and there are none.
        EngineError: ONNX Runtime cannot run the graph.
    """
    recipe = get_recipe(method)
    quantize = get_weight_method(recipe.method)
    if not recipe.reads_inputs:
        return QuantizedLayers({name: quantize(each.matrix, each.scheme, {}) for name, each in planned.items()})
    requests = {name: each for name, each in moment_requests(graph).items() if name in planned}
    groups: dict[Request, list[str]] = {}
    for name, request in requests.items():
        groups.setdefault(request, []).append(name)
    log = JobLog.in_cache("low_bit", _job(graph, planned, method, feeds))
    done = {tuple(part["layers"]): part for part in log.parts()}
    walk = Walk(graph, feeds, [request.tensor for request in groups if tuple(groups[request]) not in done], threads)
    nodes = {str(node.name): node for node in graph.graph if str(node.name) in requests}
    constants = {name: str(node.inputs[1].name) for name, node in nodes.items() if node.inputs[1] is not None}
    weights: dict[str, QuantizedWeight] = {}
    inputs: list[ScaledInput] = []
    with progress_bar(len(groups), "quantizing weights", unit="tensors") as advance:
        for request, layers in groups.items():
            members = {name: planned[name] for name in layers}
            if (part := done.get(tuple(layers))) is not None:
                found, scales = _read(part, members)
            else:
                moments = gather_moments(walk.reach([request.tensor])[request.tensor], request)
                found, scales = quantize_members(members, moments, recipe, request)
                log.add(_written(layers, found, scales))
            weights |= found
            if scales is not None:
                inputs.append(ScaledInput(request.tensor, tuple(layers), scales))
            for name, quantized in found.items():
                walk.replace(constants[name], as_stored(nodes[name], as_read(quantized, scales, request)))
            advance(1)
    left = [name for name in planned if name not in weights]
    weights |= {name: get_weight_method(ROUND)(*planned[name], {}) for name in left}
    log.remove()
    note = f"{len(planned) - len(left)} of {len(planned)} weights are rounded by what their layers read ({method})"
    return QuantizedLayers(weights, tuple(inputs), (note,))


def gather_moments(arrays: Sequence[np.ndarray], request: Request) -> npt.NDArray[np.float64] | None:
    """Returns the second moments of each group of channels, `(groups, K, K)`; `None` if values are not finite."""
    statistic = request.start()
    try:
        for array in arrays:
            statistic.update(array)
    except NonFiniteError:
        return None
    return moments_of(statistic)


def moments_of(statistic: Statistic) -> npt.NDArray[np.float64]:
    """Returns gathered second moments, `(groups, K, K)`, with what makes few rows usable."""
    assert isinstance(statistic, SecondMoments)  # noqa: S101 - what layers with weights of few bits are measured by
    return np.stack([drawn_to_mean(each, statistic.rows) for each in statistic.matrices])


def quantize_members(
    members: Mapping[str, PlannedWeight], moments: npt.NDArray[np.float64] | None, recipe: Recipe, request: Request
) -> tuple[dict[str, QuantizedWeight], np.ndarray | None]:
    """Returns the weights of layers that read one tensor, and what its channels are divided by."""
    if moments is None:
        return {name: get_weight_method(ROUND)(*each, {}) for name, each in members.items()}, None
    scales, quantize = None, get_weight_method(recipe.method)
    matrices = {name: each.matrix for name, each in members.items()}
    if recipe.scales_channels and len(moments) == 1:
        taps = _taps(request)
        schemes = [each.scheme for each in members.values()]
        scales = search_channel_scales(list(matrices.values()), schemes, moments[0], taps)
        spread = np.repeat(scales, taps)
        matrices = {name: scaled(matrix, members[name].scheme, spread) for name, matrix in matrices.items()}
        moments = moments / np.outer(spread, spread)
    found = {}
    for name, matrix in matrices.items():
        parts = [
            quantize(rows, members[name].scheme, {"second_moments": each})
            for rows, each in zip(np.split(matrix, len(moments)), moments, strict=True)
        ]
        found[name] = joined(parts)
    return found, scales if scales is not None and (scales != 1).any() else None


def as_read(quantized: QuantizedWeight, scales: np.ndarray | None, request: Request) -> np.ndarray:
    """Returns the matrix `(out, in)` that multiplies the tensor as the float graph has it."""
    matrix = quantized.dequantize()
    return matrix if scales is None else scaled(matrix, quantized.scheme, 1 / np.repeat(scales, _taps(request)))


def _taps(request: Request) -> int:
    """Returns how many inputs of a layer are one channel of the tensor that it reads."""
    return int(np.prod(dict(request.options).get("kernel", ())))


def _job(
    graph: ir.Model, planned: Mapping[str, PlannedWeight], method: str, feeds: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, Any]:
    """Returns all that the weights depend on, as JSON."""
    digest = hashlib.sha256()
    for feed in feeds:
        for name, array in sorted(feed.items()):
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return {
        "graph": graph_digest(graph),
        "layers": {name: repr(each.scheme) for name, each in planned.items()},
        "method": method,
        "inputs": digest.hexdigest(),
        "versions": {"edgeq": edgeq.__version__, "onnxruntime": version("onnxruntime")},
    }


def _written(layers: Sequence[str], found: Mapping[str, QuantizedWeight], scales: np.ndarray | None) -> dict[str, Any]:
    """Returns a finished group as JSON; integers of all kinds are kept as int32."""
    return {
        "layers": list(layers),
        "weights": [
            {
                "integers": pack_array(found[name].integers.astype(np.int32), level=1),
                "scale": pack_array(found[name].scale.astype(np.float32), level=1),
                "zero_point": pack_array(found[name].zero_point.astype(np.float32), level=1),
            }
            for name in layers
        ],
        "channels": None if scales is None else pack_array(scales, level=1),
    }


def _read(
    part: Mapping[str, Any], members: Mapping[str, PlannedWeight]
) -> tuple[dict[str, QuantizedWeight], np.ndarray | None]:
    """Returns the group that `_written` wrote."""

    def array(document: Any) -> np.ndarray:
        return unpack_array(
            convert(document, PackedArray, source="quantized weights", kind="a packed array"), _MAX_BYTES
        )

    found = {}
    for (name, planned), each in zip(members.items(), part["weights"], strict=True):
        kind = _zero_type(planned.scheme)
        integers = array(each["integers"]).astype(planned.scheme.dtype)
        found[name] = QuantizedWeight(
            integers, array(each["scale"]), array(each["zero_point"]).astype(kind), planned.scheme
        )
    return found, None if part["channels"] is None else array(part["channels"])


def _zero_type(scheme: Scheme) -> str:
    return "float32" if scheme.real_zero else scheme.dtype
