"""What does it bring to write ConvTranspose as Conv + DepthToSpace?

`python -m benchmarks.conv_transpose` times CenterNet-R18 in both forms (targets `x86` and `x86-ort`) in turns.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.cases import RESULTS, case
from benchmarks.json_results import bench_jobs, merge
from edgeq.files import write_text
from edgeq.results.rows import provenance
from edgeq.verbs.bench import Job, Sampling
from edgeq.verbs.calibration_source import CalibrationSource
from edgeq.verbs.export import export_model


def main() -> None:
    subject = case("centernet")
    lines = ["| runtime | ConvTranspose ms | Conv + DepthToSpace ms | ratio |", "|---|---:|---:|---:|"]
    everything = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = CalibrationSource(subject.calibration, subject.calibration_images, num=subject.calibration_num)
        exported = export_model(subject.request, "x86", ("int8",), folder, calibration=images)
        assert exported.ranges_path is not None
        ranges = CalibrationSource(exported.ranges_path)
        rewritten = export_model(subject.request, "x86-ort", ("int8",), folder, calibration=ranges)
        artifacts = [result.files[0].artifact for result in (exported, rewritten)]
        for runtime in ("openvino", "onnxruntime"):
            results = bench_jobs(
                [Job(artifact, runtime) for artifact in artifacts], threads=2, sampling=Sampling(round_s=0.1)
            )
            plain, phases = (result["latency_ms"]["p50"] for result in results)
            lines.append(f"| {runtime} | {plain:.2f} | {phases:.2f} | {results[1]['ratio_to_first']:.2f} |")
            everything += results
    title = "# ConvTranspose as Conv + DepthToSpace: CenterNet-R18 INT8 at 320x416"
    text = "\n".join([title, "", *lines, "", *provenance(merge(everything))]) + "\n"
    write_text(RESULTS / "conv_transpose.md", text)
    print(text)


if __name__ == "__main__":
    main()
