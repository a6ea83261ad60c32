"""The files that are tried on the GPU: detectors and a ViT with trained weights, in every precision of the target."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.jobs import FileJob
from edgeq.exporting.onnx.writer import engine_graph
from edgeq.exporting.planning.keep import resolve_keep
from edgeq.sources.formats import ONNX
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import get_target

DATA = Path(os.environ.get("EDGEQ_DATA", Path(__file__).parents[3] / "shared" / "data"))

TARGET = "rtx"
_NUM = 32


@dataclass(frozen=True)
class Subject:
    """A model.

    Attributes:
        name: What the table calls it.
        request: How it is opened.
        precisions: What it is exported in.
        annotations: COCO file of the images that it is scored on; `None` of one that is not scored.
        images: Their folder.
        calibration: COCO file or folder that it is calibrated on.
        calibration_images: Folder of a COCO file's images.
    """

    name: str
    request: ModelRequest
    precisions: tuple[str, ...]
    calibration: Path
    calibration_images: Path | None = None
    annotations: Path | None = None
    images: Path | None = None


def subjects(folder: Path) -> Iterator[Subject]:
    """Yields the models whose data is here; images of the ViT are written to a folder."""
    opset = get_target(TARGET).rules.opset
    weights, coco, bccd = DATA / "weights", DATA / "coco", DATA / "bccd"
    if (yolox := weights / "yolox_nano_coco_416.onnx").is_file():
        yield Subject(
            "YOLOX-nano",
            ModelRequest(str(yolox), preset="yolox", opset=opset),
            ("fp32", "fp16", "int8", "fp8"),
            coco / "instances_train.json",
            coco / "train2017",
            coco / "instances_val.json",
            coco / "val2017",
        )
    if (centernet := weights / "centernet_r18_bccd.safetensors").is_file():
        labels = str(bccd / "instances_train.json")
        yield Subject(
            "CenterNet-R18",
            ModelRequest("centernet_resnet18", centernet, size=(320, 416), labels=labels, opset=opset),
            ("fp32", "fp16", "int8", "fp8"),
            bccd / "instances_train.json",
            bccd / "images",
            bccd / "instances_val.json",
            bccd / "images",
        )
    if (vit := weights / "vit_d128_l6_fashionmnist.safetensors").is_file():
        request = ModelRequest("vit_fashionmnist", vit, opset=opset)
        yield Subject("ViT-d128", request, ("fp32", "fp16", "int8", "fp8", "w4", "fp4"), _digits(folder / "images"))


def _digits(folder: Path) -> Path:
    """Returns a folder of calibration images of the ViT, one of every few in the file, which is sorted by class."""
    from PIL import Image

    with np.load(DATA / "classification" / "fashionmnist_train2k_calib.npz") as held:
        (images,) = (held[name] for name in held.files if held[name].ndim >= 3)
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images[:: max(1, len(images) // _NUM)]):
        content = io.BytesIO()
        Image.fromarray(np.squeeze(image).astype(np.uint8)).convert("RGB").save(content, "PNG")
        (folder / f"{number:03d}.png").write_bytes(content.getvalue())
    return folder


def write(subject: Subject, folder: Path) -> list[Artifact]:
    """Returns the files of a model in its precisions, without comparing them: the step `equality` does."""
    target, model = get_target(TARGET), open_model(subject.request).model
    calibration = CalibrationSource(subject.calibration, subject.calibration_images, num=_NUM)
    folder.mkdir(parents=True, exist_ok=True)
    ranges, _ = calibration.ranges(model, folder, None, [target])
    kept = resolve_keep(engine_graph(model, target))
    job = FileJob(model, target, folder, ranges=ranges, kept=kept)
    write_file = ONNX.function("write")
    return [write_file(dataclasses.replace(job, precision=precision)) for precision in subject.precisions]
