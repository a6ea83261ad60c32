"""A classifier with one layer that INT8 destroys, and images that it tells apart."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

SIDE, CLASSES = 16, 5
_OUTLIER = 400.0
PRESET = f"""
[preprocessing]
height_px = {SIDE}
width_px = {SIDE}
resize = "stretch"
channel_order = "rgb"

[postprocessing]
decoder = "classification"
"""


def save_classifier(
    folder: Path, *, images: int = 70, calibration: int = 12, outlier: float = _OUTLIER, spare: bool = False
) -> tuple[Path, Path, Path, Path]:
    """Writes the classifier, its preset, images with the classes that it gives them, and images to calibrate on.

    What its layer `fragile` reads has one channel that is 400 times as large as the others, whose weights are as much
    smaller: exact in float, and nothing is left of the other channels on a grid of 8 bits.

    Args:
        folder: Where to write.
        images: How many to score on.
        calibration: How many to calibrate on.
        outlier: How many times that channel is as large. Below 1 the weights are as much larger: 1/16 leaves enough of
            the others with 8 bits, and nothing with 4.
        spare: Whether there is a layer `spare` as large, behind `fragile`, which has no such channel.

    Returns:
        The ONNX file, the preset, the list of images with classes, and the folder of images to calibrate on.
    """
    from PIL import Image

    rng = np.random.default_rng(5)
    drawn = [_image(rng) for _ in range(images + calibration)]
    net = _Net(rng, outlier, spare=spare)
    net.centre(drawn)
    path, preset = folder / "net.onnx", folder / "net.toml"
    net.save(path)
    preset.write_text(PRESET)
    scored, calib = folder / "scored", folder / "calib"
    for each in (scored, calib):
        each.mkdir()
    rows = []
    for number, pixels in enumerate(drawn):
        held = number >= images
        Image.fromarray(pixels).save((calib if held else scored) / f"{number}.png")
        if not held:
            rows.append((f"{number}.png", int(net.logits(pixels).argmax())))
    labels = scored / "labels.csv"
    with labels.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path, preset, labels, calib


def _image(rng: np.random.Generator) -> np.ndarray:
    """Returns an image of one colour, with some noise."""
    colour = rng.integers(30, 226, 3)
    return np.clip(colour + rng.normal(0, 12, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


class _Net:
    """Two or three 1x1 convolutions and a linear layer, computed here without any engine."""

    def __init__(self, rng: np.random.Generator, outlier: float, *, spare: bool) -> None:
        self.first = rng.normal(0, 1, (64, 3)).astype(np.float32)
        self.scale = np.ones(64, np.float32)
        self.scale[0] = outlier
        self.fragile = (rng.normal(0, 0.2, (64, 64)) / self.scale).astype(np.float32)
        self.spare = rng.normal(0, 0.2, (64, 64)).astype(np.float32) if spare else None
        self.head = rng.normal(0, 1, (CLASSES, 64)).astype(np.float32)
        self.bias = np.zeros(CLASSES, np.float32)

    def features(self, pixels: np.ndarray) -> np.ndarray:
        planes = pixels.reshape(-1, 3).astype(np.float64) / 255
        behind = np.maximum(planes @ self.first.T, 0) * self.scale
        behind = np.maximum(behind @ self.fragile.T, 0)
        if self.spare is not None:
            behind = np.maximum(behind @ self.spare.T, 0)
        mean: np.ndarray = behind.mean(axis=0)
        return mean

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.head @ self.features(pixels) + self.bias
        return found

    def centre(self, images: list[np.ndarray]) -> None:
        """Gives every class the same mean, so that no class takes all images."""
        self.bias = -np.mean([self.head @ self.features(each) for each in images], axis=0).astype(np.float32)

    def save(self, path: Path) -> None:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        nodes = [
            helper.make_node("Conv", ["image", "w0"], ["c0"], name="sturdy"),
            helper.make_node("Relu", ["c0"], ["r0"], name="relu0"),
            helper.make_node("Mul", ["r0", "scale"], ["m0"], name="outlier"),
            helper.make_node("Conv", ["m0", "w1"], ["c1"], name="fragile"),
            helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
            *self._spare_nodes(helper),
            helper.make_node("GlobalAveragePool", ["r1" if self.spare is None else "r3"], ["p"], name="pool"),
            helper.make_node("Flatten", ["p"], ["f"], name="flat"),
            helper.make_node("Gemm", ["f", "w2", "b2"], ["logits"], name="head", transB=1),
        ]
        weights = {
            "w0": self.first[:, :, None, None], "scale": self.scale[None, :, None, None],
            "w1": self.fragile[:, :, None, None], "w2": self.head, "b2": self.bias,
        }  # fmt: skip
        if self.spare is not None:
            weights["w3"] = self.spare[:, :, None, None]
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)

    def _spare_nodes(self, helper: Any) -> list[Any]:
        if self.spare is None:
            return []
        return [
            helper.make_node("Conv", ["r1", "w3"], ["c3"], name="spare"),
            helper.make_node("Relu", ["c3"], ["r3"], name="relu3"),
        ]
