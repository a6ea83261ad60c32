"""A folder with the files that the documents' commands name: drawn images, small weights, small models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from edgeq.models.zoo import shipped_weights
from edgeq.tasks.detection.shapes import draw_shapes_dataset
from tests.datasets.written import Box, Shown, yolo

_MY_MODELS = """
import torch
from edgeq.models.vit import VisionTransformer
from edgeq.models.vit_configs import VitConfig

def deit():
    torch.manual_seed(1)
    return VisionTransformer(VitConfig(64, 3, 4, 128, 32, image_px=224, outputs=7))
"""


def prepare(folder: Path, images: int = 5) -> Path:
    """Fills an empty folder and returns it.

    It holds the YOLO data set `dataset/`, `images/` with `train.json`, `val.json`, `labels.csv` and `counts.json`, the
    detectors `centernet.safetensors`, `yolox_nano.onnx` and `yolov10.onnx`, `counter.onnx`, `train2017/`, the factory
    `mymodels:deit` and CLIP's files.
    """
    annotations = draw_shapes_dataset(folder / "images", images=images, seed=5)
    for name in ("train.json", "val.json"):
        shutil.copy(annotations, folder / name)
    _save_yolo(annotations, folder / "dataset")
    annotations.unlink()
    shutil.copytree(folder / "images", folder / "train2017")
    names = sorted(path.name for path in (folder / "images").iterdir())
    (folder / "labels.csv").write_text("".join(f"{name},{number % 7}\n" for number, name in enumerate(names)))
    weights = shipped_weights("centernet_shapes")
    assert weights is not None
    shutil.copy(weights, folder / "centernet.safetensors")
    (folder / "counts.json").write_text(json.dumps({name: number % 4 for number, name in enumerate(names)}))
    (folder / "mymodels.py").write_text(_MY_MODELS)
    save_yolox(folder / "yolox_nano.onnx")
    save_end_to_end(folder / "yolov10.onnx")
    save_counter(folder / "counter.onnx")
    for precision, noise in (("fp32", 0.0), ("int8", 0.01)):
        save_embedder(folder / f"clip.x86.{precision}.onnx", precision, noise)
    return folder


def _save_yolo(annotations: Path, folder: Path) -> None:
    """Writes the drawn images as a YOLO data set."""
    document = json.loads(annotations.read_text())
    names = {each["id"]: each["name"] for each in document["categories"]}
    objects: dict[int, list[tuple[str, Box]]] = {each["id"]: [] for each in document["images"]}
    for each in document["annotations"]:
        objects[each["image_id"]].append((names[each["category_id"]], tuple(each["bbox"])))
    shown = [
        Shown(annotations.parent / each["file_name"], (each["width"], each["height"]), tuple(objects[each["id"]]))
        for each in document["images"]
    ]
    yolo(shown, folder, list(names.values()))


def save_yolox(path: Path, size_px: int = 416, classes: int = 80) -> None:
    """Writes a net with YOLOX's output: one linear layer on the means of each stride's cells."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, cells = [], 0
    weight = rng.normal(0, 0.02, (5 + classes, 3, 1, 1)).astype(np.float32)
    for stride in (8, 16, 32):
        side = size_px // stride
        cells += side * side
        window = [stride, stride]
        nodes += [
            helper.make_node("AveragePool", ["images"], [f"mean{stride}"], kernel_shape=window, strides=window),
            helper.make_node("Conv", [f"mean{stride}", "weight"], [f"map{stride}"], name=f"conv{stride}"),
            helper.make_node("Sigmoid", [f"map{stride}"], [f"scores{stride}"]),
            helper.make_node("Reshape", [f"scores{stride}", "flat"], [f"row{stride}"]),
        ]
    nodes += [
        helper.make_node("Concat", [f"row{stride}" for stride in (8, 16, 32)], ["rows"], axis=2),
        helper.make_node("Transpose", ["rows"], ["output"], perm=[0, 2, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "yolox",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size_px, size_px])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, cells, 5 + classes])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array([1, 5 + classes, -1]), "flat")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def save_embedder(path: Path, precision: str, noise: float, size_px: int = 8) -> None:
    """Writes a model whose embedding is the image's pixels, each times a factor near one, with its manifest."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from edgeq.exporting.artifact import Artifact, Postprocessing, Preprocessing
    from edgeq.exporting.tensor_spec import TensorSpec

    factors = np.random.default_rng(0).normal(1, noise, (1, 3, size_px, size_px)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["image", "factors"], ["product"]),
            helper.make_node("Reshape", ["product", "flat"], ["embedding"]),
        ],
        "embedder",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, factors.shape)],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, (1, factors.size))],
        [numpy_helper.from_array(factors, "factors"), numpy_helper.from_array(np.array([1, -1]), "flat")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    Artifact(
        path=path,
        format="onnx",
        precision=precision,
        target="x86",
        inputs=(TensorSpec("image", "float32", factors.shape),),
        outputs=(TensorSpec("embedding", "float32", (1, factors.size)),),
        preprocessing=Preprocessing(size_px, size_px, "stretch"),
        postprocessing=Postprocessing("embedding"),
        source_digest="clip",
    ).save()


def save_end_to_end(path: Path, height_px: int = 64, width_px: int = 96, boxes: int = 3) -> None:
    """Writes a net that gives boxes, scores and classes of six, `(1, boxes, 6)`; the scores follow the brightness."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.5, (boxes, 2)) * (width_px, height_px)
    rows = np.hstack([corners, corners + 16, np.full((boxes, 1), 0.5), rng.integers(0, 6, (boxes, 1))])
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["images"], ["channels"]),
            helper.make_node("ReduceMean", ["channels"], ["brightness"], keepdims=0),
            helper.make_node("Mul", ["brightness", "scores"], ["brighter"]),
            helper.make_node("Add", ["rows", "brighter"], ["output0"]),
        ],
        "end_to_end",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, height_px, width_px])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, boxes, 6])],
        [
            numpy_helper.from_array(rows[None].astype(np.float32), "rows"),
            numpy_helper.from_array(np.array([0, 0, 0, 0, 0.001, 0], np.float32), "scores"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def save_counter(path: Path, size_px: int = 32) -> None:
    """Writes a net that gives one number, `(1, 1)`, in the order of the counts of `counts.json`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "b1": rng.normal(0, 0.1, 8),
        "w2": rng.uniform(0, 1, (1, 8, 1, 1)),
        "b2": np.ones(1),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w1", "b1"], ["map"], name="first", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["map"], ["active"]),
            helper.make_node("GlobalAveragePool", ["active"], ["mean"]),
            helper.make_node("Conv", ["mean", "w2", "b2"], ["number"], name="second"),
            helper.make_node("Flatten", ["number"], ["count"]),
        ],
        "counter",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size_px, size_px])],
        [helper.make_tensor_value_info("count", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
