"""The extremes of every channel of a float graph's tensors over images, for `edgeq.export.rescale`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edgeq.errors import InputError, ModelError
from edgeq.export.onnx_writer import FloatModel
from edgeq.export.rescale import ChannelExtremes, rescalable_tensors
from edgeq.images import UnreadableImages, read_image, work_ahead
from edgeq.preprocessing import preprocess
from edgeq.progress import progress_bar
from edgeq.runtimes.observer import ActivationObserver
from edgeq.verbs.calibrate import evenly_spaced

_AHEAD = 2


def channel_statistics(
    model: FloatModel, images: Sequence[Path], *, num: int = 128, threads: int | None = None
) -> dict[str, ChannelExtremes]:
    """Returns tensor name -> extremes of its channels, for all tensors whose channels can be rescaled.

    One image is in memory at a time, beside the two that are being decoded.

    Args:
        model: The float model.
        images: Image files; `num` of them are taken, evenly spaced.
        num: The most images to take. A maximum is known sooner than a histogram.
        threads: CPU threads of the engine.

    Raises:
        InputError: there are no images, or more than 5 % of them cannot be read.
        ModelError: an activation is NaN or infinite.
        EngineError: the engine cannot run the graph.
    """
    names = rescalable_tensors(model.graph)
    chosen = evenly_spaced(images, num)
    if not names:
        return {}
    observer = ActivationObserver(model.graph, names, threads)
    image_input = str(model.graph.graph.inputs[0].name)
    unreadable = UnreadableImages(len(chosen))
    found: dict[str, ChannelExtremes] = {}

    def prepare(path: Path) -> np.ndarray | InputError:
        try:
            return preprocess(read_image(path), model.preprocessing)[0]
        except InputError as error:
            return error

    with ThreadPoolExecutor(1) as reader, progress_bar(len(chosen), "channels") as advance:
        for path, image in zip(chosen, work_ahead(reader, chosen, prepare, _AHEAD), strict=True):
            advance(1)
            if isinstance(image, InputError):
                unreadable.add(path, image)
                continue
            for name, array in observer.observe({image_input: image}).items():
                found[name] = _merge(found.get(name), _extremes(name, array, path))
    if not found:
        raise InputError("no image could be used for the channels' statistics; give at least one readable image")
    return found


def _extremes(name: str, array: np.ndarray, path: Path) -> ChannelExtremes:
    rows = array.reshape(-1, array.shape[-1])
    extremes = ChannelExtremes(rows.min(axis=0), rows.max(axis=0))
    if not all(np.isfinite(each).all() for each in extremes):
        raise ModelError(
            f"tensor {name!r} holds NaN or infinite values for {path}; the model or its pre-processing is broken, "
            "check it in FP32 first"
        )
    return extremes


def _merge(one: ChannelExtremes | None, other: ChannelExtremes) -> ChannelExtremes:
    if one is None:
        return other
    return ChannelExtremes(np.minimum(one.minimum, other.minimum), np.maximum(one.maximum, other.maximum))
