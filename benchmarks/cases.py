"""The real detectors and images that the benchmarks use, found through `EDGEQ_DATA`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from edgeq.model_source import ModelRequest

DATA = Path(os.environ.get("EDGEQ_DATA", Path(__file__).parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Case:
    """A trained detector with images to calibrate on and to score on."""

    title: str
    request: ModelRequest
    calibration: Path
    calibration_images: Path
    calibration_num: int
    validation: Path
    validation_images: Path


def case(name: str) -> Case:
    if not (DATA / "MANIFEST.md").is_file():
        sys.exit(f"real data not found at {DATA}; set EDGEQ_DATA to its folder")
    weights, bccd, coco = DATA / "weights", DATA / "bccd", DATA / "coco"
    if name == "centernet":
        request = ModelRequest(
            "centernet_resnet18",
            weights / "centernet_r18_bccd.safetensors",
            size=(320, 416),
            labels=str(bccd / "instances_train.json"),
        )
        images = bccd / "images"
        title = "CenterNet-R18 on bccd, 87 validation images, calibrated on 64 training images"
        return Case(title, request, bccd / "instances_train.json", images, 64, bccd / "instances_val.json", images)
    file, preset, title = {
        "yolox": ("yolox_nano_coco_416.onnx", "yolox", "YOLOX-nano"),
        "fastestdet": ("fastestdet_coco_352.onnx", "fastestdet", "FastestDet"),
    }[name]
    return Case(
        f"{title} on 88 COCO val2017 images, calibrated on 166 train2017 images",
        ModelRequest(str(weights / file), preset=preset),
        coco / "instances_train.json",
        coco / "train2017",
        166,
        coco / "instances_val.json",
        coco / "val2017",
    )
