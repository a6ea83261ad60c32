"""Heads with one row or column per box in a single output: YOLOv5, YOLOX, YOLOv8, NanoDet-Plus, end to end."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.sources.recognition.candidate import Candidate, with_settings
from edgeq.sources.recognition.facts import ARITHMETIC, ModelFacts

_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
_ANCHORS = 3
_COCO = 80
_MAX_DETECTIONS = 1000
_EXP = frozenset({"Exp"})


def recognise_ultralytics(facts: ModelFacts) -> Sequence[Candidate]:
    """Returns what the metadata of Ultralytics say: the task, the classes, and that images are RGB in 0..1."""
    metadata = facts.metadata
    if "ultralytics" not in metadata.author.lower():
        return ()
    if metadata.task == "classify" and len(facts.outputs) == 1:
        return [Candidate("yolo_cls", "YOLO classifier", facts.classes, certain=True)]
    if metadata.task in ("segment", "pose", "obb"):
        return _other_tasks(facts)
    output = _only_rows(facts)
    if metadata.task != "detect" or output is None:
        return ()
    if _is_rtdetr(facts):
        chosen = output.shape[2] == len(_DETECTION)
        preset = "rtdetr_ultralytics" if chosen else "yolov8,relative=true,nms=none,multi_label=false,resize=stretch"
        return [Candidate(preset, "RT-DETR of ultralytics", facts.classes, certain=True)]
    relative = ",relative=true" if facts.tails is None else ""  # its TFLite files have boxes in parts of the input
    if output.shape[2] == len(_DETECTION) and output.shape[1] != facts.classes + 4:
        return [Candidate(f"yolov10{relative}", "end-to-end head", facts.classes, certain=True)]
    if facts.classes + 4 in output.shape[1:]:
        return [Candidate(f"yolov8{relative}", "YOLOv8-style head", facts.classes, certain=True)]
    if output.shape[2] == facts.classes + 5:
        return [Candidate(f"yolov5{relative}", "YOLOv5-style head", facts.classes, certain=True)]
    return ()


def _is_rtdetr(facts: ModelFacts) -> bool:
    """Returns whether a file names RT-DETR, whose rows look like those of YOLO, but are in other units."""
    stated = [facts.metadata.properties.get(key, "") for key in ("head", "description")]
    return any("rtdetr" in text.lower().replace("-", "") for text in stated)


def _other_tasks(facts: ModelFacts) -> Sequence[Candidate]:
    """Returns YOLO's other tasks as ONNX files have them; in TFLite files boxes are in 0..1, which no decoder reads."""
    shapes = [spec.shape for spec in facts.outputs]
    if facts.tails is None or not shapes or len(shapes[0]) != 3:
        return ()
    rows, columns = shapes[0][1] or 0, shapes[0][2] or 0
    further = columns - len(_DETECTION)  # of an end-to-end file
    if facts.metadata.task == "pose":
        return _poses(facts, rows, columns) if len(shapes) == 1 else ()
    if facts.metadata.task == "obb":
        fits = len(shapes) == 1 and (further == 1 or rows == 5 + facts.classes)
        return [Candidate("yolo_obb", "YOLO with oriented boxes", facts.classes, certain=True)] if fits else ()
    if len(shapes) != 2 or len(shapes[1]) != 4:
        return ()
    masks = shapes[1][1] or 0
    if not masks or (further != masks and rows != 4 + facts.classes + masks):
        return ()
    names = [spec.name for spec in facts.outputs]
    outputs = (
        "" if names == ["output0", "output1"] else f",outputs.predictions={names[0]},outputs.prototypes={names[1]}"
    )
    return [Candidate(f"yolo_seg{outputs}", "YOLO with masks", facts.classes, certain=True)]


