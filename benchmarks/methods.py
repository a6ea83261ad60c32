"""What does each calibration method cost in AP? One collection a model, every method from the same histograms.

`python -m benchmarks.methods` quantizes the three real detectors by every method and scores them in both engines.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.cases import RESULTS, Case, case
from benchmarks.json_results import evaluate_artifacts, merge
from edgeq.calibrators import METHODS
from edgeq.calibrators.ranges import Ranges
from edgeq.export.onnx_writer import write_fp32, write_int8
from edgeq.files import write_text
from edgeq.images import list_images
from edgeq.model_source import open_model
from edgeq.results.rows import provenance
from edgeq.targets import get_target
from edgeq.verbs.calibrate import calibrate

RUNTIMES = ("openvino", "onnxruntime")


def rows(subject: Case, folder: Path) -> tuple[list[str], list[dict[str, object]]]:
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
        lines.append(f"| {subject.title.split(' on ')[0]} | {name} | {loss[0]} | {loss[1]} |")
    return lines, results


def ranges_by(ranges: Ranges, method: str) -> Ranges:
    return ranges if ranges.method == method else ranges.with_method(method)


def main() -> None:
    lines = [
        "| model | method | AP in OpenVINO (against FP32) | AP in ONNX Runtime (against FP32) |",
        "|---|---|---|---|",
    ]
    everything: list[dict[str, object]] = []
    for name in ("centernet", "yolox", "fastestdet"):
        with tempfile.TemporaryDirectory() as folder:
            found, results = rows(case(name), Path(folder))
        lines += found
        everything += results
    text = "\n".join(["# Calibration methods", "", *lines, "", *provenance(merge(everything))]) + "\n"
    write_text(RESULTS / "methods.md", text)
    print(text)


if __name__ == "__main__":
    main()
