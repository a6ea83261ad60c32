"""Which preset is recognised of files as they are found, and is any of them wrong?

`python -m benchmarks.recognition FOLDER ...` looks at each ONNX and TFLite file of the real data and of the folders
(installed packages, the exports of Ultralytics), and at torchvision's detectors as torch models. Each is judged by what
it is known to be: files that are not named here are listed as unknown.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import DATA, result_parser, write_result
from edgeq.errors import EdgeqError, InputError
from edgeq.inputs.presets import load_preset
from edgeq.machine import read_machine
from edgeq.sources.artifact_file import describe_file, facts_of
from edgeq.sources.model import ModelRequest, open_model
from edgeq.sources.recognition import recognise

NOTHING = ""
KNOWN = {
    "ch_ppocr_mobile_v2.0_cls_infer": NOTHING,
    "common": NOTHING,
    "common_det": "yolox",
    "common_old": NOTHING,
    "coral_movenet_single_pose_lightning_ptq": NOTHING,
    "coral_tf2_mobilenet_v2_1.0_224_ptq": NOTHING,
    "face_detection_full_range_sparse": "blazeface_full_range",
    "face_detection_short_range": "blazeface",
    "face_landmark": NOTHING,
    "face_landmark_with_attention": NOTHING,
    "fastestdet_coco_352": "fastestdet",
    "hand_landmark_full": NOTHING,
    "hand_landmark_lite": NOTHING,
    "hand_recrop": NOTHING,
    "iris_landmark": NOTHING,
    "layout_cdla": "picodet",
    "logreg_iris": NOTHING,
    "mlperftiny_resnet8_cifar10_float": NOTHING,
    "mlperftiny_resnet8_cifar10_int8": NOTHING,
    "mp_face_detection_short_range": "blazeface",
    "mul_1": NOTHING,
    "palm_detection_full": NOTHING,
    "palm_detection_lite": NOTHING,
    "pose_detection": NOTHING,
    "pose_landmark_full": NOTHING,
    "retinaface": "retinaface",
    "rtdetr-resnet50": "rtdetr_ultralytics",
    "selfie_segmentation": NOTHING,
    "selfie_segmentation_landscape": NOTHING,
    "sigmoid": NOTHING,
    "ultraface_rfb320": "ultraface",
    "yolo11n": "yolov8",
    "yolo12n": "yolov8",
    "yolo26n": "yolov8",
    "yolo26n_e2e": "yolov10",
    "yolov10n": "yolov8",
    "yolov10n_e2e": "yolov10",
    "yolov5n": "yolov8",
    "yolov6n": "yolov8",
    "yolov8n": "yolov8",
    "yolov8n-cls": "yolo_cls",
    "yolov8n-obb": "yolo_obb",
    "yolov8n-pose": "yolo_pose",
    "yolov8n-seg": "yolo_seg",
    "yolov8n_nms": "yolov10",
    "yolov8s-worldv2": "yolov8",
    "yolov9t": "yolov8",
    "yolox_nano_coco_416": "yolox",
    "yunet_n_320": "yunet",
}
"""Name of a file without its suffix -> preset that reads it; nothing for what is no detector, or has no preset."""

TORCHVISION = {
    "ssdlite320_mobilenet_v3_large": ("ssdlite", None),
    "ssd300_vgg16": ("ssd300", None),
    "retinanet_resnet50_fpn": ("retinanet", (320, 320)),
    "fcos_resnet50_fpn": ("fcos", (320, 320)),
}
"""Factory of torchvision -> preset, and the size to give, if it has none of its own."""


@dataclass(frozen=True)
class Looked:
    """What was found of a model.

    Attributes:
        name: The file, or the factory.
        wanted: The preset that reads it; empty if there is none.
        found: Presets of its candidates.
        verdict: `right`, `left to the user`, `not recognised`, `wrong`, or `unknown`.
    """

    name: str
    wanted: str
    found: tuple[str, ...]
    verdict: str

    @classmethod
    def of(cls, name: str, wanted: str | None, found: Sequence[str]) -> Looked:
        """Returns candidates with the verdict on them; `wanted` is `None` for what is not known."""
        presets = tuple(each.partition(",")[0] for each in found)
        if wanted is None:
            verdict = "unknown"
        elif len(presets) > 1:
            verdict = "left to the user" if wanted in presets else "wrong"
        elif presets == ((wanted,) if wanted else ()):
            verdict = "right"
        else:
            verdict = "wrong" if presets else "not recognised"
        return cls(name, wanted or "", tuple(found), verdict)


def look_at_files(folders: Sequence[Path]) -> Iterator[Looked]:
    """Yields what is recognised of each model file of the folders; files of the same name and size count once."""
    seen = set()
    for path in sorted(path for folder in folders for kind in ("onnx", "tflite") for path in folder.rglob(f"*.{kind}")):
        if (key := (path.name, path.stat().st_size)) in seen:
            continue
        seen.add(key)
        try:
            found = [each.preset for each in recognise(facts_of(describe_file(path))).candidates]
        except EdgeqError:  # it takes something else than one image
            found = []
        yield Looked.of(path.name, KNOWN.get(path.stem), found)


def look_at_torchvision(names: Sequence[str]) -> Iterator[Looked]:
    """Yields what is recognised of torchvision's detectors, with random weights."""
    for name in names:
        wanted, size = TORCHVISION[name]
        try:
            opened = open_model(ModelRequest(f"torchvision.models.detection:{name}", size=size)).model
        except InputError:
            yield Looked.of(name, wanted, [])
            continue
        preset = load_preset(wanted, size)
        same = opened.postprocessing == preset.postprocessing
        yield Looked.of(name, wanted, [wanted if same else str(opened.postprocessing)])


def run(out: Path, folders: Sequence[Path], *, torchvision: Sequence[str] = tuple(TORCHVISION)) -> Path:
    """Returns the result file: every model, and how many of each verdict."""
    looked = [*look_at_files(folders), *look_at_torchvision(torchvision)]
    counts = Counter(each.verdict for each in looked)
    sums = ", ".join(f"{counts[verdict]} {verdict}" for verdict in sorted(counts))
    lines = ["| model | is read by | recognised | |", "|---|---|---|---|"]
    lines += [
        f"| {each.name} | {each.wanted or '-'} | {'; '.join(each.found) or '-'} | {each.verdict} |" for each in looked
    ]
    how = f"Computed on {read_machine().cpu} with Python {read_machine().python}; files are looked at, not run."
    title = f"# Recognition: {len(looked)} models, {sums}"
    return write_result(out, "recognition.md", "\n".join([title, "", *lines, "", how]) + "\n")


def make_parser() -> argparse.ArgumentParser:
    parser = result_parser(__doc__)
    parser.add_argument(
        "folders", nargs="*", type=Path, default=[], help="folders of model files, besides the real data"
    )
    return parser


def main() -> None:
    given = make_parser().parse_args()
    run(given.out, [DATA, *given.folders])


if __name__ == "__main__":
    main()
