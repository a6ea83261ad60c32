"""Heads whose authors' packages cannot be installed beside others, with random values, against their formulas."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.family_boxes.formulas import by_distances, cells, corners, pair, sigmoid, to_image
from benchmarks.family_boxes.pairs import Boxes, Opened, Pair, Setting, decode, package

_SIZE = (192, 256)
_CLASSES = 8
_ANCHORED = 3


def _draws(setting: Setting, preset: str) -> Iterator[tuple[Opened, np.random.Generator]]:
    """Yields each image with numbers of its own."""
    for number, each in enumerate(setting.opened(preset, _SIZE)):
        yield each, np.random.default_rng((setting.seed, number))


def _probabilities(rng: np.random.Generator, count: int, classes: int = _CLASSES) -> NDArray[np.float32]:
    return rng.beta(0.3, 1.5, (count, classes)).astype(np.float32)


def _centred(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Returns centre, width and height `(N, 4)` in the input's pixels."""
    centres, sizes = rng.uniform(0, _SIZE[::-1], (count, 2)), rng.uniform(10, 90, (count, 2))
    return np.concatenate([centres, sizes], axis=1).astype(np.float32)


def yolov5(setting: Setting) -> Iterator[Pair]:
    """YOLOv3, 5, 6 and 7 with decoded boxes: a class's score is its probability times the objectness."""
    count = _ANCHORED * len(cells(_SIZE, (8, 16, 32))[0])
    for each, rng in _draws(setting, "yolov5"):
        boxes, seen = _centred(rng, count), rng.uniform(0, 1, (count, 1)).astype(np.float32)
        scores = _probabilities(rng, count)
        outputs = {"output0": np.concatenate([boxes, seen, scores], axis=1)[None]}
        exact = boxes.astype(np.float64)
        yield pair(outputs, corners(exact[:, :2], exact[:, 2:]), scores.astype(np.float64) * seen, each, 0.6, 300)


def yolov5_maps(setting: Setting) -> Iterator[Pair]:
    """YOLOv5 before its boxes are decoded."""
    yield from _maps(setting, "yolov5_maps")


def yolov7_maps(setting: Setting) -> Iterator[Pair]:
    """YOLOv7 before its boxes are decoded."""
    yield from _maps(setting, "yolov7_maps")


