"""Models whose outputs have names or lengths of their own: faces, SSD, transformers, detections out of the graph."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.sources.recognition.candidate import Candidate
from edgeq.sources.recognition.facts import ARITHMETIC, ModelFacts

_Shape = tuple[int | None, ...]
_STRIDES = (8, 16, 32)
_TORCHVISION = {3234: ("ssdlite", "torchvision's SSDLite"), 8732: ("ssd300", "torchvision's SSD300")}
_BLAZEFACE = {896: ("blazeface", "BlazeFace, short range"), 2304: ("blazeface_full_range", "BlazeFace, full range")}
_ULTRAFACE = ((8, 3), (16, 2), (32, 2), (64, 3))  # stride, anchors of a cell
_COCO_IDS = 91
_PYRAMID = (8, 16, 32, 64, 128)


def recognise_faces(facts: ModelFacts) -> Sequence[Candidate]:
    """Returns YuNet by the names of its outputs, and SCRFD, BlazeFace and UltraFace by how many boxes they have."""
    shapes = _shapes(facts)
    if set(shapes) == {f"{part}_{stride}" for part in ("cls", "obj", "bbox", "kps") for stride in _STRIDES}:
        return [Candidate("yunet", "YuNet", 1)]
    rows = sorted(((shape[-2] or 0, shape[-1] or 0) for shape in shapes.values() if len(shape) > 1), reverse=True)
    if any(facts.cells(_STRIDES)) and rows == [
        (2 * cells, width) for cells in facts.cells(_STRIDES) for width in (10, 4, 1)
    ]:
        return [Candidate("scrfd", "SCRFD", 1)]
    if len(rows) != 2 or len(shapes) != 2:
        return ()
    (count, boxes), (other, scores) = rows
    if count != other:
        return ()
    if (boxes, scores) == (16, 1) and count in _BLAZEFACE:
        return [Candidate(*_BLAZEFACE[count], 1)]
    anchors = sum(facts.cells((stride,))[0] * number for stride, number in _ULTRAFACE)
    return [Candidate("ultraface", "UltraFace", 1)] if (boxes, scores) == (4, 2) and count == anchors else ()


def recognise_torchvision(facts: ModelFacts) -> Sequence[Candidate]:
    """Returns torchvision's detectors of one stage by how many anchors they have."""
    shapes = _shapes(facts)
    if set(shapes) != {"boxes", "scores"} or any(len(shape) != 3 for shape in shapes.values()):
        return ()
    (_, anchors, columns), boxes = shapes["scores"], shapes["boxes"]
    if not anchors or columns is None or boxes[1:] != (anchors, 4) or facts.has("boxes", ARITHMETIC) is False:
        return ()
    if anchors in _TORCHVISION:
        preset, family = _TORCHVISION[anchors]
        return [Candidate(preset, family, columns - 1, None if columns == _COCO_IDS else ())]
    cells = sum(facts.cells(_PYRAMID))
    for per_cell, preset, family in ((9, "retinanet", "torchvision's RetinaNet"), (1, "fcos", "torchvision's FCOS")):
        if anchors == per_cell * cells:
            return [Candidate(preset, family, columns, None if columns == _COCO_IDS else ())]
    return ()


def recognise_transformers(facts: ModelFacts) -> Sequence[Candidate]:
    """Returns DETR's kin by the outputs' names: with COCO's classes their number tells the family."""
    shapes = _shapes(facts)
    logits, boxes = shapes.get("logits", ()), shapes.get("pred_boxes", ())
    if len(logits) != 3 or len(boxes) != 3 or boxes[2] != 4 or logits[2] is None:
        return ()
    columns = logits[2]
    known = {92: ("detr", "DETR"), 91: ("deformable_detr", "Deformable DETR"), 80: ("rtdetr", "RT-DETR")}
    if columns in known:
        return [Candidate(*known[columns], columns)]
    return [
        Candidate("rtdetr", "RT-DETR", columns, ()),
        Candidate("deformable_detr", "Deformable DETR", columns, ()),
        Candidate("detr", "DETR with a last column for nothing", columns - 1, ()),
    ]


def _shapes(facts: ModelFacts) -> dict[str, _Shape]:
    return {spec.name: spec.shape for spec in facts.outputs}
