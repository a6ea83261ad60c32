"""Decoders of keypoints: YOLO-pose, torchvision's Keypoint R-CNN, heatmaps of one person, MoveNet."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.end2end import END_TO_END, chosen_rows
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.detection.nms import suppress_overlaps
from edgeq.tasks.keypoints.poses import Poses

_YOLO_OPTIONS = {"score_threshold": 0.001, "iou_threshold": 0.7, "top_k": 20, "classes": 1, "numbers": 3}
_RCNN_ROLES = {"boxes": "boxes", "scores": "scores", "labels": "labels", "keypoints": "keypoints"}
_RCNN_OPTIONS = {"score_threshold": 0.05, "offset": 1, "top_k": 20}


def yolo_pose(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Poses:
    """Returns the best `top_k` objects after non-maximum suppression, best first.

    Args:
        outputs: Role `predictions`: `(1, 4 + C + 3 K, N)`: centre, width and height in the input's pixels, C class
            probabilities, and x, y and visibility of each keypoint ("YOLO-Pose", Maji et al., 2022, in the form that
            YOLOv8 exports). Of an end-to-end model `(1, N, 6 + 3 K)`, N being the larger: a box, its score and class,
            and keypoints.
        post: Options `score_threshold`, `iou_threshold`, `top_k`; `classes`, C; `numbers` of a keypoint, 3, or 2 if it
            has no visibility.
        placement: Where the image lies in the input.

    Raises:
        ModelError: the output is missing, of another shape, or not finite.
        InputError: `post` has an unknown role or option.
    """
    options = pick_options(post, _YOLO_OPTIONS)
    predictions = pick_outputs(outputs, post, {"predictions": "output0"})["predictions"]
    first, numbers = 4 + int(options["classes"]), int(options["numbers"])
    _, rows, columns = predictions.shape if predictions.ndim == 3 and len(predictions) == 1 else (0, 0, 0)
    if numbers in (2, 3) and rows > columns > END_TO_END and (columns - END_TO_END) % numbers == 0:
        _require_finite(predictions)
        _, scores, classes, points = chosen_rows(predictions[0], options)
        return _yolo_poses(scores, classes, points, numbers, placement)
    if numbers not in (2, 3) or rows <= first or (rows - first) % numbers:
        raise ModelError(
            f"decoder {post.decoder}: wanted predictions (1, {first} + {numbers} K, N), found {describe(outputs)}"
        )
    _require_finite(predictions)
    found = predictions[0].T
    found = found[found[:, 4:first].max(axis=1) >= options["score_threshold"]]
    boxes = np.concatenate([found[:, :2] - found[:, 2:4] / 2, found[:, :2] + found[:, 2:4] / 2], axis=1)
    scores, classes = found[:, 4:first].max(axis=1), found[:, 4:first].argmax(axis=1)
    kept = suppress_overlaps(boxes, scores, classes, options["iou_threshold"], int(options["top_k"]))
    return _yolo_poses(scores[kept], classes[kept], found[kept, first:], numbers, placement)


def _yolo_poses(
    scores: NDArray[np.float32],
    classes: NDArray[np.int64],
    values: NDArray[np.float32],
    numbers: int,
    placement: Placement,
) -> Poses:
    """Returns poses of keypoints `(N, K * numbers)`; those without a visibility are all visible."""
    points = values.reshape(len(values), values.shape[1] // numbers, numbers)
    seen = points[:, :, 2] if numbers > 2 else np.ones(points.shape[:2], np.float32)
    return _poses(scores, classes, points[:, :, :2], seen, placement)


def keypoint_rcnn(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Poses:
    """Returns the best `top_k` objects above the threshold, best first.

    Args:
        outputs: What torchvision's Keypoint R-CNN gives: roles `boxes` `(N, 4)`, `scores` `(N,)`, `labels` `(N,)` and
            `keypoints` `(N, K, 3)`, x and y in the input's pixels, and a third number that says nothing.
        post: Options `score_threshold`; `offset`, the label of the first class; `top_k`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing, of another shape, or not finite.
        InputError: `post` has an unknown role or option.
    """
    options = pick_options(post, _RCNN_OPTIONS)
    arrays = pick_outputs(outputs, post, _RCNN_ROLES)
    scores, labels, points = arrays["scores"].ravel(), arrays["labels"].ravel(), arrays["keypoints"]
    if points.ndim != 3 or points.shape[2] != 3 or not len(scores) == len(labels) == len(points):
        raise ModelError(
            f"decoder {post.decoder}: wanted scores (N,), labels (N,) and keypoints (N, K, 3), found {describe(arrays)}"
        )
    _require_finite(scores, points)
    classes = np.rint(labels).astype(np.int64) - int(options["offset"])
    order = np.argsort(-scores, kind="stable")
    order = order[(scores[order] > options["score_threshold"]) & (classes[order] >= 0)][: int(options["top_k"])]
    seen = np.ones(points.shape[:2], np.float32)
    return _poses(scores[order], classes[order], points[order, :, :2], seen[order], placement)


def heatmaps(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Poses:
    """Returns the one person that the image shows: each keypoint is the cell of the highest value of its map.

    It is moved by a quarter of a cell towards the higher neighbour, except at the map's edges ("Simple Baselines for
    Human Pose Estimation and Tracking", Xiao et al., 2018). A cell lies at its index times the stride.

    Args:
        outputs: Role `heatmaps`: `(1, K, h, w)`, which cover the input.
        post: Takes no options.
        placement: Where the image lies in the input.

    Raises:
        ModelError: the output is missing, of another shape, or not finite.
        InputError: `post` has an unknown role or an option.
    """
    pick_options(post, {})
    maps = pick_outputs(outputs, post, {"heatmaps": "heatmaps"})["heatmaps"]
    if maps.ndim != 4 or len(maps) != 1 or not maps.size:
        raise ModelError(f"decoder {post.decoder}: wanted heatmaps (1, K, h, w), found {describe(outputs)}")
    _require_finite(maps)
    _, count, height, width = maps.shape
    places = maps.reshape(count, -1).argmax(axis=1)
    rows, columns = np.divmod(places, width)
    cells = np.stack([columns, rows], axis=1).astype(np.float64)
    inner = (columns > 1) & (columns < width - 1) & (rows > 1) & (rows < height - 1)
    number, row, column = np.flatnonzero(inner), rows[inner], columns[inner]
    planes = maps[0]
    slopes = [
        planes[number, row, column + 1] - planes[number, row, column - 1],
        planes[number, row + 1, column] - planes[number, row - 1, column],
    ]
    cells[inner] += np.sign(np.stack(slopes, axis=1)) / 4
    strides = np.array([placement.input_width_px / width, placement.input_height_px / height])
    best = np.clip(planes.reshape(count, -1).max(axis=1), 0, 1)
    return _poses(best.mean(keepdims=True), np.zeros(1, np.int64), (cells * strides)[None], best[None], placement)


def movenet(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Poses:
    """Returns the one person that MoveNet finds; its score is the mean of the keypoints'.

    Args:
        outputs: Role `keypoints`: `(1, 1, K, 3)`: y and x in parts of the input's sides, and score.
        post: Takes no options.
        placement: Where the image lies in the input.

    Raises:
        ModelError: the output is missing, of another shape, or not finite.
        InputError: `post` has an unknown role or an option.
    """
    pick_options(post, {})
    found = pick_outputs(outputs, post, {"keypoints": "keypoints"})["keypoints"]
    if found.size % 3 or 3 not in found.shape[1:] or found.ndim != 4 or found.shape[0] != 1:
        raise ModelError(f"decoder {post.decoder}: wanted keypoints (1, 1, K, 3), found {describe(outputs)}")
    _require_finite(found)
    # A file of channels last states (1, 1, K, 3); read as an image it comes as (1, 3, 1, K).
    rows = found.reshape(-1, 3) if found.shape[3] == 3 else found.reshape(3, -1).T
    points = rows[:, 1::-1] * np.array([placement.input_width_px, placement.input_height_px])
    scores = np.clip(rows[:, 2], 0, 1)
    return _poses(scores.mean(keepdims=True), np.zeros(1, np.int64), points[None], scores[None], placement)


def _require_finite(*arrays: NDArray[np.float32]) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise ModelError("computed keypoints or scores that are not finite numbers; it is broken")


def _poses(
    scores: NDArray[np.floating],
    classes: NDArray[np.int64],
    points: NDArray[np.floating],
    seen: NDArray[np.floating],
    placement: Placement,
) -> Poses:
    """Returns objects whose keypoints `(N, K, 2)` are in the input's pixels."""
    placed = np.concatenate([placement.points_to_image(points), np.clip(seen, 0, 1)[:, :, None]], axis=2)
    return Poses(np.clip(scores, 0, 1).astype(np.float32), classes, placed.astype(np.float32))
