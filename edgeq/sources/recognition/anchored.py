"""Heads whose boxes are shifts of anchors, told by how many there are: RetinaFace, EfficientDet, TensorFlow's SSD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.sources.recognition.candidate import Candidate, with_settings
from edgeq.sources.recognition.facts import ARITHMETIC, ModelFacts

_ACTIVATIONS = frozenset({"Sigmoid", "Softmax"})


class _Head(NamedTuple):
    """A family's preset: its name, the outputs that it names, and the activation that it applies."""

    preset: str
    family: str
    boxes: str
    scores: str
    activation: str
    background: int


_RETINAFACE = _Head("retinaface", "RetinaFace", "loc", "conf", "none", 1)
_EFFICIENTDET = _Head("efficientdet", "EfficientDet", "boxes", "scores", "sigmoid", 0)
_TF_SSD = _Head("tf_ssd", "TensorFlow's SSD", "raw_outputs/box_encodings", "raw_outputs/class_predictions", "none", 1)
_FACE_COLUMNS = (2, 10)
_FACE_NAMES = ({"loc", "conf", "landms"}, {"loc", "conf", "landmarks"})
_COCO = 90
_TF_ANCHORS = 1917
_TF_SIDES = (300, 300)


def recognise_anchored(facts: ModelFacts) -> Sequence[Candidate]:
    """Returns RetinaFace, EfficientDet or TensorFlow's SSD, whose boxes are not decoded in the graph."""
    by_name = {spec.name: spec for spec in facts.outputs}
    if set(by_name) in _FACE_NAMES and all(set(spec.shape[1:]) == {None} for spec in facts.outputs):  # of any size
        return [_candidate(facts, _RETINAFACE, by_name["loc"], by_name["conf"])]
    columns = {spec.shape[-1] or 0: spec for spec in facts.outputs if len(spec.shape) in (3, 4)}
    boxes = columns.pop(4, None)
    if boxes is None or not columns or len(columns) + 1 != len(facts.outputs):
        return ()
    count = boxes.shape[1] or 0
    if any(spec.shape[1] != count for spec in columns.values()) or facts.has(boxes.name, ARITHMETIC) is not False:
        return ()
    cells, faces = sum(facts.cells((8, 16, 32, 64, 128))), sum(facts.cells((8, 16, 32)))
    if tuple(sorted(columns)) == _FACE_COLUMNS:
        return [_candidate(facts, _RETINAFACE, boxes, columns[2])] if faces and count == 2 * faces else ()
    if len(columns) != 1:
        return ()
    (scores,) = columns.values()
    if cells and count == 9 * cells:
        return [_candidate(facts, _EFFICIENTDET, boxes, scores)]
    if count == _TF_ANCHORS and (facts.height_px, facts.width_px) == _TF_SIDES:
        return [_candidate(facts, _TF_SSD, boxes, scores)]
    return ()


def _candidate(facts: ModelFacts, head: _Head, boxes: TensorSpec, scores: TensorSpec) -> Candidate:
    """Returns a candidate with the outputs' names and the activation that the graph leaves to the decoder."""
    classes = 1 if head is _RETINAFACE else (scores.shape[-1] or 0) - head.background
    left = "none" if facts.has(scores.name, _ACTIVATIONS) else "softmax" if head is _RETINAFACE else "sigmoid"
    preset = with_settings(
        head.preset,
        ("outputs.boxes", boxes.name, head.boxes),
        ("outputs.scores", scores.name, head.scores),
        ("activation", left, head.activation),
    )
    return Candidate(preset, head.family, classes, None if classes in (1, _COCO) else ())
