"""Detectors of ultralytics with random weights, exported and suppressed by it, which is run to compare and no more.

The package is under the AGPL: nothing of it is in edgeq, and nothing depends on it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.family_boxes.files import session_of
from benchmarks.family_boxes.pairs import Boxes, Opened, Pair, Setting, decode, package
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks import find_decoder

SIDE = 320
_IOU = 0.7
_KEPT = 300
_CANDIDATES = 600
"""Scores that reach the threshold, so that there is something to suppress whatever the weights are."""


def _exported(config: str, setting: Setting, name: str, **options: Any) -> Path:
    """Returns the ONNX file of a configuration with random weights, written unless it is there already."""
    path = setting.work / f"{name}_{setting.seed}.onnx"
    if path.is_file():
        return path
    setting.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(setting.seed)
    model = getattr(package("ultralytics"), "RTDETR" if "rtdetr" in config else "YOLO")(f"{config}.yaml")
    _spread(model.model, _inputs(setting))
    here = Path.cwd()
    os.chdir(setting.work)  # the exporter writes beside its configuration's name
    try:
        written = model.export(format="onnx", imgsz=SIDE, opset=17, simplify=False, device="cpu", **options)
        Path(written).replace(path)
    finally:
        os.chdir(here)
    return path


def _inputs(setting: Setting) -> torch.Tensor:
    stretched = dataclasses.replace(setting, images=setting.images[:16]).opened("yolov8", (SIDE, SIDE))
    return torch.cat([torch.from_numpy(each.input) for each in stretched])


def _spread(network: Any, inputs: torch.Tensor) -> None:
    """Sets BatchNorm's statistics from images, and spreads what the heads' last layers of YOLO answer to them."""
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
    network.train()
    with torch.no_grad():
        network(inputs)
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value
    network.eval()
    for part in _LAST_LAYERS:
        for layers in getattr(network.model[-1], part, None) or ():
            _scale(network, layers[-1], inputs, _wanted(part, layers[-1].out_channels))


_LAST_LAYERS = ("cv2", "cv3", "one2one_cv2", "one2one_cv3")


def _wanted(part: str, channels: int) -> tuple[float, float]:
    """Returns mean and deviation of a last layer: of logits, of distributions over distances, or of distances."""
    if part.endswith("cv3"):
        return -4.0, 0.5
    return (3.0, 0.3) if channels == 4 else (0.0, 2.0)


def _scale(network: Any, layer: nn.Conv2d, inputs: torch.Tensor, wanted: tuple[float, float]) -> None:
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda _layer, _inputs, answers: seen.append(answers))
    with torch.no_grad():
        network(inputs)
        handle.remove()
        if not seen:  # the head that training alone takes
            return
        factor = wanted[1] / seen[0].std()
        layer.weight.mul_(factor)
        assert layer.bias is not None
        layer.bias.mul_(factor).add_(wanted[0] - factor * seen[0].mean())


def _rounded(each: Opened) -> Placement:
    """Returns where an image lies by its rounded sides, as ultralytics maps boxes."""
    height, width = each.image.shape[:2]
    placement = each.placement
    return dataclasses.replace(
        placement,
        scale_x=round(width * placement.scale_x) / width,
        scale_y=round(height * placement.scale_y) / height,
    )


def _threshold(scores: NDArray[np.floating], count: int = _CANDIDATES) -> float:
    """Returns a score half way between two neighbours, so that both programs take the same candidates."""
    ordered = np.sort(scores.ravel())[::-1]
    return float((ordered[count - 1] + ordered[count]) / 2)


def _runs(path: Path, preset: str, setting: Setting) -> Iterator[tuple[Opened, dict[str, NDArray[Any]]]]:
    run = session_of(path)
    for each in setting.opened(preset, (SIDE, SIDE)):
        yield each, run(each.input)


def _suppressed(raw: NDArray[np.float32], threshold: float, **options: Any) -> Any:
    """Returns the rows that ultralytics keeps of a file's output.

    It moves the boxes of each class 7,680 pixels further; in float32 this costs up to a sixteenth of a pixel,
    and other boxes are left. float64 has digits enough.
    """
    module = package("ultralytics.utils.nms")
    (kept,) = module.non_max_suppression(
        torch.from_numpy(raw).double(), threshold, _IOU, max_det=_KEPT, max_time_img=60.0, **options
    )
    return kept


def _with_threshold(each: Opened, **options: Any) -> Any:
    return dataclasses.replace(each.post, options={**each.post.options, **options})


def boxes(config: str, setting: Setting) -> Iterator[Pair]:
    """Yields boxes of a detector whose suppression is outside of the file."""
    ops = package("ultralytics.utils.ops")
    for each, outputs in _runs(_exported(config, setting, config), "yolov8", setting):
        raw = outputs["output0"]
        threshold = _threshold(raw[0, 4:])
        rows = _suppressed(raw, threshold, multi_label=True)
        places = ops.scale_boxes((SIDE, SIDE), rows[:, :4], each.image.shape).numpy()
        post = _with_threshold(each, score_threshold=threshold, iou_threshold=_IOU, top_k=_KEPT)
        yield decode({"output0": raw}, post, _rounded(each)), Boxes(places, rows[:, 4].numpy(), rows[:, 5].numpy())


_END_TO_END: dict[str, dict[str, bool]] = {
    "yolov8n": {"nms": True},
    "yolov10n": {"end2end": True},
    "yolo26n": {"end2end": True},
    "yolo26n-pose": {"end2end": True},
}
"""What the exporter is asked for, so that the suppression is in the file."""


def end_to_end(config: str, setting: Setting) -> Iterator[Pair]:
    """Yields boxes of a detector whose suppression is in the file."""
    ops = package("ultralytics.utils.ops")
    path = _exported(config, setting, f"{config}_end_to_end", **_END_TO_END[config])
    for each, outputs in _runs(path, "yolov10", setting):
        raw = outputs["output0"]
        threshold = max(0.001, _threshold(raw[0, :, 4], raw.shape[1] // 2))
        rows = _suppressed(raw, threshold, end2end=True)
        places = ops.scale_boxes((SIDE, SIDE), rows[:, :4], each.image.shape).numpy()
        post = _with_threshold(each, score_threshold=threshold)
        yield decode({"output0": raw}, post, _rounded(each)), Boxes(places, rows[:, 4].numpy(), rows[:, 5].numpy())


def rtdetr(setting: Setting) -> Iterator[Pair]:
    """Yields boxes of RT-DETR, which its predictor maps by the image's sides and does not suppress."""
    ops = package("ultralytics.utils.ops")
    path = _exported("rtdetr-resnet50", setting, "rtdetr-resnet50")
    for each, outputs in _runs(path, "rtdetr_ultralytics", setting):
        rows = torch.from_numpy(outputs["output0"][0])
        height, width = each.image.shape[:2]
        places = (ops.xywh2xyxy(rows[:, :4]) * torch.tensor([width, height] * 2)).numpy()
        wanted = Boxes(places, *_scores(rows)).cut(each.image)
        yield decode(outputs, _with_threshold(each, score_threshold=0.0), each.placement), wanted


