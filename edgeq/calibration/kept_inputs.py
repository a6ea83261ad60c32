"""The inputs that a calibration keeps with its ranges, for what is measured when a file is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from edgeq.calibrators.ranges import Ranges
    from edgeq.exporting.onnx.writer import FloatModel


def kept_feeds(model: FloatModel, ranges: Ranges | None) -> list[dict[str, np.ndarray]]:
    """Returns the inputs that were kept with the ranges of a model, each as its graph takes it; none without ranges."""
    feed = model.input
    return [] if ranges is None else [{feed.name: feed.encode(sample.array())} for sample in ranges.samples]
