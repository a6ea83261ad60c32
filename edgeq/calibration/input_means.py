"""The mean of every channel that layers read, on the inputs that a calibration keeps with its ranges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from edgeq.calibrators.kept_samples import KeptSample
from edgeq.exporting.graphs.data_flow import image_values
from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.graphs.masks import infinite_values
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.runtimes.observer import ActivationObserver

_BYTES = 1 << 28
"""Activations that are held at a time."""

_FLOAT_BYTES = 4


def input_means(model: FloatModel, samples: Sequence[KeptSample], threads: int | None = None) -> dict[str, np.ndarray]:
    """Returns tensor name -> the mean of each channel, float64 `(C,)`, of all that convolutions and linear layers read.

    Eight inputs are enough: means vary little between images, and what they correct is small. Without inputs there are
    none.

    Args:
        model: The float model.
        samples: Inputs that were kept with its ranges.
        threads: CPU threads of the engine.

    Raises:
        EngineError: the engine cannot run the graph.
        InputError: a kept input is damaged.
    """
    if not samples:
        return {}
    feed, axes = model.input, _channel_axes(model)
    arrays = [feed.encode(sample.array()) for sample in samples]
    means: dict[str, np.ndarray] = {}
    for names in _parts(model, list(axes)):
        observer = ActivationObserver(model.graph, names, threads)
        for array in arrays:
            for name, values in observer.observe({feed.name: array}).items():
                others = tuple(axis for axis in range(values.ndim) if axis != axes[name] % values.ndim)
                part = values.mean(axis=others, dtype=np.float64) / len(arrays)
                means[name] = means[name] + part if name in means else part
    return means


def _channel_axes(model: FloatModel) -> dict[str, int]:
    """Returns the tensors that convolutions and linear layers read, each with its axis of channels."""
    from_image, masked = image_values(model.graph), infinite_values(model.graph)
    found: dict[str, int] = {}
    for node in model.graph.graph:
        source = node.inputs[0] if node.inputs else None
        if node.op_type in ("Conv", "Gemm", "MatMul") and weight_of(node) is not None and source in from_image - masked:
            assert source is not None  # noqa: S101 - it is one of them
            found.setdefault(str(source.name), 1 if node.op_type == "Conv" else -1)
    return found


def _parts(model: FloatModel, names: Sequence[str]) -> Iterator[list[str]]:
    """Yields the tensors in parts that fit into memory together."""
    values = [*model.graph.graph.inputs, *(output for node in model.graph.graph for output in node.outputs)]
    sizes = {
        str(value.name): _FLOAT_BYTES * math.prod(size if isinstance(size, int) else 1 for size in value.shape or ())
        for value in values
    }
    part: list[str] = []
    for name in names:
        if part and sum(sizes[each] for each in (*part, name)) > _BYTES:
            yield part
            part = []
        part.append(name)
    if part:
        yield part
