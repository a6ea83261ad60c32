"""What does it bring to write ConvTranspose as Conv + DepthToSpace?

`python -m benchmarks.conv_transpose` times CenterNet-R18 in both forms (targets `x86` and `x86-ort`) in turns.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.cases import Case, case, result_parser, write_result
from benchmarks.json_results import bench_jobs, merge
from edgeq.calibration.source import CalibrationSource
from edgeq.measurement.timed_file import Job, Sampling
from edgeq.results.rows import provenance
from edgeq.verbs.export import export_model

SAMPLING = Sampling(round_s=0.1)


def run(subject: Case, out: Path, *, sampling: Sampling = SAMPLING) -> Path:
    """Returns the result file: both forms of a detector, in both engines."""
    lines = ["| runtime | ConvTranspose ms | Conv + DepthToSpace ms | ratio |", "|---|---:|---:|---:|"]
    everything = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exported = export_model(subject.request, "x86", ("int8",), folder, calibration=subject.source)
        assert exported.ranges_path is not None
        ranges = CalibrationSource(exported.ranges_path)
        rewritten = export_model(subject.request, "x86-ort", ("int8",), folder, calibration=ranges)
        artifacts = [result.files[0].artifact for result in (exported, rewritten)]
        for runtime in ("openvino", "onnxruntime"):
            results = bench_jobs([Job(artifact, runtime) for artifact in artifacts], threads=2, sampling=sampling)
            plain, phases = (result["latency_ms"]["p50"] for result in results)
            lines.append(f"| {runtime} | {plain:.2f} | {phases:.2f} | {results[1]['ratio_to_first']:.2f} |")
            everything += results
    preprocessing = exported.model.preprocessing
    size = f"{preprocessing.height_px}x{preprocessing.width_px}"
    title = f"# ConvTranspose as Conv + DepthToSpace: {subject.model_title} INT8 at {size}"
    text = "\n".join([title, "", *lines, "", *provenance(merge(everything))]) + "\n"
    return write_result(out, "conv_transpose.md", text)


def make_parser() -> argparse.ArgumentParser:
    return result_parser(__doc__)


def main() -> None:
    run(case("centernet"), make_parser().parse_args().out)


if __name__ == "__main__":
    main()
