"""Models that say the same of every image, one per task, and a data set of one image with what is true of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from edgeq.exporting.artifact import Artifact, Postprocessing, Preprocessing
from edgeq.exporting.tensor_spec import TensorSpec

SIDE = 64

Outputs = Mapping[str, np.ndarray[Any, Any]]


def save_constant(
    folder: Path, precision: str, outputs: Outputs, decoder: str, labels: tuple[str, ...] = ()
) -> Artifact:
    """Writes an ONNX model with these outputs, whatever the image; its image has `SIDE` pixels a side."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    path = folder / f"net.x86.{precision}.onnx"
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    weights = [numpy_helper.from_array(np.zeros((), np.float32), "zero")]
    for name, array in outputs.items():
        weights.append(numpy_helper.from_array(array.astype(np.float32), f"{name}_value"))
        nodes.append(helper.make_node("Add", [f"{name}_value", "nothing"], [name]))
    shape = (1, 3, SIDE, SIDE)
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in outputs.items()],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    fields: dict[str, Any] = {
        "path": path,
        "source_digest": "0" * 64,
        "format": "onnx",
        "precision": precision,
        "target": "x86",
        "inputs": (TensorSpec("image", "float32", shape),),
        "outputs": tuple(TensorSpec(name, "float32", tuple(array.shape)) for name, array in outputs.items()),
        "preprocessing": Preprocessing(SIDE, SIDE, resize="stretch"),
        "postprocessing": Postprocessing(decoder),
        "labels": labels,
    }
    return Artifact(**fields).save()


def save_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save(path)


def yolo_data(folder: Path, lines: list[str], names: list[str], **more: Any) -> Path:
    save_image(folder / "images" / "a.png")
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text(yaml.safe_dump({"val": "images", "names": names, **more}))
    return folder


# Centre, width and height of two objects, which the models find; the int8 ones only find the first.
BOXES = np.array([(20, 20, 24, 16), (46, 44, 20, 28)], np.float32)
SCORES = {"fp32": (0.9, 0.8), "int8": (0.9, 0.0)}


def instances(folder: Path, precision: str) -> Artifact:
    rows = np.zeros((1, 4 + 2 + 2, 2), np.float32)
    rows[0, :4], rows[0, 4, 0], rows[0, 5, 1] = BOXES.T, *SCORES[precision]
    rows[0, 6, 0] = rows[0, 7, 1] = 1
    outputs = {"output0": rows, "output1": np.ones((1, 2, 16, 16), np.float32)}
    return save_constant(folder, precision, outputs, "yolo-seg", ("cat", "dog"))


def instances_data(folder: Path) -> Path:
    lines = []
    for index, (x, y, w, h) in enumerate((BOXES / SIDE).tolist()):
        corners = [(x - w / 2, y - h / 2), (x + w / 2, y - h / 2), (x + w / 2, y + h / 2), (x - w / 2, y + h / 2)]
        lines.append(" ".join([str(index), *(f"{value:.8f}" for corner in corners for value in corner)]))
    return yolo_data(folder, lines, ["cat", "dog"])


POINTS = np.array([(-8, -6), (8, -6), (0, 6)], np.float32)


def poses(folder: Path, precision: str) -> Artifact:
    rows = np.zeros((1, 5 + 9, 2), np.float32)
    rows[0, :4], rows[0, 4] = BOXES.T, SCORES[precision]
    for number, box in enumerate(BOXES):
        rows[0, 5:, number] = np.concatenate([box[:2] + POINTS, np.full((3, 1), 0.9)], axis=1).ravel()
    return save_constant(folder, precision, {"output0": rows}, "yolo-pose", ("face",))


def poses_data(folder: Path) -> Path:
    lines = []
    for box in BOXES:
        points = np.concatenate([(box[:2] + POINTS) / SIDE, np.full((3, 1), 2)], axis=1).ravel()
        lines.append(" ".join(["0", *(f"{value:.8f}" for value in [*(box / SIDE), *points])]))
    return yolo_data(folder, lines, ["face"], kpt_shape=[3, 3])


