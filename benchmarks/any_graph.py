"""What becomes of models as people have them, on every target, from one calibration?

`python -m benchmarks.any_graph` calibrates each model once, exports it for all targets and writes a table: whether the
FP32 file computes what the model computes, how much INT8 leaves of it in exact arithmetic and in the engine of this
machine, how many layers are INT8, how large the file is and how long it took. What is finished is kept in `--work`.
`--target NAME`, once or several times, measures these targets alone; other rows stay as the page in `--out` has them.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import edgeq
from benchmarks.cases import (
    DATA,
    code_state,
    commit_of,
    kept_result,
    read_subjects,
    rows_of,
    subjects_parser,
    write_result,
)
from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.source import CalibrationSource
from edgeq.errors import EdgeqError, MissingDependencyError
from edgeq.evaluation.exact_comparison import Groups
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.signal.output_groups import WHOLE, ChannelGroup, output_groups
from edgeq.exporting.signal.ratio import Sums
from edgeq.exporting.tflite.writer import TfliteModel
from edgeq.files import write_text
from edgeq.inputs.preprocessing import FloatArray
from edgeq.inputs.presets import load_preset
from edgeq.machine import read_machine
from edgeq.runtimes import choose_runtimes, open_session
from edgeq.runtimes.tensorrt.compile import DEFAULT_SM, Compiler
from edgeq.sources.model import ModelRequest, open_float_model
from edgeq.targets import get_target
from edgeq.verbs.export import export_model
from edgeq.verbs.export_speed import Exported

TARGETS = ("x86", "x86-ort", "jetson-orin", "jetson-orin-trt11", "arm")
IMAGES, SETTLING = 32, 8
_ENGINES = ("onnxruntime", "openvino", "ai-edge-litert")
PACKAGES = (*_ENGINES, "torch", "torchvision", "timm", "transformers", "tensorrt-rtx-cu12")
WORK = Path("artifacts/any_graph")
PAGE = "any_graph.md"
HEADING = (
    "| model | target | FP32 differs by | INT8, exact dB | INT8, engine dB | layers in INT8 | MB | s | TensorRT "
    "| commit |"
)


def _preset(resize: str, scale: float, mean: str = "", std: str = "", order: str = "rgb") -> str:
    """Returns the text of a preset for a model without a decoder of ours: how its input is made is enough."""
    lines = ["[preprocessing]", f'resize = "{resize}"', f'channel_order = "{order}"', f"scale = {scale}"]
    return "\n".join([*lines, *([f"mean = [{mean}]", f"std = [{std}]"] if mean else []), ""])


@dataclass(frozen=True)
class Subject:
    """A model: a file below the data folder, a name of the zoo, or a factory with random weights of seed 0.

    Attributes:
        title: What the table calls it.
        reference: The file, name or factory.
        preset: A preset's name, or the text of one.
        size: Input height and width, where the model leaves them free.
        weights: Weights below the data folder.
        package: What its factory needs and edgeq does not.
    """

    title: str
    reference: str
    preset: str | None = None
    size: tuple[int, int] | None = None
    weights: str | None = None
    package: str = ""

    @property
    def is_missing(self) -> bool:
        """Whether its factory cannot run here."""
        return bool(self.package) and importlib.util.find_spec(self.package) is None


_HALVES = "0.5, 0.5, 0.5"
_OF_IMAGENET = _preset("stretch", 1 / 255, "0.485, 0.456, 0.406", "0.229, 0.224, 0.225")


def torchvision_subject(title: str, name: str, preset: str = _OF_IMAGENET, side: int = 224) -> Subject:
    """Returns a model of torchvision with random weights; `name` is what follows `torchvision.models`."""
    return Subject(f"{title} (random weights)", f"torchvision.models{name}", preset, (side, side))


def _random(title: str, factory: str, package: str, side: int = 224) -> Subject:
    reference = f"benchmarks.random_networks:{factory}"
    return Subject(f"{title} ({package}, random weights)", reference, _OF_IMAGENET, (side, side), package=package)


SUBJECTS = {
    "yunet": Subject("YuNet", "models/yunet_n_320.onnx", _preset("letterbox", 1.0, order="bgr")),
    "ultraface": Subject(
        "UltraFace RFB-320",
        "models/ultraface_rfb320.onnx",
        _preset("stretch", 1.0, "127, 127, 127", "128, 128, 128"),
    ),
    "ppocr_cls": Subject(
        "PP-OCR text direction",
        "models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        _preset("stretch", 1 / 255, _HALVES, _HALVES),
        (48, 192),
    ),
    "blazeface": Subject(
        "BlazeFace (TFLite)",
        "models/mp_face_detection_short_range.tflite",
        # Wide black edges, as a letterbox makes them, drive its scores to -25,000.
        _preset("stretch", 1.0, "127.5, 127.5, 127.5", "127.5, 127.5, 127.5"),
    ),
    "yolox": Subject("YOLOX-nano", "weights/yolox_nano_coco_416.onnx", "yolox"),
    "fastestdet": Subject("FastestDet", "weights/fastestdet_coco_352.onnx", "fastestdet"),
    "centernet": Subject(
        "CenterNet-R18", "centernet_resnet18", size=(320, 416), weights="weights/centernet_r18_bccd.safetensors"
    ),
    "resnet20": Subject("ResNet-20", "cifar_resnet20", weights="weights/resnet20_cifar10.safetensors"),
    "vit": Subject("ViT-d128", "vit_fashionmnist", weights="weights/vit_d128_l6_fashionmnist.safetensors"),
    "mobilenet": torchvision_subject("MobileNet-V3-small", ":mobilenet_v3_small"),
    "convnext": torchvision_subject("ConvNeXt-tiny", ":convnext_tiny"),
    "efficientnet": torchvision_subject("EfficientNet-V2-S", ":efficientnet_v2_s"),
    "swin": torchvision_subject("Swin-T", ":swin_t"),
    "ssdlite": torchvision_subject(
        "SSDLite320-MobileNet-V3",
        ".detection:ssdlite320_mobilenet_v3_large",
        _preset("stretch", 1 / 255, _HALVES, _HALVES),
        320,
    ),
    "levit": _random("LeViT-128S", "levit", "timm"),
    "mobilevit": _random("MobileViT-XXS", "mobilevit", "timm", 256),
    "detr": _random("DETR, small", "detr", "transformers", 320),
    "segformer": _random("SegFormer-B0", "segformer", "transformers", 256),
    "vit_tiny": _random("ViT-Tiny", "vit", "transformers"),
    "dinov2": _random("DINOv2 with SwiGLU, 4 blocks", "dinov2", "transformers"),
}


def compiled_verdict(path: Path) -> str:
    """Returns `built`, or why TensorRT for RTX does not compile a file; empty if it is not installed."""
    try:
        with Compiler() as compiler:
            found = compiler.compile(path)
    except MissingDependencyError:
        return ""
    return "built" if found.stage == "built" else f"{found.stage}: {found.node} {found.reason}"


def measure(name: str, target: str, data: Path, images: int, work: Path) -> dict[str, Any]:
    """Returns the facts of a target's FP32 and INT8 files of a model, or the error in words.

    The first target calibrates; the others use its ranges file.
    """
    folder = work / name
    ranges = folder / "ranges.json"
    source = CalibrationSource(data / "coco/instances_train.json", data / "coco/train2017", num=images)
    request = request_of(SUBJECTS[name], source, data, folder)
    try:
        model = open_float_model(request)
        if not ranges.is_file():
            calibrate(model, source.data(), ranges, num=images)
        start = time.perf_counter()
        result = export_model(
            dataclasses.replace(request, opset=get_target(target).rules.opset),
            target,
            ["fp32", "int8"],
            folder / target,
            calibration=CalibrationSource(ranges),
        )
    except EdgeqError as error:
        return {"error": str(error), "state": code_state()}
    seconds = time.perf_counter() - start
    float_file, int8_file = (_first(result.files, precision) for precision in ("fp32", "int8"))
    facts = int8_file.artifact.quantization
    # The images and the groups of channels that the exact figure is of.
    inputs = [array for array, _ in CalibrationSource(ranges).inputs(model.preprocessing, facts["signal"]["images"])]
    groups = [WHOLE] * len(model.outputs) if isinstance(model, TfliteModel) else output_groups(model.graph)
    return {
        "fp32_difference": float_file.comparison.max_abs_difference / max(float_file.comparison.max_abs_output, 1e-30),
        "exact_db": facts["signal"]["snr_db"],
        "engine": _engine(float_file.artifact, int8_file.artifact, inputs, groups),
        "int8_layers": facts.get("int8_nodes"),
        "float_layers": len(facts.get("float_nodes", {})),
        "bytes": int8_file.artifact.size_bytes,
        "seconds": seconds,
        "rtx": compiled_verdict(int8_file.artifact.path) if target.startswith("jetson") else "",
        "state": code_state(),
    }


def _first(files: Sequence[Exported], precision: str) -> Exported:
    return next(each for each in files if each.artifact.precision == precision)


def _engine(
    reference: Artifact, found: Artifact, inputs: Sequence[FloatArray], groups: Groups
) -> dict[str, Any] | None:
    """Returns the engine of the target that runs here and the least signal-to-noise ratio of an output in it."""
    names = choose_runtimes(found)
    if not names or names[0] == "simulated":
        return None
    sums: dict[tuple[str, ChannelGroup], Sums] = {}
    with open_session(reference, names[0]) as before, open_session(found, names[0]) as behind:
        for array in inputs:
            one, other = (
                {
                    spec.name: spec.decode(session.run({file.inputs[0].name: file.inputs[0].encode(array)})[spec.name])
                    for spec in file.outputs
                }
                for session, file in ((before, reference), (behind, found))
            )
            for (name, expected), members in zip(one.items(), groups, strict=True):
                for group in members if expected.shape == other[name].shape else ():
                    before_it = sums.get((name, group), Sums())
                    sums[name, group] = before_it + Sums.of(group.of(expected), group.of(other[name]))
    return {"name": names[0], "db": min(each.snr_db for each in sums.values())}


def _settled(request: ModelRequest, source: CalibrationSource, folder: Path) -> ModelRequest:
    """Returns the request of a factory with random weights that are written once, its BatchNorms settled on images."""
    if ":" not in request.reference or request.preset is None or request.size is None:
        return request
    weights = folder / "weights.safetensors"
    if not weights.is_file():
        from benchmarks.random_networks import write_settled

        preset = load_preset(request.preset, request.size)
        inputs = [array for array, _ in source.inputs(preset.preprocessing, SETTLING)]
        write_settled(request.reference, inputs, weights)
    return dataclasses.replace(request, weights=weights)


def request_of(subject: Subject, source: CalibrationSource, data: Path, folder: Path) -> ModelRequest:
    """Returns what opens a model; random weights are written to the folder once, BatchNorms settled on the images.

    Args:
        subject: The model.
        source: Images to settle on.
        data: Folder of the real data.
        folder: Folder for what is written.
    """
    preset = subject.preset
    if preset is not None and "\n" in preset:
        path = folder / "preset.toml"
        write_text(path, preset)
        preset = str(path)
    file = subject.reference.startswith(("models/", "weights/"))
    request = ModelRequest(
        str(data / subject.reference) if file else subject.reference,
        weights=None if subject.weights is None else data / subject.weights,
        preset=preset,
        size=subject.size,
    )
    return _settled(request, source, folder)


def to_markdown(
    results: Mapping[str, Mapping[str, Mapping[str, Any]]], images: int, earlier: Mapping[str, Sequence[str]]
) -> str:
    """Returns the table, and below it how its figures were obtained.

    Args:
        results: Model -> target -> what was measured.
        images: How many images were calibrated on.
        earlier: Title of a model -> rows of earlier runs, for what was not measured.
    """
    lines = ["# Models as people have them", "", HEADING, "|---|---|---:|---:|---|---:|---:|---:|---|---|"]
    for (name, subject), target in itertools.product(SUBJECTS.items(), TARGETS):
        if found := results.get(name, {}).get(target):
            lines.append(_row(subject.title, target, found))
        else:
            lines += [
                row for row in earlier.get(subject.title, ()) if row.startswith(f"| {subject.title} | {target} | ")
            ]
    machine = read_machine()
    cpu = f"{machine.cpu} ({', '.join(machine.cpu_features)})"
    versions = ", ".join(_versions())
    lines += [
        "",
        "FP32 differs by: the largest difference of an output value over the largest value, measured. INT8, exact: "
        "signal-to-noise ratio of the worst output, or of the worst group of its channels, in exact arithmetic: ONNX "
        "Runtime without graph optimizations, or LiteRT. INT8, engine: the same on the same images, between the FP32 "
        f"and the INT8 file in the engine that is named, measured on {cpu}. Files of jetson-orin ran in ONNX Runtime, "
        "which stands in for TensorRT, those of jetson-orin-trt11 without its optimizer WeightBiasQuantization. "
        f"One calibration of {images} COCO images serves all targets. TensorRT: "
        f"TensorRT for RTX, compiled for {DEFAULT_SM} without a GPU; nothing was run. Seconds are of a busy machine. "
        f"Random weights are of seed 0, with BatchNorm statistics of {SETTLING} images. Commit: edgeq's; rows with an "
        "earlier one or none are of earlier runs. "
        f"{versions}, edgeq {edgeq.__version__}, Python {machine.python}.",
    ]
    return "\n".join(lines) + "\n"


def _versions() -> Iterator[str]:
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"


def _row(title: str, target: str, found: Mapping[str, Any]) -> str:
    if "error" in found:
        return f"| {title} | {target} | {found['error']} | | | | | | | {commit_of(found['state'])} |"
    engine = found["engine"]
    cells = [
        f"{found['fp32_difference']:.1e}",
        f"{found['exact_db']:.1f}",
        "" if engine is None else f"{engine['db']:.1f} ({engine['name']})",
        f"{found['int8_layers']} of {found['int8_layers'] + found['float_layers']}",
        f"{found['bytes'] / 1e6:.2f}",
        f"{found['seconds']:.0f}",
        found["rtx"],
        commit_of(found["state"]),
    ]
    return f"| {title} | {target} | {' | '.join(cells)} |"


def make_parser() -> argparse.ArgumentParser:
    parser = subjects_parser(__doc__, SUBJECTS, SUBJECTS, IMAGES, WORK)
    parser.add_argument("--target", action="append", choices=TARGETS, help="measure this one; by default all")
    return parser


def run(
    names: Sequence[str],
    out: Path,
    *,
    targets: Sequence[str] = TARGETS,
    data: Path = DATA,
    images: int = IMAGES,
    work: Path = WORK,
) -> Path:
    """Returns the result file.

    Args:
        names: Of `SUBJECTS`.
        out: Folder of the result file, whose rows of other models and targets stay.
        targets: Of `TARGETS`.
        data: Folder of the real data.
        images: How many images are calibrated on.
        work: Folder for the files; a model and target whose result lies there is not measured again.
    """
    work.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name, target in itertools.product(names, targets):
        if SUBJECTS[name].is_missing:
            error = f"not measured: needs the package {SUBJECTS[name].package}"
            results[name][target] = {"error": error, "state": code_state()}
            continue
        kept = work / f"{name}.{target}.{images}.json"
        results[name][target] = kept_result(kept, measure, name, target, data, images, work)
    return write_result(out, PAGE, to_markdown(results, images, rows_of(out / PAGE, HEADING)))


def main() -> None:
    given = read_subjects(make_parser(), SUBJECTS)
    targets = given.target or TARGETS
    run(given.names, given.out, targets=targets, data=given.data, images=given.images, work=given.work)


if __name__ == "__main__":
    main()