def poses(config: str, setting: Setting) -> Iterator[Pair]:
    """Yields the keypoints of each person, 17 times x and y."""
    ops = package("ultralytics.utils.ops")
    for each, outputs in _runs(_exported(config, setting, config, **_END_TO_END.get(config, {})), "yolo_pose", setting):
        raw = outputs["output0"]
        if raw.shape[2] == 6 + 17 * 3:  # end to end
            threshold = max(0.001, _threshold(raw[0, :, 4], raw.shape[1] // 2))
            rows = _suppressed(raw, threshold, end2end=True)
        else:
            threshold = _threshold(raw[0, 4])
            rows = _suppressed(raw, threshold, nc=1)
        points = rows[:, 6:].reshape(len(rows), 17, 3)
        points = ops.scale_coords((SIDE, SIDE), points, each.image.shape)[..., :2]
        post = _with_threshold(each, score_threshold=threshold, iou_threshold=_IOU, top_k=_KEPT)
        found = find_decoder(post).decode(outputs, post, _rounded(each))
        height, width = each.image.shape[:2]
        inside = np.clip(found.points[:, :, :2], 0, [width, height])  # as ultralytics leaves them; edgeq does not
        yield (
            Boxes(inside.reshape(len(inside), -1), found.scores, found.classes),
            Boxes(points.reshape(len(rows), -1).numpy(), *_scores(rows)),
        )


def _scores(rows: Any) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    return rows[:, 4].numpy(), rows[:, 5].numpy().astype(np.int64)


def oriented(setting: Setting) -> Iterator[Pair]:
    """Yields the corners of turned boxes before their suppression, which differs by design: see docs/tasks.md."""
    ops = package("ultralytics.utils.ops")
    for each, outputs in _runs(_exported("yolov8n-obb", setting, "yolov8n-obb"), "yolo_obb", setting):
        rows = outputs["output0"][0].T
        scores, labels = rows[:, 4:-1].max(axis=1), rows[:, 4:-1].argmax(axis=1)
        threshold = _threshold(scores, _KEPT)
        best = np.argsort(-scores, kind="stable")[:_KEPT]
        turned = ops.regularize_rboxes(torch.from_numpy(np.hstack([rows[best, :4], rows[best, -1:]])))
        # By the ratio itself: rounded sides would have two, of which a turned box cannot have both.
        place = each.placement
        ratio = ((place.scale_y, place.scale_x), (place.offset_x, place.offset_y))
        turned[:, :4] = ops.scale_boxes((SIDE, SIDE), turned[:, :4], each.image.shape, ratio, xywh=True)
        wanted = ops.xywhr2xyxyxyxy(turned).numpy()[:, ::-1]
        post = _with_threshold(each, score_threshold=threshold, iou_threshold=1.0, top_k=_KEPT)
        found = find_decoder(post).decode(outputs, post, each.placement)
        corners = _from_the_nearest(wanted, found.corners) if len(found.corners) == len(wanted) else wanted
        yield (
            Boxes(found.corners.reshape(-1, 8), found.scores, found.classes),
            Boxes(corners.reshape(-1, 8), scores[best], labels[best]),
        )


def _from_the_nearest(corners: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.floating]:
    """Returns corners `(N, 4, 2)` in the same order, from the one on that lies nearest to the first of the others."""
    distances = np.abs(corners - others[:, :1]).max(axis=2)
    places = (distances.argmin(axis=1)[:, None] + np.arange(4)) % 4
    return np.take_along_axis(corners, places[:, :, None], axis=1)