def _maps(setting: Setting, preset: str) -> Iterator[Pair]:
    """Yields boxes `(2 xy - .5 + cell) * stride` and `(2 wh)^2 * anchor`."""
    for each, rng in _draws(setting, preset):
        options = each.post.options
        outputs, boxes, scores = {}, [], []
        for stride, sizes in zip(options["strides"], options["anchors"], strict=True):
            places, _ = cells(_SIZE, (stride,))
            shape = (_SIZE[0] // stride, _SIZE[1] // stride)
            level = rng.normal(-1, 1.5, (_ANCHORED, 5 + _CLASSES, *shape)).astype(np.float32)
            outputs[str(stride)] = level.reshape(1, -1, *shape)
            for number, anchor in enumerate(np.array(sizes, np.float64).reshape(-1, 2)):
                values = sigmoid(level[number].reshape(5 + _CLASSES, -1).T)
                boxes.append(corners((2 * values[:, :2] - 0.5 + places) * stride, (2 * values[:, 2:4]) ** 2 * anchor))
                scores.append(values[:, 5:] * values[:, 4:5])
        yield pair(outputs, np.concatenate(boxes), np.concatenate(scores), each, 0.6, 300)


def yolo_fastestv2(setting: Setting) -> Iterator[Pair]:
    """YOLO-FastestV2: three anchors of two strides, and probabilities that they share."""
    anchors = {16: (12.64, 19.39, 37.88, 51.48, 55.71, 138.31), 32: (126.91, 78.23, 131.57, 214.55, 279.92, 258.87)}
    for each, rng in _draws(setting, "yolo_fastestv2"):
        outputs, boxes, scores = {}, [], []
        for stride, sizes in anchors.items():
            places, _ = cells(_SIZE, (stride,))
            shape = (_SIZE[0] // stride, _SIZE[1] // stride)
            level = rng.uniform(0, 1, (15 + _CLASSES, *shape)).astype(np.float32)
            outputs[str(stride)] = level[None]
            values = level.reshape(len(level), -1).T.astype(np.float64)
            best = np.arange(_CLASSES) == values[:, 15:].argmax(axis=1)[:, None]
            for number, anchor in enumerate(np.array(sizes).reshape(-1, 2)):
                box = values[:, 4 * number : 4 * number + 4]
                boxes.append(corners((2 * box[:, :2] - 0.5 + places) * stride, (2 * box[:, 2:]) ** 2 * anchor))
                scores.append(np.where(best, values[:, 15:] * values[:, 12 + number, None], 0))
        yield pair(outputs, np.concatenate(boxes), np.concatenate(scores), each, 0.4, 300)


def _distances(setting: Setting, preset: str, offset: float, *, bins: int, logits: bool) -> Iterator[Pair]:
    """Yields boxes by their distances from points, of one output with a row for each cell."""
    for each, rng in _draws(setting, preset):
        options = each.post.options
        places, steps = cells(_SIZE, options["strides"])
        count = len(places)
        sides = rng.uniform(5, 60, (count, 4)) if bins == 1 else rng.normal(0, 2, (count, 4 * bins))
        values = sides.astype(np.float32)
        drawn = rng.normal(-2, 1.5, (count, _CLASSES)).astype(np.float32)
        given = drawn if logits else sigmoid(drawn).astype(np.float32)
        parts = [values, given] if options.get("order") == "boxes_scores" else [given, values]
        in_cells = values.astype(np.float64) / (1 if options.get("in_strides", True) else steps)
        boxes = by_distances(in_cells, places + offset, steps, bins)
        if options.get("cut_at_input"):
            boxes = np.clip(boxes, 0, _SIZE[::-1] * 2)
        scores = sigmoid(drawn) if logits else given.astype(np.float64)
        yield pair({"output": np.concatenate(parts, axis=1)[None]}, boxes, scores, each, 0.6, 300)


def yolov8_raw(setting: Setting) -> Iterator[Pair]:
    """YOLOv8 before its distributions become distances."""
    yield from _distances(setting, "yolov8_raw", 0.5, bins=16, logits=True)


def nanodet(setting: Setting) -> Iterator[Pair]:
    """NanoDet, whose points are the middles of cells."""
    yield from _distances(setting, "nanodet", 0.5, bins=8, logits=False)


def nanodet_plus(setting: Setting) -> Iterator[Pair]:
    """NanoDet-Plus, whose points are the corners of cells."""
    yield from _distances(setting, "nanodet_plus", 0.0, bins=8, logits=False)


def gfl(setting: Setting) -> Iterator[Pair]:
    """GFL's head."""
    yield from _distances(setting, "gfl", 0.0, bins=17, logits=True)


def rtmdet(setting: Setting) -> Iterator[Pair]:
    """RTMDet, whose distances are in pixels, against the post-processing of libreyolo."""
    origin = package("libreyolo.postprocess.rtmdet").postprocess
    strides, threshold, iou = (8, 16, 32), 0.4, 0.65
    for each, rng in _draws(setting, "rtmdet"):
        shapes = [(_SIZE[0] // stride, _SIZE[1] // stride) for stride in strides]
        scores = [rng.normal(-3, 1.5, (1, _CLASSES, *shape)).astype(np.float32) for shape in shapes]
        sides = [rng.uniform(5, 60, (1, 4, *shape)).astype(np.float32) for shape in shapes]
        maps = [[torch.from_numpy(level) for level in levels] for levels in (scores, sides)]
        kept = origin(maps, conf_thres=threshold, iou_thres=iou, input_size=_SIZE, original_size=None)
        places = to_image(np.array(kept["boxes"], np.float64).reshape(-1, 4), each)
        limits = {"score_threshold": threshold, "iou_threshold": iou}
        post = dataclasses.replace(each.post, options={**each.post.options, **limits})
        outputs = {f"scores_{n}": level for n, level in enumerate(scores)}
        outputs |= {f"sides_{n}": level for n, level in enumerate(sides)}
        wanted = Boxes(places, np.array(kept["scores"]), np.array(kept["classes"]))
        yield decode(outputs, post, each.placement), wanted


def yolo_nas(setting: Setting) -> Iterator[Pair]:
    """YOLO-NAS: boxes by their corners, and probabilities."""
    yield from _corner_boxes(setting, "yolo_nas")


def damo_yolo(setting: Setting) -> Iterator[Pair]:
    """DAMO-YOLO: the same, the other way round."""
    yield from _corner_boxes(setting, "damo_yolo")


def _corner_boxes(setting: Setting, preset: str) -> Iterator[Pair]:
    count = len(cells(_SIZE, (8, 16, 32))[0])
    for each, rng in _draws(setting, preset):
        box, scores = _centred(rng, count).astype(np.float64), _probabilities(rng, count)
        boxes = corners(box[:, :2], box[:, 2:]).astype(np.float32)
        parts = {"boxes": boxes[None], "scores": scores[None]}
        outputs = parts if preset == "yolo_nas" else dict(reversed(parts.items()))
        yield pair(outputs, boxes.astype(np.float64), scores.astype(np.float64), each, 0.7, 300)


def scrfd(setting: Setting) -> Iterator[Pair]:
    """SCRFD: distances from the corners of cells in strides, two anchors each."""
    strides, anchors = (8, 16, 32), 2
    for each, rng in _draws(setting, "scrfd"):
        outputs: dict[str, NDArray[np.float32]] = {}
        boxes, scores = [], []
        for stride in strides:
            places, steps = (np.repeat(values, anchors, axis=0) for values in cells(_SIZE, (stride,)))
            sides = np.abs(rng.normal(3, 1, (len(places), 4))).astype(np.float32)
            seen = sigmoid(rng.normal(-3, 2, (len(places), 1))).astype(np.float32)
            outputs |= {f"score_{stride}": seen, f"bbox_{stride}": sides}
            boxes.append(by_distances(sides, places, steps, 1))
            scores.append(seen.astype(np.float64))
        ordered = dict(sorted(outputs.items(), key=lambda output: output[0].startswith("bbox")))
        yield pair(ordered, np.concatenate(boxes), np.concatenate(scores), each, 0.4, 750)
