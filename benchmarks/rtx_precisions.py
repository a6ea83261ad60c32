"""How much of a model's signal do files for RTX GPUs keep in each precision, and what does rounding by inputs bring?

`python -m benchmarks.rtx_precisions` exports each model in FP16, INT8, FP8, INT4 and FP4, the last two once more with
weights rounded to nearest, and computes their outputs in exact arithmetic. What is finished is kept in `--work`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.any_graph import SUBJECTS, request_of
from benchmarks.cases import (
    DATA,
    code_state,
    cpu_and_threads,
    kept_result,
    read_subjects,
    states_of,
    subjects_parser,
    write_result,
)
from benchmarks.image_sets import image_set
from benchmarks.scored_models import decibels, inputs_of, outputs_of
from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators.ranges import Ranges
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.linear import linear_of
from edgeq.exporting.onnx.fp8 import FP8
from edgeq.exporting.onnx.weight_only import FP4, W4, write_weight_only
from edgeq.exporting.onnx.writer import write_fp32
from edgeq.machine import read_machine
from edgeq.sources.model import open_model
from edgeq.targets import get_target
from edgeq.verbs.export import export_model

NAMES = ("vit", "vit_tiny", "dinov2", "mobilenet", "yolox")
IMAGES, COMPARED = 32, 16
WORK = Path("artifacts/rtx_precisions")

_TARGET, _EXACT = "rtx", "simulated-narrow"
_IMAGE_SETS = {"vit": "fashionmnist"}
"""Of models that do not look at COCO's images."""

_TITLES = {"fp16": "FP16", "int8": "INT8", FP8: "FP8", W4: "INT4 weights", FP4: "FP4 weights"}


def measure(name: str, data: Path, images: int, work: Path) -> dict[str, Any]:
    """Returns precision -> layers, bytes and dB of each output of the files of a model; those to nearest apart."""
    folder, target = work / name, get_target(_TARGET)
    folder.mkdir(parents=True, exist_ok=True)
    given = image_set(_IMAGE_SETS.get(name, "coco"), data, work)
    source = CalibrationSource(given.calibration, given.calibration_images, num=images)
    request = dataclasses.replace(request_of(SUBJECTS[name], source, data, folder), opset=target.rules.opset)
    model = open_model(request).model
    narrow = (W4, FP4) if any(linear_of(node) is not None for node in model.graph.graph) else ()
    exported = export_model(request, _TARGET, ("fp16", "int8", FP8, *narrow), folder, calibration=source)
    assert exported.ranges_path is not None
    ranges = Ranges.load(exported.ranges_path)
    nearest = folder / "nearest"
    nearest.mkdir(exist_ok=True)
    found = {each.artifact.precision: each.artifact for each in exported.files}
    found |= {f"{each}, to nearest": write_weight_only(model, target, nearest, each, ranges) for each in narrow}
    reference = write_fp32(model, target, folder)
    inputs = inputs_of(reference, given, COMPARED)
    expected = outputs_of(reference, _EXACT, inputs)
    rows = {label: _row(file, decibels(expected, outputs_of(file, _EXACT, inputs))) for label, file in found.items()}
    return {"files": rows, "state": code_state()}


def _row(file: Artifact, signal: Sequence[float]) -> dict[str, Any]:
    facts = file.quantization
    layers = facts.get(f"{file.precision}_nodes", 0)
    return {"layers": layers, "bytes": file.path.stat().st_size, "db": list(signal)}


def to_markdown(results: Mapping[str, Mapping[str, Any]], images: int) -> str:
    """Returns the table: a row for each file."""
    lines = [
        "# Files for RTX GPUs by precision",
        "",
        "| model | precision | layers | file MB | dB mean | least |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, found in results.items():
        for label, row in found["files"].items():
            precision, _, rounding = label.partition(", ")
            title = f"{_TITLES[precision]}{rounding and f', {rounding}'}"
            signal = f"{sum(row['db']) / len(row['db']):.1f} | {min(row['db']):.1f}"
            layers = row["layers"] or ""
            lines.append(f"| {SUBJECTS[name].title} | {title} | {layers} | {row['bytes'] / 1e6:.2f} | {signal} |")
    lines += [
        "",
        f"dB: signal-to-noise ratio of the outputs against FP32 on {COMPARED} images that were not calibrated on "
        f"({images} were; weights of 4 bits see the eight of them that the ranges keep). Simulated, by ONNX Runtime "
        f"{version('onnxruntime')} without graph optimizations, on {cpu_and_threads(read_machine(), 1)}; "
        f"{states_of(results.values())}. ViT-d128 has images of Fashion-MNIST, the others of COCO.",
    ]
    return "\n".join(lines) + "\n"


def make_parser() -> argparse.ArgumentParser:
    return subjects_parser(__doc__, SUBJECTS, NAMES, IMAGES, WORK)


def run(names: Sequence[str], out: Path, *, data: Path = DATA, images: int = IMAGES, work: Path = WORK) -> Path:
    """Returns the result file.

    Args:
        names: Of `benchmarks.any_graph.SUBJECTS`.
        out: Folder of the result file.
        data: Folder of the real data.
        images: How many images are calibrated on.
        work: Folder for the files; what was measured is not measured again.
    """
    results = {name: kept_result(work / f"{name}.{images}.json", measure, name, data, images, work) for name in names}
    return write_result(out, "rtx_precisions.md", to_markdown(results, images))


def main() -> None:
    given = read_subjects(make_parser(), SUBJECTS)
    run(given.names, given.out, data=given.data, images=given.images, work=given.work)


if __name__ == "__main__":
    main()
