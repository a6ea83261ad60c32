"""What do INT8 files lose on x86 CPUs without VNNI, and does the simulation say so?

`python -m tests.x86.figures` writes benchmarks/results/saturation_networks.md: each network's files for CPUs with VNNI
and for any CPU, in exact arithmetic, in the engine as on AVX2 (emulated), and simulated. What is finished is kept in
`--work`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.any_graph import request_of
from benchmarks.cases import kept_result, read_subjects, subjects_parser, write_result
from benchmarks.image_sets import image_set
from benchmarks.scored_models import MODELS, decibels
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.options import ExportOptions
from edgeq.machine import read_machine
from edgeq.verbs.export import export_model
from tests.x86 import trap

NAMES = ("yunet", "ultraface", "fastestdet", "yolox", "centernet", "vit")
IMAGES, COMPARED, SCORED = 48, 16, 500
SLOW = {"centernet": 24}
"""Model -> images that it is scored on; the simulation takes a second for each."""

TARGETS = {"openvino": "x86-openvino", "onnxruntime": "x86-ort"}
FLOAT, EXACT = "onnxruntime", "simulated-narrow"
ISAS = ("vnni", "any")
WORK = Path("artifacts/saturation_networks")
ROOT = Path(__file__).parents[2]
HEADER = (
    "| model | engine | INT8 layers | file for | dB exact | on AVX2 | simulated | scored on | FP32 | exact | on AVX2 | "
    "simulated | simulated to AVX2, dB |"
)
RULE = "|---|---|--:|---|--:|--:|--:|---|" + "--:|" * 5


def export(name: str, target: str, isa: str, data: Path, images: int, work: Path) -> tuple[Artifact, Artifact]:
    """Returns the FP32 and the INT8 file of a model, which are written once; all are of the same ranges."""
    folder = work / name / isa
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob(f"*.{target}.int8.onnx.json")):
        model, ranges = MODELS[name], work / name / "ranges.json"
        given = image_set(model.images, data, work)
        source = CalibrationSource(given.calibration, given.calibration_images, num=images)
        exported = export_model(
            request_of(model.subject, source, data, work / name), target, ("fp32", "int8"), folder,
            calibration=CalibrationSource(ranges) if ranges.is_file() else source, options=ExportOptions(isa=isa),
            plan="cost",
        )  # fmt: skip
        if exported.ranges_path not in (None, ranges):
            exported.ranges_path.replace(ranges)
    paths = [next(folder.glob(f"*.{target}.{precision}.onnx")) for precision in ("fp32", "int8")]
    return Artifact.load(paths[0]), Artifact.load(paths[1])


def compute(
    python: Path, artifact: Artifact, runtime: str, images: str, data: Path, work: Path, counts: tuple[int, int]
) -> dict[str, Any]:
    """Returns a file's score, after its outputs were written.

    Args:
        python: This interpreter, or that of the emulated CPU.
        artifact: The file.
        runtime: What it is run in.
        images: Name of the set of images.
        data: Folder of the real data.
        work: Folder of the outputs.
        counts: How many images are compared, and scored on.
    """
    outputs = _outputs_path(python, artifact, runtime, work, counts)
    arguments = [artifact.path, runtime, images, data, work, *counts, outputs]
    command = [str(python), "-m", "tests.x86.one_file", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return {"score": json.loads(done.stdout.splitlines()[-1])}


def _outputs_path(python: Path, artifact: Artifact, runtime: str, work: Path, counts: tuple[int, int]) -> Path:
    emulated = "" if python == Path(sys.executable) else ".avx2"
    return work / f"{artifact.digest[:16]}.{runtime}{emulated}.{counts[0]}.{counts[1]}.npz"


def rows_of(
    name: str, runtime: str, avx2: Path, data: Path, images: int, work: Path, counts: tuple[int, int]
) -> list[str]:
    """Returns the rows of a model in an engine: of the file for CPUs with VNNI and of that for any CPU."""
    here, rows = Path(sys.executable), []
    for isa in ISAS:
        fp32, int8 = export(name, TARGETS[runtime], isa, data, images, work)
        ways = [
            (here, fp32, FLOAT), (here, int8, EXACT), (avx2, int8, runtime), (here, int8, f"simulated-avx2-{runtime}"),
        ]  # fmt: skip
        scores, outputs = [], []
        for python, file, way in ways:
            path = _outputs_path(python, file, way, work, counts)
            kept = path.with_suffix(".json")
            kept_result(kept, compute, python, file, way, MODELS[name].images, data, work, counts)
            scores.append(json.loads(kept.read_text())["score"])
            with np.load(path, allow_pickle=False) as stored:
                outputs.append(dict(stored))
        reference, _, engine, simulated = outputs
        db = [f"{min(decibels(reference, each)):.1f}" for each in outputs[1:]]
        values = ["–" if each is None else f"{each['value']:.4f}" for each in scores]
        agreement = f"{min(decibels(engine, simulated)):.1f}"
        layers = int8.quantization["int8_nodes"]
        scored = "–" if scores[0] is None else f"{scores[0]['images']} images, {scores[0]['name']}"
        cells = [MODELS[name].subject.title, runtime, str(layers), isa, *db, scored, *values, agreement]
        rows.append(f"| {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    return rows


def to_markdown(rows: Sequence[str], images: int) -> str:
    """Returns the table, and below it how its figures were obtained."""
    versions = ", ".join(f"{package} {version(package)}" for package in ("onnxruntime", "openvino"))
    lines = [
        "# INT8 without VNNI: exact, in the engines, simulated", "", HEADER, RULE, *rows, "",
        f"dB: lowest signal-to-noise ratio of an output against FP32 in ONNX Runtime, {COMPARED} images. Exact: ONNX "
        "Runtime without graph optimizations. On AVX2: *emulated*, the engine with its kernels for AVX2 (`python -m "
        "tests.x86`). Simulated: what `edgeq eval --simulate x86-avx2` or `x86-ort-avx2` computes. The last column is "
        "the lowest signal-to-noise ratio of the simulation against the engine: what is left differs because float "
        f"layers round otherwise. {images} images of the training set calibrate; shipped kernel costs choose layers.",
        f"{versions} on {read_machine().cpu}.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def make_parser() -> argparse.ArgumentParser:
    return subjects_parser(__doc__, MODELS, NAMES, IMAGES, WORK)


def main() -> None:
    """Writes the table."""
    given = read_subjects(make_parser(), MODELS)
    avx2 = trap.set_up()
    rows = [
        row
        for name in given.names
        for runtime in TARGETS
        for row in rows_of(
            name, runtime, avx2, given.data, given.images, given.work.resolve(), (COMPARED, SLOW.get(name, SCORED))
        )
    ]
    write_result(given.out, "saturation_networks.md", to_markdown(rows, given.images))


if __name__ == "__main__":
    main()
