"""`edgeq demo`: the whole story on the shipped detector and drawn images; needs no network and no data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgeq.calibration.source import CalibrationSource
from edgeq.evaluation.evaluate import evaluate_artifacts
from edgeq.files import write_json, write_text
from edgeq.measurement.benchmark import bench_artifacts
from edgeq.measurement.timed_file import Sampling
from edgeq.results.rows import Row, merge
from edgeq.results.serialization import to_json
from edgeq.results.table import to_markdown
from edgeq.runtimes import is_installed
from edgeq.sources.model import ModelRequest
from edgeq.targets import get_target
from edgeq.tasks.detection.shapes import draw_shapes_dataset
from edgeq.verbs.export import export_model

MODEL = "centernet_shapes"
TARGETS = {"openvino": "x86", "onnxruntime": "x86-ort"}
"""Engine -> the target whose INT8 files are planned for it."""

_CALIBRATION_IMAGES = 64
# The detector was trained on images of other seeds (edgeq.models.train_shapes).
_CALIBRATION_SEED = 71
_VALIDATION_SEED = 72


def run_demo(
    out: Path, *, images: int = 100, seconds: float = 3.0, threads: int | None = None, say: Callable[[str], None]
) -> list[Row]:
    """Exports, calibrates, quantizes, runs and scores the shipped detector; returns the rows of its report.

    Args:
        out: Folder for images, files and results; what is there already is reused where it is the same.
        images: Validation images to draw.
        seconds: Minimum measuring time per artifact, in seconds.
        threads: CPU threads of the engines.
        say: Takes a line about each step.
    """
    say(f"1/4 drawing {_CALIBRATION_IMAGES} images to calibrate on and {images} to score on")
    calibration = draw_shapes_dataset(out / "calibration", images=_CALIBRATION_IMAGES, seed=_CALIBRATION_SEED)
    validation = draw_shapes_dataset(out / "validation", images=images, seed=_VALIDATION_SEED)
    targets = {runtime: get_target(name) for runtime, name in TARGETS.items() if is_installed(runtime)}
    names = " and ".join(target.name for target in targets.values())
    say(f"2/4 exporting {MODEL} as FP32, FP16 and INT8 for {names}")
    paths: dict[str, list[Path]] = {}
    source = CalibrationSource(calibration, calibration.parent)
    for runtime, target in targets.items():
        request = ModelRequest(MODEL, opset=target.rules.opset)
        exported = export_model(
            request, target.name, ("fp32", "fp16", "int8"), out / "artifacts", calibration=source, threads=threads
        )
        paths[runtime] = exported.paths
        if exported.ranges_path is not None:  # calibrated once, for both
            source = CalibrationSource(exported.ranges_path)
    say(f"3/4 measuring in {' and '.join(paths)}, the files of each in turns")
    sampling = Sampling(min_s=seconds)
    timings = [
        result
        for runtime, files in paths.items()
        for result in bench_artifacts(files, [runtime], threads=threads, sampling=sampling)
    ]
    say(f"4/4 scoring on {images} images")
    scores = [
        result
        for runtime, files in paths.items()
        for result in evaluate_artifacts(files, validation, validation.parent, runtimes=[runtime], threads=threads)
    ]
    write_json(out / "bench.json", to_json(timings))
    write_json(out / "eval.json", to_json(scores))
    rows = merge([*timings, *scores])
    write_text(out / "report.md", to_markdown(rows))
    return rows
