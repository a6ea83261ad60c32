"""YOLOX and FastestDet: boxes encoded as the papers say come back."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest

from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders import fastestdet, yolox

WIDTH, HEIGHT = 96, 64
PLACEMENT = Placement(192, 128, WIDTH, HEIGHT, 0.5, 0.5, 0, 0)
YOLOX = Postprocessing("yolox")
FASTESTDET = Postprocessing("fastestdet")

# Box in the image's pixels, class, score, and the cell that predicts it (stride or None, row, column).
OBJECTS = (
    ((20.0, 30.0, 60.0, 70.0), 1, 0.9, 8, 3, 2),
    ((100.0, 10.0, 180.0, 120.0), 0, 0.8, 32, 1, 2),
    ((90.0, 60.0, 130.0, 80.0), 2, 0.4, 16, 2, 3),
)


def yolox_output(classes: int = 3) -> np.ndarray:
    """Encodes `OBJECTS` for an input of 96x64: grids of 8x12, 4x6 and 2x3 cells."""
    first = {8: 0, 16: 8 * 12, 32: 8 * 12 + 4 * 6}
    output = np.zeros((1, 8 * 12 + 4 * 6 + 2 * 3, 5 + classes), np.float32)
    for box, label, score, stride, row, column in OBJECTS:
        x1, y1, x2, y2 = (value / 2 for value in box)
        cell = first[stride] + row * (WIDTH // stride) + column
        output[0, cell, :5] = (
            (x1 + x2) / 2 / stride - column,
            (y1 + y2) / 2 / stride - row,
            math.log((x2 - x1) / stride),
            math.log((y2 - y1) / stride),
            score / 0.95,
        )
        output[0, cell, 5 + label] = 0.95
    return output


def test_yolox_returns_the_encoded_boxes() -> None:
    found = yolox.decode({"output": yolox_output()}, YOLOX, PLACEMENT)
    np.testing.assert_allclose(found.boxes, [box for box, *_ in OBJECTS], atol=1e-3)
    np.testing.assert_allclose(found.scores, [score for _, _, score, *_ in OBJECTS], rtol=1e-6)
    assert found.classes.tolist() == [label for _, label, *_ in OBJECTS]
    assert [str(array.dtype) for array in (found.boxes, found.scores, found.classes)] == ["float32", "float32", "int64"]


def fastestdet_output(classes: int = 3) -> np.ndarray:
    """Encodes `OBJECTS` on a map of 8x12 cells, whatever their stride."""
    output = np.zeros((1, 5 + classes, 8, 12), np.float32)
    for box, label, score, *_ in OBJECTS:
        x1, y1, x2, y2 = (value / 2 for value in box)
        x, y = (x1 + x2) / 2 / 8, (y1 + y2) / 2 / 8
        row, column = min(int(y), 7), min(int(x), 11)
        width, height = (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT
        # objectness ** .6 * probability ** .4 is the score when both are the score
        output[0, :5, row, column] = (
            score,
            math.atanh(x - column),
            math.atanh(y - row),
            math.log(width / (1 - width)),
            math.log(height / (1 - height)),
        )
        output[0, 5 + label, row, column] = score
    return output


def test_fastestdet_returns_the_encoded_boxes() -> None:
    found = fastestdet.decode({"any name": fastestdet_output()}, FASTESTDET, PLACEMENT)
    np.testing.assert_allclose(found.boxes, [box for box, *_ in OBJECTS], atol=1e-3)
    np.testing.assert_allclose(found.scores, [score for _, _, score, *_ in OBJECTS], rtol=1e-6)
    assert found.classes.tolist() == [label for _, label, *_ in OBJECTS]
    assert [str(array.dtype) for array in (found.boxes, found.scores, found.classes)] == ["float32", "float32", "int64"]


def test_fastestdet_weighs_objectness_above_the_class() -> None:
    output = fastestdet_output()
    output[0, 0][output[0, 0] > 0.85] = 0.5
    found = fastestdet.decode({"output": output}, FASTESTDET, PLACEMENT)
    assert found.scores.max() == pytest.approx(0.8)
    assert found.scores[1] == pytest.approx(0.5**0.6 * 0.9**0.4)


def test_yolox_reports_an_object_once_unless_the_classes_differ() -> None:
    output = yolox_output()
    first, neighbour = output[0, 3 * 12 + 2], output[0, 3 * 12 + 3]
    neighbour[:] = first
    neighbour[0] -= 1  # the same box, seen from the next cell
    neighbour[4] *= 0.9
    assert len(yolox.decode({"output": output}, YOLOX, PLACEMENT)) == 3
    neighbour[5:] = (0.95, 0, 0)
    assert len(yolox.decode({"output": output}, YOLOX, PLACEMENT)) == 4
    few = Postprocessing("yolox", options={"top_k": 2})
    assert yolox.decode({"output": output}, few, PLACEMENT).scores.tolist() == pytest.approx([0.9, 0.81])


def test_fastestdet_reports_an_object_once_unless_the_classes_differ() -> None:
    output = fastestdet_output()
    first, neighbour = output[0, :, 3, 2], output[0, :, 3, 3]
    neighbour[:] = first
    neighbour[1] = math.atanh(2.5 - 3)  # the same box, seen from the next cell
    neighbour[0] *= 0.9
    assert len(fastestdet.decode({"output": output}, FASTESTDET, PLACEMENT)) == 3
    neighbour[5:] = (0.9, 0, 0)
    assert len(fastestdet.decode({"output": output}, FASTESTDET, PLACEMENT)) == 4


@pytest.mark.parametrize("decoder", [yolox, fastestdet])
def test_nothing_gives_no_boxes(decoder: ModuleType) -> None:
    output = yolox_output() if decoder is yolox else fastestdet_output()
    found = decoder.decode({"output": np.zeros_like(output)}, Postprocessing("any"), PLACEMENT)
    assert found.boxes.shape == (0, 4) and found.scores.shape == found.classes.shape == (0,)


@pytest.mark.parametrize("shape", [(1, 126, 5), (1, 125, 8), (2, 126, 8), (126, 8)])
def test_yolox_refuses_another_grid(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"wanted predictions \(1, 126, 5 \+ classes\) for an input of 96x64, found"):
        yolox.decode({"output": np.zeros(shape, np.float32)}, YOLOX, PLACEMENT)


@pytest.mark.parametrize("shape", [(1, 5, 8, 12), (2, 8, 8, 12), (1, 126, 8)])
def test_fastestdet_refuses_another_map(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"wanted predictions \(1, 5 \+ classes, H, W\), found output"):
        fastestdet.decode({"output": np.zeros(shape, np.float32)}, FASTESTDET, PLACEMENT)


def test_several_outputs_need_a_name() -> None:
    outputs = {"a": yolox_output(), "b": yolox_output()}
    with pytest.raises(ModelError, match=r"no output 'output' .* found a \(1, 126, 8\), b"):
        yolox.decode(outputs, YOLOX, PLACEMENT)
    assert len(yolox.decode(outputs, Postprocessing("yolox", {"predictions": "b"}), PLACEMENT)) == 3