ANGLE = 0.5


def oriented(folder: Path, precision: str) -> Artifact:
    rows = np.zeros((1, 4 + 2 + 1, 2), np.float32)
    rows[0, :4], rows[0, 4, 0], rows[0, 5, 1], rows[0, 6] = BOXES.T, *SCORES[precision], ANGLE
    return save_constant(folder, precision, {"output0": rows}, "yolo-obb", ("ship", "plane"))


def oriented_data(folder: Path) -> Path:
    from edgeq.tasks.oriented.boxes import corners_of

    save_image(folder / "images" / "a.png")
    (folder / "labelTxt").mkdir()
    corners = corners_of(BOXES, np.full(2, ANGLE)).reshape(2, 8)
    lines = [" ".join([*map(str, row), name, "0"]) for row, name in zip(corners, ("ship", "plane"), strict=True)]
    (folder / "labelTxt" / "a.txt").write_text("\n".join(lines))
    return folder


def class_map() -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[8:30, 8:40], pixels[40:60, 20:60] = 1, 2
    return pixels


def semantic(folder: Path, precision: str) -> Artifact:
    pixels = class_map()
    if precision == "int8":
        pixels[pixels == 2] = 1
    scores = (pixels[None] == np.arange(3)[:, None, None]).astype(np.float32)[None]
    labels = ("background", "road", "sky")
    return save_constant(folder, precision, {"scores": scores}, "semantic", labels)


def semantic_data(folder: Path) -> Path:
    save_image(folder / "images" / "a.png")
    (folder / "masks").mkdir()
    Image.fromarray(class_map()).save(folder / "masks" / "a.png")
    return folder


def text(folder: Path, precision: str) -> Artifact:
    probability = np.zeros((1, 1, SIDE, SIDE), np.float32)
    probability[..., 14:20, 10:34] = 0.95
    if precision == "fp32":
        probability[..., 40:46, 20:50] = 0.95
    return save_constant(folder, precision, {"map": probability}, "db")


def text_data(folder: Path) -> Path:
    save_image(folder / "a.png")
    lines = ["6,10,38,10,38,24,6,24,one", "16,36,54,36,54,50,16,50,two"]
    (folder / "gt_a.txt").write_text("\n".join(lines))
    return folder


def recognition(folder: Path, precision: str) -> Artifact:
    scores = np.zeros((1, 5, 4), np.float32)
    spelled = (1, 0, 2, 3, 3) if precision == "fp32" else (1, 0, 2, 2, 2)
    scores[0, range(5), spelled] = 1
    return save_constant(folder, precision, {"scores": scores}, "ctc", ("a", "b", "c"))


def recognition_data(folder: Path) -> Path:
    save_image(folder / "a.png")
    (folder / "list.csv").write_text("path,label\na.png,abc\n")
    return folder


def depth(folder: Path, precision: str) -> Artifact:
    metres = np.linspace(1, 9, SIDE * SIDE, dtype=np.float32).reshape(1, 1, SIDE, SIDE)
    return save_constant(folder, precision, {"depth": metres}, "depth")


def depth_data(folder: Path) -> Path:
    save_image(folder / "images" / "a.png")
    (folder / "depth").mkdir()
    np.save(folder / "depth" / "a.npy", np.linspace(1, 9, SIDE * SIDE).reshape(SIDE, SIDE))
    return folder


MODELS = {
    "instance-segmentation": (instances, instances_data), "keypoints": (poses, poses_data),
    "oriented-boxes": (oriented, oriented_data), "semantic-segmentation": (semantic, semantic_data),
    "text-detection": (text, text_data), "text-recognition": (recognition, recognition_data),
    "depth": (depth, depth_data),
}  # fmt: skip
"""Name of a task -> writes a file of a precision, and its data set."""
