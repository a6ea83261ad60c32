"""YOLO's heads and those of distances against their formulas, written out in float64, and torchvision's suppression."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from edgeq.errors import EdgeqError, InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders import get_decoder
from edgeq.tasks.detection.detections import Detections

HEIGHT, WIDTH, CLASSES = 96, 160, 5
PLACEMENT = Placement(400, 200, WIDTH, HEIGHT, 0.4, 0.4, 0, 8)
THRESHOLD = 0.3
ANCHORS = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]

Row = tuple[float, float, float, float, np.ndarray]
"""A box as left, top, right, bottom in the input, and the score of each class."""


def sigmoid(value: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(value, np.float64)))


def cells(*strides: int) -> Iterator[tuple[int, int, int]]:
    for stride in strides:
        for row in range(math.ceil(HEIGHT / stride)):
            for column in range(math.ceil(WIDTH / stride)):
                yield stride, row, column


def count(*strides: int) -> int:
    return len(list(cells(*strides)))


def expected(rows: list[Row], iou: float, *, top_k: int = 300) -> Detections:
    """Returns what is left of rows: a box for each class that reaches the threshold, suppressed by torchvision."""
    found = [(row[:4], score, label) for row in rows for label, score in enumerate(row[4]) if score >= THRESHOLD]
    boxes = np.array([box for box, *_ in found], np.float64).reshape(-1, 4)
    scores, labels = (
        np.array([score for _, score, _ in found], np.float64),
        np.array([label for *_, label in found], np.int64),
    )
    kept = batched_nms(torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels), iou)[:top_k].numpy()
    boxes = (boxes[kept] - [0, 8, 0, 8]) / 0.4
    return Detections(np.clip(boxes, 0, [400, 200, 400, 200]), scores[kept], labels[kept])


def check(decoder: str, outputs: Mapping[str, np.ndarray], rows: list[Row], iou: float, **options: Any) -> None:
    """Compares a decoder with the formulas; there is something to suppress, and something is left."""
    options = {"score_threshold": THRESHOLD, "iou_threshold": iou} | options
    found = get_decoder(decoder)(outputs, Postprocessing(decoder, options=options), PLACEMENT)
    wanted = expected(rows, iou)
    assert 20 < len(wanted) < sum(int((row[4] >= THRESHOLD).sum()) for row in rows)
    assert len(found) == len(wanted)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
    assert found.classes.tolist() == wanted.classes.tolist()
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=2e-3)
    assert [str(array.dtype) for array in vars(found).values()] == ["float32", "float32", "int64"]


def corners(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def rows_of_centres(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    boxes = np.concatenate([rng.uniform(0, (WIDTH, HEIGHT), (number, 2)), rng.uniform(10, 60, (number, 2))], axis=1)
    return boxes.astype(np.float32), rng.beta(0.3, 1.5, (number, CLASSES)).astype(np.float32)


@pytest.mark.parametrize("form", ["columns", "rows", "relative", "two outputs", "two turned outputs"])
def test_yolov8(form: str, rng: np.random.Generator) -> None:
    boxes, scores = rows_of_centres(rng, count(8, 16, 32))
    rows = [(*corners(*box), score) for box, score in zip(boxes.astype(np.float64), scores, strict=True)]
    options: dict[str, Any] = {}
    if form == "relative":
        boxes /= np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32)
        options["relative"] = True
    outputs = {"output0": np.concatenate([boxes, scores], axis=1).T[None]}
    if form == "rows":
        outputs = {"any": outputs["output0"].transpose(0, 2, 1)}
    elif form.startswith("two"):
        options["corners"] = True
        boxes = np.array([row[:4] for row in rows], np.float32)
        outputs = {"913": boxes[None], "904": scores.T[None] if "turned" in form else scores[None]}
    check("yolov8", outputs, rows, 0.7, **options)


@pytest.mark.parametrize("extra", [False, True])
def test_yolov5_decoded(extra: bool, rng: np.random.Generator) -> None:
    boxes, scores = rows_of_centres(rng, 3 * count(8, 16, 32))
    objectness = rng.uniform(0, 1, (len(boxes), 1)).astype(np.float32)
    rows = [
        (*corners(*box), score * seen)
        for box, score, seen in zip(boxes.astype(np.float64), scores, objectness, strict=True)
    ]
    outputs = {"output0": np.concatenate([boxes, objectness, scores], axis=1)[None]}
    maps = {"345": np.zeros((1, 3, 12, 20, 5 + CLASSES), np.float32)} if extra else {}
    check("yolov5", outputs | maps, rows, 0.6)


@pytest.mark.parametrize("axes", [4, 5])
def test_yolov5_maps(axes: int, rng: np.random.Generator) -> None:
    outputs, rows = {}, []
    for (stride, sizes), name in zip(zip((8, 16, 32), ANCHORS, strict=True), "abc", strict=True):
        shape = (math.ceil(HEIGHT / stride), math.ceil(WIDTH / stride))
        level = rng.normal(-1, 1.5, (3, 5 + CLASSES, *shape)).astype(np.float32)
        for anchor, row, column in np.ndindex(3, *shape):
            value = sigmoid(level[anchor, :, row, column])
            x, y = (2 * value[0] - 0.5 + column) * stride, (2 * value[1] - 0.5 + row) * stride
            width, height = (2 * value[2]) ** 2 * sizes[2 * anchor], (2 * value[3]) ** 2 * sizes[2 * anchor + 1]
            rows.append((*corners(x, y, width, height), value[5:] * value[4]))
        outputs[name] = level.reshape(1, -1, *shape) if axes == 4 else level.transpose(0, 2, 3, 1)[None]
    reversed_outputs = dict(reversed(outputs.items()))
    check("yolov5", reversed_outputs, rows, 0.6, anchors=ANCHORS)


def distance_rows(
    boxes: np.ndarray, scores: np.ndarray, strides: tuple[int, ...], bins: int, offset: float, unit: bool
) -> list[Row]:
    rows = []
    for (stride, row, column), box, score in zip(cells(*strides), boxes.astype(np.float64), scores, strict=True):
        sides = list(box[:4])
        if bins > 1:
            for side in range(4):
                weights = np.exp(box[side * bins : (side + 1) * bins])
                sides[side] = sum(number * weight for number, weight in enumerate(weights)) / weights.sum()
        left, top, right, bottom = (side * (stride if unit else 1) for side in sides)
        x, y = (column + offset) * stride, (row + offset) * stride
        rows.append((x - left, y - top, x + right, y + bottom, score))
    return rows


FORMS: dict[str, tuple[tuple[int, ...], int, dict[str, Any]]] = {
    "nanodet_plus": ((8, 16, 32, 64), 8, {"offset": 0, "logits": False}),
    "picodet": ((8, 16, 32, 64), 8, {"offset": 0.5, "logits": False}),
    "yolov8_raw": ((8, 16, 32), 16, {"offset": 0.5, "order": "boxes_scores"}),
    "gfl": ((8, 16, 32, 64, 128), 17, {"offset": 0}),
    "rtmdet": ((8, 16, 32), 1, {"offset": 0, "in_strides": False}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "layout", ["one output", "one turned output", "two outputs", "each stride", "maps", "joined maps"]
)
def test_distances(form: str, layout: str, rng: np.random.Generator) -> None:
    strides, bins, options = FORMS[form]
    number = count(*strides)
    values = rng.uniform(5, 30, (number, 4)) if bins == 1 else rng.normal(0, 2, (number, 4 * bins))
    logits = rng.normal(-2, 1.5, (number, CLASSES)).astype(np.float32)
    boxes, scores = (
        values.astype(np.float32),
        logits if options.get("logits", True) else sigmoid(logits).astype(np.float32),
    )
    in_strides = options.get("in_strides", True)
    rows = distance_rows(boxes, sigmoid(logits), strides, bins, options["offset"], in_strides)
    parts = [boxes, scores] if options.get("order") == "boxes_scores" else [scores, boxes]
    joined = np.concatenate(parts, axis=1)
    ends = np.cumsum([count(stride) for stride in strides])[:-1]
    shapes = [(math.ceil(HEIGHT / stride), math.ceil(WIDTH / stride)) for stride in strides]
    outputs: dict[str, np.ndarray]
    if layout.startswith("one"):
        outputs = {"out": joined[None] if layout == "one output" else joined.T[None]}
    elif layout == "two outputs":
        outputs = {"a": parts[0][None], "b": parts[1].T[None]}
    elif layout == "each stride":
        outputs = {f"{n}{i}": each[None] for n, part in enumerate(parts) for i, each in enumerate(np.split(part, ends))}
    else:
        tables = [joined] if layout == "joined maps" else parts
        outputs = {
            f"{n}{i}": each.T.reshape(1, -1, *shape)
            for n, table in enumerate(tables)
            for i, (each, shape) in enumerate(zip(np.split(table, ends), shapes, strict=True))
        }
    check("distances", outputs, rows, 0.6, strides=list(strides), bins=bins, **options)


@pytest.mark.parametrize(("cut_at_input", "left"), [(True, 1), (False, 2)])
def test_distances_may_be_compared_in_the_input_alone(cut_at_input: bool, left: int) -> None:
    """Two boxes that share what lies in the input, of which the second one reaches far beyond it."""
    boxes, scores = np.zeros((1, count(32), 4), np.float32), np.zeros((1, count(32), 3), np.float32)
    boxes[0, 0], boxes[0, 1] = [0, 0, 40, 40], [500, 0, 8, 40]
    scores[0, :2, 2] = 0.9, 0.8
    options: dict[str, Any] = {"strides": [32], "bins": 1, "offset": 0, "in_strides": False, "logits": False}
    found = decode("distances", {"a": scores, "b": boxes}, **options, score_threshold=0.5, cut_at_input=cut_at_input)
    assert len(found) == left
    assert found.boxes[0].tolist() == [0, 0, 100, 80]


@pytest.mark.parametrize("channels_first", [False, True])
def test_yolo_fastestv2(channels_first: bool, rng: np.random.Generator) -> None:
    sizes = {16: (12.64, 19.39, 37.88, 51.48, 55.71, 138.31), 32: (126.91, 78.23, 131.57, 214.55, 279.92, 258.87)}
    outputs, rows = {}, []
    for stride, anchors in sizes.items():
        shape = (math.ceil(HEIGHT / stride), math.ceil(WIDTH / stride))
        level = rng.uniform(0, 1, (15 + CLASSES, *shape)).astype(np.float32)
        for anchor, row, column in np.ndindex(3, *shape):
            x, y, width, height = level[4 * anchor : 4 * anchor + 4, row, column].astype(np.float64)
            score = level[15:, row, column] * level[12 + anchor, row, column]
            score = np.where(np.arange(CLASSES) == score.argmax(), score, 0)
            centre = (2 * x - 0.5 + column) * stride, (2 * y - 0.5 + row) * stride
            side = (2 * width) ** 2 * anchors[2 * anchor], (2 * height) ** 2 * anchors[2 * anchor + 1]
            rows.append((*corners(*centre, *side), score))
        outputs[str(stride)] = level[None] if channels_first else level.transpose(1, 2, 0)[None]
    check("yolo_fastestv2", outputs, rows, 0.4)


def decode(name: str, outputs: Mapping[str, np.ndarray], **options: Any) -> Detections:
    return get_decoder(name)(outputs, Postprocessing(name, options=options), PLACEMENT)


def test_end_to_end_rows_are_taken_as_they_are() -> None:
    rows = np.array([[40, 28, 80, 68, 0.9, 2], [41, 28, 80, 68, 0.8, 2], [0, 0, 8, 8, 0.0001, 1], [0, 0, 0, 0, 0, -1]])
    found = decode("end2end", {"output0": rows[None].astype(np.float32)})
    np.testing.assert_allclose(found.boxes, [[100.0, 50.0, 200.0, 150.0], [102.5, 50.0, 200.0, 150.0]], atol=1e-4)
    assert found.classes.tolist() == [2, 2]
    other = rows[:, [5, 4, 0, 1, 2, 3]]
    same = decode("end2end", {"boxes": other, "num": np.array([2])}, columns="class score left top right bottom")
    np.testing.assert_array_equal(same.boxes, found.boxes)
    apart = decode("end2end", {"dets": rows[None, :, :5], "labels": rows[None, :, 5]})
    np.testing.assert_array_equal(apart.classes, found.classes)
    centred = np.concatenate([(rows[:, :2] + rows[:, 2:4]) / 2, rows[:, 2:4] - rows[:, :2], rows[:, 4:]], axis=1)
    again = decode("end2end", {"output0": centred}, columns="centre_x centre_y width height score class")
    np.testing.assert_allclose(again.boxes, found.boxes, atol=1e-4)
    seven = np.concatenate([np.zeros((4, 1)), rows[:, [0, 1, 2, 3, 5, 4]]], axis=1)
    last = decode("end2end", {"output": seven}, columns="image left top right bottom class score", nms="hard")
    assert len(last) == 1


@pytest.mark.parametrize(
    ("decoder", "outputs", "options", "error", "message"),
    [
        ("yolov8", {"out": (1, 4, 315)}, {}, ModelError, r"wanted predictions \(1, 4 \+ classes, N\)"),
        ("yolov8", {"out": (2, 9, 315)}, {}, ModelError, "wanted predictions"),
        ("yolov8", {"a": (1, 315, 4), "b": (1, 300, 5)}, {}, ModelError, r"found a \(1, 315, 4\), b \(1, 300, 5\)"),
        ("yolov8", {"out": (1, 9, 315)}, {"nms": "best"}, InputError, "option 'nms' is 'best'; known: hard, soft"),
        ("yolov5", {"out": (1, 945, 5)}, {}, ModelError, r"wanted predictions \(1, N, 5 \+ classes\)"),
        ("yolov5", {"out": (1, 30, 12, 20)}, {}, ModelError, "give maps of logits with the option `anchors`"),
        ("yolov5", {"a": (1, 30, 12, 20)}, {"anchors": ANCHORS}, ModelError, r"a map .*, 6, 10\) of stride 16, found"),
        ("yolov5", {"a": (1, 30, 12, 20)}, {"anchors": ANCHORS[:2]}, InputError, "has 2 lists, wanted one for each"),
        (
            "distances",
            {"a": (1, 315, 69)},
            {"strides": [8, 16]},
            ModelError,
            r"240 \+ 60 cells, for an input of 160x96",
        ),
        ("distances", {"a": (1, 315, 60)}, {}, ModelError, "wanted scores and 64 channels of boxes"),
        ("distances", {"a": (1, 315, 69)}, {"bins": 0}, InputError, "'bins' 0; wanted scores_boxes or boxes_scores"),
        ("yolo_fastestv2", {"a": (1, 6, 10, 20)}, {}, ModelError, r"wanted \(1, 6, 10, 5 \* anchors \+ classes\), "),
        ("end2end", {"a": (1, 300, 7)}, {}, ModelError, "wanted rows of 6 columns"),
        ("end2end", {"a": (1, 300, 6)}, {"columns": "left top right"}, InputError, "option 'columns' lacks 'bottom'"),
    ],
)
def test_other_outputs_are_refused(
    decoder: str, outputs: Mapping[str, tuple[int, ...]], options: Any, error: type[EdgeqError], message: str
) -> None:
    with pytest.raises(error, match=f"decoder {decoder}: .*{message}" if "nms" not in options else message):
        decode(decoder, {name: np.zeros(shape, np.float32) for name, shape in outputs.items()}, **options)


@pytest.mark.parametrize(
    ("decoder", "shape", "options"),
    [
        ("yolov8", (1, 9, 315), {}),
        ("yolov5", (1, 945, 10), {}),
        ("distances", (1, 315, 69), {"logits": False}),
        ("end2end", (1, 300, 6), {}),
    ],
)
@pytest.mark.parametrize("make", [np.zeros, lambda shape, dtype: np.full(shape, -3, dtype)])
def test_nothing_gives_no_boxes(
    decoder: str, shape: tuple[int, ...], options: Any, make: Callable[..., np.ndarray]
) -> None:
    found = decode(decoder, {"out": make(shape, np.float32)}, **options)
    assert found.boxes.shape == (0, 4) and found.scores.shape == found.classes.shape == (0,)


def test_the_best_candidates_are_looked_at_and_one_class_or_several(rng: np.random.Generator) -> None:
    boxes, scores = rows_of_centres(rng, count(8, 16, 32))
    output = {"out": np.concatenate([boxes, scores], axis=1).T[None]}
    every = decode("yolov8", output, nms="none", top_k=10_000, score_threshold=0.1)
    assert len(every) == (scores >= 0.1).sum()
    best = decode("yolov8", output, nms="none", score_threshold=0.1, candidates=20)
    np.testing.assert_array_equal(best.scores, np.sort(scores.ravel())[::-1][:20])
    single = decode("yolov8", output, nms="none", top_k=10_000, score_threshold=0.1, multi_label=False)
    assert len(single) == (scores.max(axis=1) >= 0.1).sum()
