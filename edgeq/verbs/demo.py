"""`edgeq demo`: the whole story on the shipped detector and drawn images; needs no network and no data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgeq.calibration.source import CalibrationSource
from edgeq.evaluation.evaluate import evaluate_artifacts
from edgeq.files import write_json, write_text
from edgeq.measurement.benchmark import Sampling, bench_artifacts
from edgeq.results.rows import Row, merge
from edgeq.results.serialization import to_json
from edgeq.results.table import to_markdown
from edgeq.runtimes import is_installed
from edgeq.sources.model import ModelRequest
from edgeq.targets import get_target
from edgeq.tasks.detection.shapes import draw_shapes_dataset
from edgeq.verbs.export import export_model

MODEL = "centernet_shapes"

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
    target = get_target("x86")
    say(f"2/4 exporting {MODEL} as FP32, FP16 and INT8 for {target.name}")
    exported = export_model(
        ModelRequest(MODEL, opset=target.rules.opset),
        target.name,
        ("fp32", "fp16", "int8"),
        out / "artifacts",
        calibration=CalibrationSource(calibration, calibration.parent),
        threads=threads,
    )
    paths = [file.artifact.path for file in exported.files]
    runtimes = [name for name in target.runtimes if is_installed(name)]
    say(f"3/4 measuring in {' and '.join(runtimes)}, in turns")
    timings = bench_artifacts(paths, runtimes, threads=threads, sampling=Sampling(min_s=seconds))
    say(f"4/4 scoring on {images} images")
    scores = evaluate_artifacts(paths, validation, validation.parent, runtimes=runtimes, threads=threads)
    write_json(out / "bench.json", to_json(timings))
    write_json(out / "eval.json", to_json(scores))
    rows = merge([*timings, *scores])
    write_text(out / "report.md", to_markdown(rows))
    return rows
