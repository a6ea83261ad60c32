"""The extremes of every channel of a float graph's tensors over images, for `edgeq.exporting.passes.rescale`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeq.calibration.collector import Collector
from edgeq.calibration.observed_model import ObservedOnnxModel
from edgeq.calibration.statistics import Request
from edgeq.calibration.statistics.channel_extremes import ChannelExtremesStatistic
from edgeq.errors import InputError
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.passes.rescale import ChannelExtremes
from edgeq.inputs import Item, UnreadableImages, items_of


def channel_statistics(
    model: FloatModel,
    names: Sequence[str],
    images: Sequence[Path] | Sequence[Item],
    *,
    axis: int = -1,
    num: int = 128,
    threads: int | None = None,
) -> dict[str, ChannelExtremes]:
    """Returns tensor name -> extremes of its channels.

    Args:
        model: The float model.
        names: The tensors; none is nothing to do.
        images: Image files, or items of `edgeq.inputs.items_of`; `num` of them are taken, evenly spaced. Copies of
            one image are counted once.
        axis: Where the tensors have their channels: last behind a LayerNorm, 1 behind a convolution.
        num: The most images to take. A maximum is known sooner than a histogram.
        threads: CPU threads of the engine.

    Raises:
        InputError: there are no images, or more than 5 % of them cannot be read.
        ModelError: an activation is NaN or infinite.
        EngineError: the engine cannot run the graph.
    """
    chosen = list(items_of(images, num, len(model.preprocessing.input_shape)))
    if not names:
        return {}
    requests = [Request.of(name, "channel_extremes", axis=axis) for name in names]
    collector = Collector(ObservedOnnxModel(model, list(names), threads), None, requests)
    collector.run(chosen, UnreadableImages(len(chosen)).add, label="channels")
    if not collector.done:
        raise InputError("no image could be used for the channels' statistics; give at least one readable image")
    return {
        request.tensor: statistic.extremes
        for request, statistic in collector.statistics().items()
        if isinstance(statistic, ChannelExtremesStatistic)
    }
