"""Models that choose their detections inside the graph: the rows that are left, and the operator that leaves them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.sources.recognition.candidate import Candidate, with_settings
from edgeq.sources.recognition.facts import ModelFacts

_SUPPRESSION = frozenset({"NonMaxSuppression"})
_POST = "TFLite_Detection_PostProcess"
_COLUMNS = 7
_PADDLE_COLUMNS = 6
_STRIDES = (8, 16, 32, 64)


def recognise_chosen(facts: ModelFacts) -> Sequence[Candidate]:
    """Returns models that end in EfficientNMS, TFLite_Detection_PostProcess or MMDetection's suppression, by names."""
    names = {spec.name for spec in facts.outputs}
    if names == {"num_dets", "det_boxes", "det_scores", "det_classes"}:
        return [Candidate("efficient_nms", "detections of EfficientNMS", facts.classes)]
    if names == {_POST, f"{_POST}:1", f"{_POST}:2", f"{_POST}:3"}:
        return [Candidate("tflite_ssd", "detections of TFLite_Detection_PostProcess", facts.classes)]
    if names == {"dets", "labels"} and facts.outputs[0].shape[-1] == len(("left", "top", "right", "bottom", "score")):
        return [Candidate("rtmdet_nms", "RTMDet with non-maximum suppression", facts.classes)]
    return ()


def recognise_paddle(facts: ModelFacts) -> Sequence[Candidate]:
    """Returns PaddleDetection's models with their post-processing, by their inputs and by what they choose from.

    All give rows of class, score and corners, and how many these are. RT-DETR suppresses nothing; PicoDet has a stride
    more than PP-YOLOE.
    """
    rows = [spec for spec in facts.outputs if len(spec.shape) == 2 and spec.shape[1] == _PADDLE_COLUMNS]
    if "scale_factor" not in facts.constants or len(rows) != 1:
        return ()
    if facts.has(rows[0].name, _SUPPRESSION) is False:
        rtdetr = Candidate("rtdetr_paddle", "RT-DETR of PaddleDetection", facts.classes)
        return [rtdetr] if "im_shape" in facts.constants else ()
    picodet = Candidate("picodet_nms", "PicoDet with post-processing", facts.classes)
    ppyoloe = Candidate("ppyoloe_nms", "PP-YOLOE with post-processing", facts.classes)
    cells = facts.cells(_STRIDES)
    families = {sum(cells): [picodet], sum(cells[:-1]): [ppyoloe]} if all(cells) else {}
    return families.get(facts.suppressed or 0, [picodet, ppyoloe])


def recognise_suppressed(facts: ModelFacts) -> Sequence[Candidate]:
    """Returns what ONNX's NonMaxSuppression leaves: rows of YOLOv7, or the three outputs of torchvision's detectors.

    How many classes a torchvision detector has, its outputs do not say: with COCO's, a label is a category's id; with
    others, the first class is label 1. Images decide.
    """
    if not facts.outputs or not all(facts.has(spec.name, _SUPPRESSION) for spec in facts.outputs):
        return ()
    shapes = [spec.shape for spec in facts.outputs]
    if len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][1] == _COLUMNS:
        return [Candidate("yolov7_nms", "YOLOv7 with non-maximum suppression", facts.classes)]
    boxes = [spec for spec in facts.outputs if len(spec.shape) == 2 and spec.shape[1] == 4]
    lists = [spec for spec in facts.outputs if len(spec.shape) == 1]
    labels = [spec for spec in lists if _is_whole(spec)]
    scores = [spec for spec in lists if not _is_whole(spec)]
    if len(facts.outputs) != 3 or not len(boxes) == len(labels) == len(scores) == 1:
        return ()
    family = "torchvision's detector with non-maximum suppression"
    preset = with_settings(
        "faster_rcnn",
        ("outputs.boxes", boxes[0].name, "boxes"),
        ("outputs.scores", scores[0].name, "scores"),
        ("outputs.classes", labels[0].name, "labels"),
    )
    return [
        Candidate(preset, f"{family} and COCO's classes", 91),
        Candidate(f"{preset},first_class=1", f"{family} and other classes, to be named by `labels`", facts.classes, ()),
    ]


def _is_whole(spec: TensorSpec) -> bool:
    return bool(np.issubdtype(np.dtype(spec.dtype), np.integer))
