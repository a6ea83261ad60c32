"""What does each calibration method cost in AP? One collection per model, every method from the same histograms.

`python -m benchmarks.methods` quantizes the three real detectors by every method and scores them in both engines.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.cases import DETECTORS, Case, case, result_parser, write_result
from benchmarks.json_results import evaluate_artifacts, merge
from edgeq.calibration.calibrate import calibrate
from edgeq.calibrators import METHODS
from edgeq.calibrators.ranges import Ranges
from edgeq.exporting.onnx.writer import write_fp32, write_int8
from edgeq.inputs.images import list_images
from edgeq.results.rows import provenance
from edgeq.sources.model import open_model
from edgeq.targets import get_target

RUNTIMES = ("openvino", "onnxruntime")


def run(subjects: Iterable[Case], out: Path) -> Path:
    """Returns the result file, with a row for each detector and method."""
    lines = [
        "| model | method | AP in OpenVINO (against FP32) | AP in ONNX Runtime (against FP32) |",
        "|---|---|---|---|",
    ]
    everything = []
    for subject in subjects:
        with tempfile.TemporaryDirectory() as folder:
            found, results = rows(subject, Path(folder))
        lines += found
        everything += results
    text = "\n".join(["# Calibration methods", "", *lines, "", *provenance(merge(everything))]) + "\n"
    return write_result(out, "methods.md", text)


def rows(subject: Case, folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns the rows of one detector and the results behind them."""
    model, target = open_model(subject.request).model, get_target("x86")
    images = list_images(subject.calibration, subject.calibration_images)
    ranges = calibrate(model, images, num=subject.calibration_num, threads=2).ranges
    files = {"FP32": write_fp32(model, target, folder)}
    for method in METHODS:
        files[method] = write_int8(model, target, folder / method, ranges_by(ranges, method))
    results = evaluate_artifacts(
        [artifact.path for artifact in files.values()], subject.validation, subject.validation_images, runtimes=RUNTIMES
    )
    scores = {}
    for index, name in enumerate(files):
        scores[name] = [float(result["AP"]) for result in results[2 * index : 2 * index + 2]]
    lines = []
    for name, found in scores.items():
        loss = [f"{ap:.4f} ({ap - fp32:+.4f})" for ap, fp32 in zip(found, scores["FP32"], strict=True)]
        lines.append(f"| {subject.model_title} | {name} | {loss[0]} | {loss[1]} |")
    return lines, results


def ranges_by(ranges: Ranges, method: str) -> Ranges:
    return ranges if ranges.method == method else ranges.with_method(method)


def make_parser() -> argparse.ArgumentParser:
    return result_parser(__doc__)


def main() -> None:
    arguments = make_parser().parse_args()
    run(map(case, DETECTORS), arguments.out)


if __name__ == "__main__":
    main()
