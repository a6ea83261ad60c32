"""How an export quantizes weights of few bits: by what, and on which images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgeq.calibration.quantize_layers import quantize_layers
from edgeq.exporting.jobs import PlannedWeight, QuantizedLayers
from edgeq.quantizers.recipes import BY_INPUTS, WITHOUT_INPUTS, get_recipe

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from edgeq.calibration.source import CalibrationSource
    from edgeq.exporting.onnx.writer import FloatModel
    from edgeq.exporting.options import ExportOptions

MOST_IMAGES = 256
"""The most that weights are quantized on: 2,000 made no difference to a ViT."""


def quantize_weights(
    model: FloatModel,
    calibration: CalibrationSource | None,
    options: ExportOptions,
    threads: int | None,
    graph: ir.Model,
    planned: Mapping[str, PlannedWeight],
) -> QuantizedLayers:
    """Returns planned weights in few bits, by `weight_method`, or what suits the images that there are.

    Args:
        model: The float model.
        calibration: Where images are, if anywhere.
        options: Names the method.
        threads: CPU threads.
        graph: The graph that the plan is for.
        planned: Layer -> its weight.
    """
    images = calibration if calibration is not None and calibration.has_images else None
    method = options.weight_method or (WITHOUT_INPUTS if images is None else BY_INPUTS)
    feeds = []
    if images is not None and get_recipe(method).reads_inputs:
        feeds = calibration_feeds(model, images, min(images.num, MOST_IMAGES))
    return quantize_layers(graph, planned, method=method, feeds=feeds, threads=threads)


def calibration_feeds(model: FloatModel, calibration: CalibrationSource, num: int) -> list[dict[str, np.ndarray]]:
    """Returns images to calibrate on, each as the graph of a model takes it."""
    feed = model.input
    return [{feed.name: feed.encode(array)} for array, _ in calibration.inputs(model.preprocessing, num)]