def _poses(facts: ModelFacts, rows: int, columns: int) -> Sequence[Candidate]:
    """Returns YOLO with keypoints, whose number the file states, as it states the classes."""
    classes = max(facts.classes, 1)
    count, numbers = facts.metadata.keypoints or (0, 3)
    further = columns - len(_DETECTION) if rows > columns else rows - 4 - classes
    if numbers not in (2, 3) or further <= 0 or further % numbers or count not in (0, further // numbers):
        return ()
    preset = with_settings("yolo_pose", ("classes", str(classes), "1"), ("numbers", str(numbers), "3"))
    return [Candidate(preset, "YOLO with keypoints", classes, certain=True)]


_DETECTION = ("left", "top", "right", "bottom", "score", "class")


def recognise_rows(facts: ModelFacts) -> Sequence[Candidate]:
    """Returns the families whose one output `(1, N, 4 + ...)` or `(1, 4 + ..., N)` has N as their cells give it."""
    output = _only_rows(facts)
    if output is None or "ultralytics" in facts.metadata.author.lower():
        return ()
    _, rows, columns = output.shape
    totals = {sum(facts.cells(strides)): strides for strides in _STRIDES if sum(facts.cells(strides))}
    if columns in totals and rows is not None and rows > 4:
        return _columns(facts, output, rows)
    if rows is None or columns is None or columns <= 4:
        return ()
    if rows in totals:
        return _one_per_cell(facts, output, columns, totals[rows])
    if columns > 5 and rows in {_ANCHORS * total for total in totals} and _has_objectness(facts, columns):
        family = "YOLOv5-style head with anchors"
        return _named(facts, columns - 5, [("yolov5", family), *_relative(facts, "yolov5", family)])
    if rows <= _MAX_DETECTIONS and columns in (len(_DETECTION), len(_DETECTION) + 1):
        return _end_to_end(facts, columns)
    return ()


def _columns(facts: ModelFacts, output: TensorSpec, channels: int) -> Sequence[Candidate]:
    """Returns what `(1, channels, N)` is: YOLOv8, decoded or not."""
    arithmetic = facts.has(output.name, ARITHMETIC)
    if arithmetic is False:
        if channels <= 64:
            return ()
        return _named(facts, channels - 64, [("yolov8_raw", "YOLOv8 before its boxes are decoded")])
    family = "YOLOv8-style head"
    return _named(facts, channels - 4, [("yolov8", family), *_relative(facts, "yolov8", family)])


def _one_per_cell(facts: ModelFacts, output: TensorSpec, columns: int, strides: tuple[int, ...]) -> Sequence[Candidate]:
    """Returns what `(1, cells, columns)` can be."""
    arithmetic = facts.has(output.name, ARITHMETIC)
    if strides == (8, 16, 32, 64) and not arithmetic and columns > 32:
        return _named(facts, columns - 32, [("nanodet_plus", "NanoDet-Plus")])
    found: list[tuple[str, str]] = []
    if arithmetic is not True:
        found.append(("yolox", "YOLOX"))
    if arithmetic is not False and _has_objectness(facts, columns):
        exponents = facts.has(output.name, _EXP)
        if exponents is not False:
            found.append(("yolox_decoded", "YOLOX with its boxes decoded"))
        if exponents is not True:
            found.append(("yolov6", "YOLOv6"))
    objectness = _named(facts, columns - 5, found) if columns > 5 else []
    if arithmetic is False or columns == _COCO + 5 or columns == facts.classes + 5:
        return objectness
    transposed = _named(facts, columns - 4, [("yolov8", "YOLOv8-style head, transposed")])
    return transposed if columns in (_COCO + 4, facts.classes + 4) else [*objectness, *transposed]


def _end_to_end(facts: ModelFacts, columns: int) -> Sequence[Candidate]:
    if columns == len(_DETECTION):
        return _named(facts, facts.classes, [("yolov10", "end-to-end head")])
    return _named(facts, facts.classes, [("yolov7_nms", "YOLOv7 with non-maximum suppression")])


def _only_rows(facts: ModelFacts) -> TensorSpec | None:
    """Returns the one output of three axes for one image; maps beside it do not count."""
    found = [spec for spec in facts.outputs if len(spec.shape) == 3 and spec.shape[0] in (1, None)]
    others = [spec for spec in facts.outputs if len(spec.shape) not in (3, 4, 5)]
    if len(found) != 1 or others or (len(facts.outputs) > 1 and len(facts.outputs) != 1 + _ANCHORS):
        return None
    return found[0]


def _has_objectness(facts: ModelFacts, columns: int) -> bool:
    return facts.classes in (0, columns - 5)


def _relative(facts: ModelFacts, preset: str, family: str) -> list[tuple[str, str]]:
    """Returns the same with boxes in 0..1, for TFLite files, where both are usual and the form does not say."""
    return [(f"{preset},relative=true", f"{family}, boxes in 0..1")] if facts.tails is None else []


def _named(facts: ModelFacts, classes: int, found: Sequence[tuple[str, str]]) -> list[Candidate]:
    """Returns candidates; their labels are the preset's only for as many classes as COCO has."""
    return [
        Candidate(preset, family, classes, None if classes == _COCO else ())
        for preset, family in found
        if not facts.classes or not classes or facts.classes == classes
    ]
