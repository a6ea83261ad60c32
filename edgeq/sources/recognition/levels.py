"""Heads with outputs for each stride: PicoDet, NanoDet, GFL, RTMDet, undecoded YOLO, FastestDet, CenterNet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.sources.recognition.candidate import Candidate
from edgeq.sources.recognition.facts import ARITHMETIC, ModelFacts

_COCO = 80
_STRIDES = ((8, 16, 32, 64, 128), (8, 16, 32, 64), (8, 16, 32))
_ALL_STRIDES = (4, 8, 16, 32, 64, 128)
_SOFTMAX = frozenset({"Softmax"})
_SIGMOID = frozenset({"Sigmoid"})
_ANCHORS = 3


def recognise_distances(facts: ModelFacts) -> Sequence[Candidate]:
    """Returns the family whose outputs are scores and distances for each stride, told by their channels."""
    for strides in _STRIDES:
        channels = _channels(facts, strides)
        if channels is None:
            continue
        probable = facts.has(facts.outputs[0].name, _SIGMOID) is not False
        maps = len(facts.outputs[0].shape) == 4
        for (count, bins, wants_maps), (preset, family) in _DISTANCES.items():
            if count != len(strides) or (wants_maps is not None and wants_maps != maps):
                continue
            classes = _classes(channels, 4 * bins)
            if classes is not None:
                logits = ",logits=true" if preset in _PROBABLE and not probable else ""
                return [_candidate(preset + logits, family, classes)]
    return ()


_DISTANCES = {
    (5, 17, None): ("gfl", "GFL"),
    (4, 8, None): ("picodet", "PicoDet without post-processing"),
    (3, 8, None): ("nanodet", "NanoDet"),
    (3, 16, None): ("yolov8_raw", "YOLOv8 before its boxes are decoded"),
    (3, 1, True): ("rtmdet", "RTMDet without post-processing"),
}
"""Number of strides, bins of a distance, and whether outputs have four axes -> preset and family."""

_PROBABLE = ("picodet", "nanodet")


def recognise_combined_maps(facts: ModelFacts) -> Sequence[Candidate]:
    """Returns what three maps can be that hold boxes and scores: their channels alone leave the number of classes open.

    COCO's 80 classes, or as many as the file names, decide if one of the families has so many. YOLOv5 and YOLOv7 differ
    in their anchors only, which annotations tell apart.
    """
    maps = [_map(facts, spec) for spec in facts.outputs]
    found = [each for each in maps if each is not None]
    if len(found) != 3 or len(maps) != 3 or Counter(each[1] for each in found) != Counter(facts.cells((8, 16, 32))):
        return ()
    depths = {each[0] for each in found}
    if len(depths) != 1:
        return ()
    depth = depths.pop()
    choices = [(depth - 4 * bins, preset, family) for (preset, family), bins in _COMBINED.items()]
    if depth % _ANCHORS == 0:
        for name in ("YOLOv5", "YOLOv7"):
            family = f"{name} before its boxes are decoded"
            choices.append((depth // _ANCHORS - 5, f"{name.lower()}_maps", family))
    if any(len(spec.shape) == 5 for spec in facts.outputs):
        choices = [each for each in choices if each[1].endswith("_maps")]
    wanted = facts.classes or _COCO
    likely = [each for each in choices if each[0] == wanted]
    if not likely and not facts.classes:
        likely = [each for each in choices if each[0] > 0]
    return [_candidate(preset, family, classes) for classes, preset, family in likely]


_COMBINED = {
    ("yolov8_raw", "YOLOv8 before its boxes are decoded"): 16,
    ("nanodet", "NanoDet"): 8,
}
"""Preset and family -> bins of a distance."""


def recognise_fastest(facts: ModelFacts) -> Sequence[Candidate]:
    """Returns FastestDet for its one map of stride 16, and YOLO-FastestV2 for its two maps with channels last."""
    if any(len(spec.shape) != 4 for spec in facts.outputs):
        return ()
    if len(facts.outputs) == 1:
        (output,) = facts.outputs
        depth, cells = _map(facts, output) or (0, 0)
        if cells == facts.cells((16,))[0] and depth > 5 and facts.has(output.name, _SOFTMAX) is not False:
            return [_candidate("fastestdet", "FastestDet", depth - 5)]
        return ()
    shapes = [spec.shape for spec in facts.outputs]
    grids = [shape[1:3] for shape in shapes]
    depths = {shape[3] or 0 for shape in shapes}
    if (
        len(shapes) == 2
        and grids == [facts.grid(16), facts.grid(32)]
        and len(depths) == 1
        and (depth := depths.pop()) > 5 * _ANCHORS
    ):
        return [_candidate("yolo_fastestv2", "YOLO-FastestV2", depth - 5 * _ANCHORS)]
    return ()


def recognise_centernet(facts: ModelFacts) -> Sequence[Candidate]:
    """Returns CenterNet for a heatmap and two maps of two channels at stride 4, whose names tell size and offset."""
    maps = {spec.name: _map(facts, spec) for spec in facts.outputs}
    if len(maps) != 3 or any(each is None or each[1] != facts.cells((4,))[0] for each in maps.values()):
        return ()
    if {"hm", "wh", "reg"} != set(maps):
        pairs = [name for name, each in maps.items() if each and each[0] == 2]
        heat = [name for name in maps if name not in pairs]
        if len(pairs) != 2 or len(heat) != 1:
            return ()
        depth = (maps[heat[0]] or (0, 0))[0]
        return [
            _candidate(
                f"centernet,outputs.heatmap={heat[0]},outputs.size={size},outputs.offset={offset}",
                f"CenterNet with {size} as the size",
                depth,
            )
            for size, offset in (pairs, pairs[::-1])
        ]
    return [_candidate("centernet", "CenterNet", (maps["hm"] or (0, 0))[0])]


def recognise_corner_boxes(facts: ModelFacts) -> Sequence[Candidate]:
    """Returns YOLO-NAS and DAMO-YOLO for boxes and scores in two outputs: only their preparation differs."""
    if len(facts.outputs) != 2 or any(len(spec.shape) != 3 for spec in facts.outputs):
        return ()
    total = sum(facts.cells((8, 16, 32)))
    shapes = {spec.name: spec.shape[1:] for spec in facts.outputs}
    boxes = [name for name, shape in shapes.items() if shape == (total, 4)]
    scores = [shape for name, shape in shapes.items() if name not in boxes[:1] and shape[0] == total]
    if not total or not boxes or len(scores) != 1 or facts.has(boxes[0], ARITHMETIC) is False:
        return ()
    classes = scores[0][1] or 0
    return [
        _candidate("yolo_nas", "YOLO-NAS", classes),
        _candidate("damo_yolo", "DAMO-YOLO", classes),
    ]


def _candidate(preset: str, family: str, classes: int) -> Candidate:
    return Candidate(preset, family, classes, None if classes == _COCO else ())


def _map(facts: ModelFacts, spec: TensorSpec) -> tuple[int, int] | None:
    """Returns channels and cells of a map `(1, C, H, W)` or `(1, anchors, H, W, C)`.

    `None` for other shapes, and where H and W are those of no stride: `(1, 256, 256, 1)` is a mask with channels last.
    """
    shape = spec.shape
    if any(side is None for side in shape[1:]) or shape[:1] not in ((1,), (None,)):
        return None
    lengths = [side or 0 for side in shape]
    if len(lengths) < 4 or (lengths[2], lengths[3]) not in [facts.grid(stride) for stride in _ALL_STRIDES]:
        return None
    if len(shape) == 4:
        return lengths[1], lengths[2] * lengths[3]
    return (lengths[1] * lengths[4], lengths[2] * lengths[3]) if len(shape) == 5 else None


def _channels(facts: ModelFacts, strides: Sequence[int]) -> list[tuple[int, ...]] | None:
    """Returns the channels of each stride's outputs, sorted; `None` where the outputs do not cover the strides."""
    counts = facts.cells(strides)
    found: dict[int, list[int]] = {count: [] for count in counts}
    for spec in facts.outputs:
        if len(spec.shape) == 3:
            rows, columns = (side or 0 for side in spec.shape[1:])
            cells, channels = (rows, columns) if rows in found else (columns, rows)
        else:
            channels, cells = _map(facts, spec) or (0, 0)
        if not cells or cells not in found:
            return None
        found[cells].append(channels)
    return [tuple(sorted(each)) for each in found.values()] if all(found.values()) else None


def _classes(channels: Sequence[tuple[int, ...]], boxes: int) -> int | None:
    """Returns the number of classes where every stride has the boxes' channels and the same number besides."""
    if len(set(channels)) != 1:
        return None
    (each,) = set(channels)
    if len(each) != 2 or boxes not in each:
        return None
    return each[1] if each[0] == boxes else each[0]
