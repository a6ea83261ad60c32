"""PaddleDetection's files with their post-processing, which take a scale and a size besides the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edgeq.calibration.source import CalibrationSource
from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import specs
from edgeq.inputs import items_of
from edgeq.inputs.preprocessing import preprocess
from edgeq.runtimes import open_session
from edgeq.sources.model import ModelRequest, open_model
from edgeq.tasks import find_decoder
from edgeq.verbs.export import export_model

SIDE = 32

# A cell of 8x8 pixels is an object of the class of its brightest channel; all other boxes have no score.
HEAD = """
  c = Conv<kernel_shape=[8,8], strides=[8,8]>(image, weight, bias)
  s = Sigmoid(c)
  r = Reshape(s, three_rows)
  scores = Concat<axis=2>(r, no_scores)
  sy, sx = Split<axis=1, num_outputs=2>(scale_factor)
  scale = Concat<axis=1>(sx, sy, sx, sy)
"""
SUPPRESSED = f"""<ir_version: 9, opset_import: ["" : 18]>
g (float[N,3,{SIDE},{SIDE}] image, float[N,2] scale_factor) => (float[n,6] rows, int64[1] count) {{{HEAD}
  real = Div(boxes, scale)
  kept = NonMaxSuppression(real, scores, most, iou, least)
  chosen = GatherND(scores, kept)
  score = Unsqueeze(chosen, one)
  kind = Slice(kept, one, two, one)
  place = Slice(kept, two, three, one)
  class = Cast<to=1>(kind)
  flat = Squeeze(real, zero)
  rank1 = Squeeze(place, one)
  corners = Gather(flat, rank1)
  rows = Concat<axis=1>(class, score, corners)
  shape = Shape(rank1)
  count = Identity(shape)
}}"""
CHOSEN = f"""<ir_version: 9, opset_import: ["" : 18]>
g (float[N,2] im_shape, float[N,3,{SIDE},{SIDE}] image, float[N,2] scale_factor)
  => (float[5,6] rows, int64[1] count) {{{HEAD}
  relative = Div(boxes, side)
  h, w = Split<axis=1, num_outputs=2>(im_shape)
  size = Concat<axis=1>(w, h, w, h)
  absolute = Mul(relative, size)
  real = Div(absolute, scale)
  flat_scores = Reshape(scores, all)
  best, place = TopK(flat_scores, count5)
  kind = Div(place, cells)
  box = Mod(place, cells)
  flat = Squeeze(real, zero)
  corners = Gather(flat, box)
  classf = Cast<to=1>(kind)
  class = Unsqueeze(classf, one)
  score = Unsqueeze(best, one)
  rows = Concat<axis=1>(class, score, corners)
  count = Identity(count5)
}}"""


def save(path: Path, text: str, cells: int) -> Path:
    rows, columns = np.divmod(np.arange(16), 4)
    boxes = np.zeros((1, cells, 4), np.float32)
    boxes[0, :16] = np.stack([columns * 8, rows * 8, columns * 8 + 8, rows * 8 + 8], axis=1)
    weight = np.zeros((3, 3, 8, 8), np.float32)
    weight[range(3), range(3)] = 10 / 64
    constants = {
        "weight": weight,
        "bias": np.full(3, -5, np.float32),
        "three_rows": np.array([1, 3, 16]),
        "no_scores": np.zeros((1, 3, cells - 16), np.float32),
        "boxes": boxes,
        "side": np.array(SIDE, np.float32),
        "most": np.array([5]),
        "iou": np.array([0.5], np.float32),
        "least": np.array([0.5], np.float32),
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "three": np.array([3]),
        "all": np.array([-1]),
        "count5": np.array([5]),
        "cells": np.array(cells),
    }
    model = onnx.parser.parse_model(text)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(each, name) for name, each in constants.items() if name in used
    )
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def image() -> np.ndarray:
    """Returns 64x96 pixels, in which three squares of a cell, 16x24 pixels, have a colour."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    for channel, (row, column) in enumerate([(0, 1), (2, 2), (3, 0)]):
        pixels[row * 16 : row * 16 + 16, column * 24 : column * 24 + 24, channel] = 255
    return pixels


# Preset -> graph and boxes: of PicoDet's four strides, of PP-YOLOE's three, and of RT-DETR's queries.
FORMS = {"picodet_nms": (SUPPRESSED, 22), "ppyoloe_nms": (SUPPRESSED, 21), "rtdetr_paddle": (CHOSEN, 20)}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_is_recognised_and_finds_boxes_in_the_images_pixels(
    form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "edgeq")
    path = save(tmp_path / "net.onnx", *FORMS[form])
    source = CalibrationSource(list(items_of([image()], 8)), method="minmax")
    (file,) = export_model(ModelRequest(str(path)), "x86", ("fp32",), tmp_path / "out", calibration=source).files
    artifact = file.artifact
    assert f"(`preset` {form})" in caplog.text
    assert "net.onnx: the input scale_factor is always [[1.0, 1.0]]" in caplog.text
    assert [spec.name for spec in artifact.inputs] == ["image"]
    assert artifact.preprocessing is not None and artifact.postprocessing is not None
    array, placement = preprocess(image(), artifact.preprocessing)
    with open_session(artifact, "onnxruntime") as session:
        outputs = session.run({"image": array})
    given = {"scale_factor": np.ones((1, 2), np.float32), "im_shape": np.array([[SIDE, SIDE]], np.float32)}
    whole = onnxruntime.InferenceSession(path)
    feeds = {each.name: given.get(each.name, array) for each in whole.get_inputs()}
    for found, expected in zip(outputs.values(), whole.run(None, feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    found = find_decoder(artifact.postprocessing).decode(outputs, artifact.postprocessing, placement)
    best = np.argsort(-found.scores, kind="stable")[:3]
    boxes = {int(found.classes[place]): found.boxes[place].tolist() for place in best}
    assert boxes == {0: [24, 0, 48, 16], 1: [48, 32, 72, 48], 2: [0, 48, 24, 64]}


def test_a_free_size_is_the_callers(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", CHOSEN.replace(f"[N,3,{SIDE},{SIDE}]", "[N,3,H,W]"), 20)
    with pytest.raises(ModelError, match=r"takes 2 inputs .*im_shape"):
        open_model(ModelRequest(str(path)))
    opened = open_model(ModelRequest(str(path), size=(SIDE, SIDE)))
    np.testing.assert_array_equal(opened.given["im_shape"], [[SIDE, SIDE]])
    assert [spec.name for spec in specs(opened.model.graph.graph.inputs)] == ["image"]
