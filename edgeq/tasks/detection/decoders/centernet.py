"""CenterNet: peaks of a heatmap ("Objects as Points", Zhou et al., 2019)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.candidates import sigmoid
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.detection.detections import Detections

_ROLES = {"heatmap": "hm", "size": "wh", "offset": "reg"}
_OPTIONS = {"stride": 4, "top_k": 100, "score_threshold": 0.0}

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the best `top_k` peaks over all classes, best first; there is no non-maximum suppression.

    A peak is a cell that no other cell of its 3x3 neighbourhood exceeds. Its centre is `(cell + offset) * stride`, its
    size `size * stride`.

    Args:
        outputs: Roles `heatmap` (logits, `(1, classes, H, W)`), `size` and `offset` (`(1, 2, H, W)`, in cells).
        post: Options `stride`, `top_k`, `score_threshold`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing or has another shape.
    """
    options = pick_options(post, _OPTIONS)
    maps = pick_outputs(outputs, post, _ROLES)
    _check_shapes(maps, post)
    heatmap = maps["heatmap"][0]
    peaks = _best_peaks(heatmap, int(options["top_k"]))
    scores = sigmoid(heatmap[tuple(peaks)])
    kept = scores >= options["score_threshold"]
    scores = scores[kept]
    classes, rows, columns = peaks[:, kept]
    centres = np.stack([columns, rows], axis=1) + maps["offset"][0, :, rows, columns]
    half_sizes = np.maximum(maps["size"][0, :, rows, columns], 0) / 2
    boxes = np.concatenate([centres - half_sizes, centres + half_sizes], axis=1) * options["stride"]
    return Detections(placement.to_image(boxes), scores.astype(np.float32), classes)


def _check_shapes(maps: Mapping[str, FloatArray], post: Postprocessing) -> None:
    heatmap, size, offset = (maps[role].shape for role in _ROLES)
    if not (len(heatmap) == 4 and heatmap[0] == 1 and size == offset == (1, 2, *heatmap[2:])):
        raise ModelError(
            f"decoder {post.decoder}: wanted a heatmap (1, classes, H, W), size and offset (1, 2, H, W); found "
            f"{describe(maps)}"
        )


def _best_peaks(heatmap: FloatArray, count: int) -> IntArray:
    """Returns class, row and column `(3, N)` of the `count` highest peaks, best first.

    The sigmoid rises everywhere, so logits have the same peaks in the same order; only the best ones are worth it.
    """
    padded = np.pad(heatmap, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    across = np.maximum(np.maximum(padded[:, :, :-2], padded[:, :, 1:-1]), padded[:, :, 2:])
    neighbourhood = np.maximum(np.maximum(across[:, :-2], across[:, 1:-1]), across[:, 2:])
    cells = np.flatnonzero(heatmap >= neighbourhood)
    values = heatmap.ravel()[cells]
    if len(values) > count:
        high = values >= np.partition(values, -count)[-count]
        cells, values = cells[high], values[high]
    best = cells[np.argsort(-values, kind="stable")[:count]]
    return np.stack(np.unravel_index(best, heatmap.shape))
