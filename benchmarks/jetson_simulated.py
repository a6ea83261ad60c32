"""What AP should TensorRT's INT8 engine have on a Jetson Orin, compared with FP32 and the x86 files of the same ranges?

`python -m benchmarks.jetson_simulated` calibrates once, writes the files of `x86` and `jetson-orin` from the same
ranges, and scores them; TensorRT's explicit route is simulated on the CPU. No latency: only the board can measure it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, case, result_parser, write_result
from benchmarks.json_results import evaluate_artifacts, merge
from edgeq.calibration.source import CalibrationSource
from edgeq.results.rows import provenance
from edgeq.verbs.export import export_model

CASES = ("centernet", "yolox")


def run(subjects: Iterable[Case], out: Path) -> Path:
    """Returns the result file, with a table for each detector."""
    text, everything = ["# Simulated INT8 of TensorRT"], []
    for subject in subjects:
        with tempfile.TemporaryDirectory() as folder:
            lines, results = measure(subject, Path(folder))
        text += ["", *lines]
        everything += results
    text += ["", *provenance(merge(everything))]
    return write_result(out, "jetson_simulated.md", "\n".join(text) + "\n")


def measure(subject: Case, folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns the table of one detector and the results behind it."""
    exported = export_model(subject.request, "x86", ("fp32", "int8"), folder, calibration=subject.source)
    fp32, int8 = (file.artifact.path for file in exported.files)
    assert exported.ranges_path is not None
    ranges = CalibrationSource(exported.ranges_path)
    written = export_model(subject.request, "jetson-orin", ("int8",), folder, calibration=ranges).files
    # The cache's route starts from the FP32 file, which is written too.
    jetson = next(file.artifact for file in written if file.artifact.precision == "int8")
    scored: list[tuple[str, Path, dict[str, Any]]] = [
        ("FP32", fp32, {"runtimes": ["onnxruntime"]}),
        ("INT8 x86", int8, {"runtimes": ["openvino"]}),
        ("INT8 x86", int8, {"runtimes": ["onnxruntime"]}),
        ("INT8 jetson-orin", jetson.path, {"simulate": "jetson-orin"}),
    ]
    results = []
    for _, path, how in scored:
        results += evaluate_artifacts([path], subject.validation, subject.validation_images, threads=2, **how)
    lines = [
        f"| {subject.title} | computed by | AP | AP50 | AP against FP32 | obtained |",
        "|---|---|---:|---:|---:|---|",
    ]
    for (title, _, _), result in zip(scored, results, strict=True):
        loss = result["AP"] - results[0]["AP"]
        engine = result["environment"]["engine"]
        lines.append(
            f"| {title} | {engine} | {result['AP']:.4f} | {result['AP50']:.4f} | {loss:+.4f} | {result['obtained']} |"
        )
    quantized = len(jetson.quantization.get("float_nodes", {}))
    layers = jetson.quantization["int8_nodes"]
    lines += ["", f"On `jetson-orin` {layers} layers are in INT8, {quantized} in FP16 on the board."]
    return lines, results


def make_parser() -> argparse.ArgumentParser:
    return result_parser(__doc__)


def main() -> None:
    arguments = make_parser().parse_args()
    run(map(case, CASES), arguments.out)


if __name__ == "__main__":
    main()
