"""YuNet: faces with five landmarks, one per cell of three grids ("YuNet", Wu et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.detection.nms import suppress_overlaps
from edgeq.tasks.keypoints.poses import Poses

_STRIDES = (8, 16, 32)
_LENGTHS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
_ROLES = {f"{kind}_{stride}": f"{kind}_{stride}" for kind in _LENGTHS for stride in _STRIDES}
_OPTIONS = {"score_threshold": 0.02, "iou_threshold": 0.3, "top_k": 20}


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Poses:
    """Returns the landmarks of the best `top_k` faces after non-maximum suppression, best first.

    The landmarks are those of the right eye, the left eye, the tip of the nose, and the right and left corner of the
    mouth. A face's score is the root of its class probability times its objectness.

    Args:
        outputs: For each stride of 8, 16 and 32 the roles `cls_8` `(1, cells, 1)`, `obj_8` `(1, cells, 1)`, `bbox_8`
            `(1, cells, 4)`, centre in cells and logarithm of the size, and `kps_8` `(1, cells, 10)`, x and y in cells.
        post: Options `score_threshold`, `iou_threshold`, `top_k`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing, of another shape, or not finite.
        InputError: `post` has an unknown role or option.
    """
    options = pick_options(post, _OPTIONS)
    arrays = pick_outputs(outputs, post, _ROLES)
    for stride in _STRIDES:
        cells = (placement.input_height_px // stride) * (placement.input_width_px // stride)
        if any(arrays[f"{kind}_{stride}"].shape != (1, cells, length) for kind, length in _LENGTHS.items()):
            raise ModelError(
                f"decoder {post.decoder}: wanted cls, obj, bbox and kps of {cells} cells at stride {stride}, found "
                f"{describe(arrays)}"
            )
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ModelError("computed scores, boxes or landmarks that are not finite numbers; it is broken")
    scores, boxes, points = (
        np.concatenate(parts)
        for parts in zip(*(_of_stride(arrays, stride, placement) for stride in _STRIDES), strict=True)
    )
    above = np.flatnonzero(scores >= options["score_threshold"])
    classes = np.zeros(len(above), np.int64)
    kept = suppress_overlaps(boxes[above], scores[above], classes, options["iou_threshold"], int(options["top_k"]))
    chosen = above[kept]
    placed = placement.points_to_image(points[chosen])
    seen = np.broadcast_to(scores[chosen, None, None], (*placed.shape[:2], 1))
    return Poses(scores[chosen], classes[kept], np.concatenate([placed, seen], axis=2).astype(np.float32))


def _of_stride(
    arrays: Mapping[str, np.ndarray], stride: int, placement: Placement
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns scores `(cells,)`, boxes `(cells, 4)` and landmarks `(cells, 5, 2)` in the input's pixels."""
    classes, objects, boxes, points = (arrays[f"{kind}_{stride}"][0] for kind in _LENGTHS)
    rows, columns = np.divmod(np.arange(len(boxes)), placement.input_width_px // stride)
    cells = np.stack([columns, rows], axis=1)
    scores = np.sqrt(np.clip(classes[:, 0], 0, 1) * np.clip(objects[:, 0], 0, 1))
    centres = (boxes[:, :2] + cells) * stride
    with np.errstate(over="ignore"):  # a box beyond all bounds overlaps nothing
        halves = np.exp(boxes[:, 2:]) * stride / 2
    corners = np.concatenate([centres - halves, centres + halves], axis=1)
    return scores, corners, (points.reshape(-1, 5, 2) + cells[:, None]) * stride
