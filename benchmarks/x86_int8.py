"""How do edgeq's INT8 files compare with the peers' on this CPU, in AP and in latency?

`python -m benchmarks.x86_int8 centernet|yolox|fastestdet` quantizes with edgeq, NNCF and ONNX Runtime's
`quantize_static` from the same images, each with its defaults, scores all files and times them in turns.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.cases import RESULTS, Case, case
from benchmarks.json_results import bench_jobs, evaluate_artifacts
from benchmarks.peers import run_peer
from edgeq.export.artifact import Artifact
from edgeq.files import write_text
from edgeq.images import list_images
from edgeq.results.rows import provenance
from edgeq.verbs.bench import Job, Sampling
from edgeq.verbs.calibrate import evenly_spaced
from edgeq.verbs.calibration_source import CalibrationSource
from edgeq.verbs.export import export_model

HEADER = "| file | runtime | AP | AP50 | AP against FP32 | p50 ms | against NNCF | against FP32 | size MB |"

PEERS = {"NNCF": ("nncf", "nncf.xml"), "quantize_static U8S8": ("ort-u8s8", "static-u8s8.onnx"),
         "quantize_static S8S8": ("ort-s8s8", "static-s8s8.onnx")}  # fmt: skip


def run(subject: Case, folder: Path) -> str:
    calibration = CalibrationSource(subject.calibration, subject.calibration_images, num=subject.calibration_num)
    exported = export_model(subject.request, "x86", ("fp32", "int8"), folder, calibration=calibration)
    fp32, int8 = (file.artifact for file in exported.files)
    ranges = CalibrationSource(folder / f"{exported.model.name}.ranges.json")
    ort_int8 = export_model(subject.request, "x86-ort", ("int8",), folder, calibration=ranges).files[0].artifact
    images = folder / "calibration.txt"
    chosen = evenly_spaced(list_images(subject.calibration, subject.calibration_images), subject.calibration_num)
    images.write_text("\n".join(str(path.resolve()) for path in chosen))
    peers = {}
    for title, (tool, name) in PEERS.items():
        run_peer(tool, fp32.path, images, folder / name)
        format_ = "openvino" if name.endswith(".xml") else "onnx"
        peers[title] = dataclasses.replace(fp32, path=folder / name, precision="int8", format=format_).save()
    # ONNX Runtime's threads spin for a while after a run, so each engine's files are timed among themselves.
    openvino = [("FP32", fp32, "f32"), ("BF16", fp32, "bf16"), ("NNCF", peers["NNCF"], None),
                ("quantize_static U8S8", peers["quantize_static U8S8"], None), ("edgeq x86", int8, None),
                ("edgeq x86-ort", ort_int8, None)]  # fmt: skip
    onnxruntime = [("FP32", fp32, None), ("quantize_static U8S8", peers["quantize_static U8S8"], None),
                   ("quantize_static S8S8", peers["quantize_static S8S8"], None), ("edgeq x86", int8, None),
                   ("edgeq x86-ort", ort_int8, None)]  # fmt: skip
    lines, rows = [HEADER, "|---|---|" + "---:|" * 7], []
    for runtime, entries in (("openvino", openvino), ("onnxruntime", onnxruntime)):
        jobs = [Job(artifact, runtime, compute) for _, artifact, compute in entries]
        timings = bench_jobs(jobs, threads=2, sampling=Sampling(min_s=4.0, round_s=0.1))
        reference_ap = None
        nncf = next((timing for (title, _, _), timing in zip(entries, timings, strict=True) if title == "NNCF"), None)
        for (title, artifact, compute), timing in zip(entries, timings, strict=True):
            scores = evaluate(artifact, subject, runtime, compute)
            reference_ap = scores["AP"] if reference_ap is None else reference_ap
            p50 = timing["latency_ms"]["p50"]
            to_nncf = "-" if nncf is None else f"{timing['ratio_to_first'] / nncf['ratio_to_first']:.2f}"
            ap = scores["AP"]
            lines.append(
                f"| {title} | {runtime} | {ap:.4f} | {scores['AP50']:.4f} | {ap - reference_ap:+.4f} | "
                f"{p50:.2f} | {to_nncf} | {timing['ratio_to_first']:.3f} | {size_mb(artifact):.2f} |"
            )
            rows.append((scores, timing))
    from benchmarks.json_results import merge

    facts = provenance(merge([entry for pair in rows for entry in pair]))
    return (
        "\n".join([f"# {subject.title}", "", *lines, "", "Ratios are medians over interleaved rounds.", *facts]) + "\n"
    )


def evaluate(artifact: Artifact, subject: Case, runtime: str, compute: str | None) -> dict[str, Any]:
    results = evaluate_artifacts(
        [artifact.path], subject.validation, subject.validation_images, runtimes=[runtime], threads=2,
        compute_precisions=[] if compute is None else [compute],
    )  # fmt: skip
    return results[0]


def size_mb(artifact: Artifact) -> float:
    """Returns the size of a file, with the weights that OpenVINO keeps beside it."""
    weights = artifact.path.with_suffix(".bin")
    return (artifact.size_bytes + (weights.stat().st_size if artifact.path.suffix == ".xml" else 0)) / 1e6


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "centernet"
    with tempfile.TemporaryDirectory() as folder:
        text = run(case(name), Path(folder))
    write_text(RESULTS / f"x86_int8_{name}.md", text)
    print(text)


if __name__ == "__main__":
    main()
