"""Small ONNX files with the outputs of well-known detectors, and one in YOLOv8's form that finds coloured squares."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image

SIDE = 64
CELL = 8
COLOURS = ("red", "green", "blue")
_BACKGROUND = 40


def save_outputs(
    path: Path,
    outputs: Mapping[str, tuple[tuple[int, ...], Sequence[str]]],
    image: tuple[int, ...] = (1, 3, 320, 320),
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Writes a model whose outputs have these shapes, behind these operators of one input and one output each."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Conv", ["mean", "weight"], ["layer"]),
    ]
    constants = [numpy_helper.from_array(np.ones((1, image[1], 1, 1), np.float32), "weight")]
    for name, (shape, operators) in outputs.items():
        value = "layer"
        for number, operator in enumerate(operators):
            two = ["one"] if operator in ("Add", "Sub", "Mul", "Div") else []
            nodes.append(helper.make_node(operator, [value, *two], [f"{name}_{number}"]))
            value = f"{name}_{number}"
        nodes.append(helper.make_node("Reshape", [value, f"{name}_ones"], [f"{name}_flat"]))
        nodes.append(helper.make_node("Expand", [f"{name}_flat", f"{name}_shape"], [name]))
        constants.append(numpy_helper.from_array(np.ones(len(shape), np.int64), f"{name}_ones"))
        constants.append(numpy_helper.from_array(np.array(shape, np.int64), f"{name}_shape"))
    constants.append(numpy_helper.from_array(np.ones(1, np.float32), "one"))
    return _save(path, nodes, image, {name: shape for name, (shape, _) in outputs.items()}, constants, metadata)


def save_square_finder(
    path: Path, *, split: bool = False, metadata: Mapping[str, str] | None = None, first: str | None = None
) -> Path:
    """Writes a detector in YOLOv8's form for images of 64x64 pixels: each cell of 8x8 pixels is a box of its colour.

    Args:
        path: The file.
        split: Whether it gives corners and scores as two outputs, as YOLO-NAS does.
        metadata: Properties of the file.
        first: `Div` to divide the input by 255 in the graph.
    """
    cells, others = (SIDE // CELL) ** 2, 16 + 4
    rows, columns = np.divmod(np.arange(cells), SIDE // CELL)
    boxes = np.stack([columns + 0.5, rows + 0.5, np.ones(cells), np.ones(cells)]) * CELL
    if split:
        boxes = np.concatenate([boxes[:2] - boxes[2:] / 2, boxes[:2] + boxes[2:] / 2])
    means = np.zeros((3, 3, CELL, CELL), np.float32)
    means[range(3), range(3)] = 20 / CELL**2
    constants = {
        "same": np.eye(3, dtype=np.float32)[:, :, None, None],
        "means": means,
        "bias": np.full(3, -10, np.float32),
        "zeros": np.zeros((4, 3, CELL, CELL), np.float32),
        "grid": boxes[None].astype(np.float32),
        "no_boxes": np.full((1, 4, others), CELL, np.float32),
        "no_scores": np.full((1, 3, others), -10, np.float32),
        "classes_by_cells": np.array([1, 3, cells]),
        "sides_by_cells": np.array([1, 4, cells]),
        "most": np.array(255, np.float32),
    }
    image = "stem"
    nodes = [] if first is None else [helper.make_node(first, ["image", "most"], ["scaled"])]
    nodes += [
        helper.make_node("Conv", ["image" if first is None else "scaled", "same"], ["colours"]),
        helper.make_node("Relu", ["colours"], ["stem"]),
        helper.make_node("Conv", [image, "means", "bias"], ["map"], strides=[CELL, CELL]),
        helper.make_node("Reshape", ["map", "classes_by_cells"], ["flat"]),
        helper.make_node("Concat", ["flat", "no_scores"], ["logits"], axis=2),
        helper.make_node("Sigmoid", ["logits"], ["by_class"]),
        helper.make_node("Conv", [image, "zeros"], ["nothing"], strides=[CELL, CELL]),
        helper.make_node("Reshape", ["nothing", "sides_by_cells"], ["flat_sides"]),
        helper.make_node("Add", ["flat_sides", "grid"], ["found"]),
        helper.make_node("Concat", ["found", "no_boxes"], ["by_side"], axis=2),
    ]
    if split:
        nodes.append(helper.make_node("Transpose", ["by_class"], ["scores"], perm=[0, 2, 1]))
        nodes.append(helper.make_node("Transpose", ["by_side"], ["corners"], perm=[0, 2, 1]))
        shapes = {"scores": (1, cells + others, 3), "corners": (1, cells + others, 4)}
    else:
        nodes.append(helper.make_node("Concat", ["by_side", "by_class"], ["output0"], axis=1))
        shapes = {"output0": (1, 7, cells + others)}
    values = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return _save(path, nodes, (1, 3, SIDE, SIDE), shapes, values, metadata)


ULTRALYTICS = {
    "author": "Ultralytics",
    "task": "detect",
    "stride": "32",
    "imgsz": f"[{SIDE}, {SIDE}]",
    "names": str(dict(enumerate(COLOURS))),
}


def save_squares(folder: Path, count: int = 6, categories: Sequence[str] = COLOURS) -> tuple[Path, Path]:
    """Writes images of coloured squares on gray; returns their COCO annotations and the folder of images."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    ids = {name: number for number, name in enumerate(categories)}
    document: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }
    for number in range(count):
        pixels = np.full((SIDE, SIDE, 3), _BACKGROUND, np.uint8)
        places = rng.choice((SIDE // CELL) ** 2, 6, replace=False)
        for index, (row, column) in enumerate(zip(*np.divmod(places, SIDE // CELL), strict=True)):
            colour = index % 3
            pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL, colour] = 255
            box = [int(column) * CELL, int(row) * CELL, CELL, CELL]
            entry = {
                "id": len(document["annotations"]) + 1,
                "image_id": number,
                "bbox": box,
                "area": CELL**2,
                "iscrowd": 0,
            }
            document["annotations"].append(entry | {"category_id": ids[COLOURS[colour]]})
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        document["images"].append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
    (folder / "squares.json").write_text(json.dumps(document))
    return folder / "squares.json", folder / "images"


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    image: tuple[int, ...],
    outputs: Mapping[str, tuple[int, ...]],
    constants: list[onnx.TensorProto],
    metadata: Mapping[str, str] | None,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path
