"""How do edgeq's INT8 files compare with the peers' on this CPU, in AP and in latency?

`python -m benchmarks.x86_int8 detectors` quantizes three detectors with edgeq, NNCF and ONNX Runtime's
`quantize_static` from the same images, each with its defaults, scores all files and times them in turns;
`python -m benchmarks.x86_int8 yolox` does it for one.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.cases import DETECTORS, Case, case, result_parser, write_result
from benchmarks.json_results import bench_jobs, evaluate_artifacts, merge
from benchmarks.peers import AnyFormat, quantize, size_bytes, write_listing
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.artifact import Artifact
from edgeq.inputs.images import list_images
from edgeq.machine import read_machine
from edgeq.measurement.speed_check import has_bf16
from edgeq.measurement.timed_file import Job, Sampling
from edgeq.results.rows import provenance
from edgeq.verbs.export import export_model

HEADER = "| file | runtime | AP | AP50 | AP against FP32 | p50 ms | against NNCF | against FP32 | size MB |"
SAMPLING = Sampling(min_s=4.0, round_s=0.1)
NNCF = "NNCF"


class Peer(NamedTuple):
    """A file of another tool.

    Attributes:
        tool: A name of `benchmarks.peers.TOOLS`.
        file: Name of the file.
        runtimes: The engines that it is run in.
    """

    tool: str
    file: str
    runtimes: tuple[str, ...]


PEERS = {
    NNCF: Peer("nncf", "nncf.xml", ("openvino",)),
    "quantize_static U8S8": Peer("ort-u8s8", "static-u8s8.onnx", ("openvino", "onnxruntime")),
    "quantize_static S8S8": Peer("ort-s8s8", "static-s8s8.onnx", ("onnxruntime",)),
}

Entry = tuple[str, Artifact, str | None]
"""Title of a row, the file, and what its float layers are computed in."""


def run(subject: Case, out: Path, *, peers: Mapping[str, Peer] = PEERS, sampling: Sampling = SAMPLING) -> Path:
    """Returns the result file of one detector."""
    with tempfile.TemporaryDirectory() as name:
        table = make_entries(subject, Path(name), peers)
        lines, results = [HEADER, "|---|---|" + "---:|" * 7], []
        for runtime, entries in table.items():
            rows, found = measure(runtime, entries, subject, sampling)
            lines += rows
            results += found
    facts = provenance(merge(results))
    if has_bf16("openvino", read_machine()):
        facts.insert(0, "OpenVINO computes float layers of INT8 files in BF16 here, unless a row says FP32.")
    text = [f"# {subject.title}", "", *lines, "", "Ratios are medians over interleaved rounds.", *facts]
    return write_result(out, f"x86_int8_{subject.name}.md", "\n".join(text) + "\n")


def make_entries(subject: Case, folder: Path, peers: Mapping[str, Peer]) -> dict[str, list[Entry]]:
    """Returns runtime -> the files that it runs, all made from the same images."""
    exported = export_model(subject.request, "x86", ("fp32", "int8"), folder, calibration=subject.source, plan="cost")
    fp32, int8 = (file.artifact for file in exported.files)
    assert exported.ranges_path is not None
    ranges = CalibrationSource(exported.ranges_path)
    other = export_model(subject.request, "x86-ort", ("int8",), folder, calibration=ranges, plan="cost")
    ort_int8 = other.files[0].artifact
    everything = list_images(subject.calibration, subject.calibration_images)
    images = write_listing(folder / "calibration.txt", everything, subject.calibration_num)
    made = {title: quantize(peer.tool, fp32, images, folder / peer.file) for title, peer in peers.items()}
    # ONNX Runtime's threads spin for a while after a run, so each engine's files are timed among themselves.
    table: dict[str, list[Entry]] = {
        "openvino": [("FP32", fp32, "f32"), ("BF16", fp32, "bf16")],
        "onnxruntime": [("FP32", fp32, None)],
    }
    for runtime, entries in table.items():
        entries += [(title, made[title], None) for title, peer in peers.items() if runtime in peer.runtimes]
        entries += [("edgeq x86", int8, None), ("edgeq x86-ort", ort_int8, None)]
    table["openvino"] += _in_fp32(table)
    return table


def _in_fp32(table: Mapping[str, list[Entry]]) -> list[Entry]:
    """Returns INT8 files once more, their float layers in FP32, where OpenVINO would compute these in BF16."""
    if not has_bf16("openvino", read_machine()):
        return []
    files = [(title, artifact) for title, artifact, compute in table["openvino"] if compute is None]
    return [(f"{title}, rest FP32", artifact, "f32") for title, artifact in files if title in (NNCF, "edgeq x86")]


def measure(
    runtime: str, entries: list[Entry], subject: Case, sampling: Sampling
) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns a row for each file and the results behind the rows; the first file is the FP32 reference."""
    jobs = [Job(artifact, runtime, compute) for _, artifact, compute in entries]
    timings = bench_jobs(jobs, threads=2, sampling=sampling)
    scores = [evaluate(artifact, subject, runtime, compute) for _, artifact, compute in entries]
    ratios = {title: timing["ratio_to_first"] for (title, _, _), timing in zip(entries, timings, strict=True)}
    lines = []
    for (title, artifact, _), score, timing in zip(entries, scores, timings, strict=True):
        to_nncf = f"{ratios[title] / ratios[NNCF]:.2f}" if NNCF in ratios else "-"
        lines.append(
            f"| {title} | {runtime} | {score['AP']:.4f} | {score['AP50']:.4f} | {score['AP'] - scores[0]['AP']:+.4f} | "
            f"{timing['latency_ms']['p50']:.2f} | {to_nncf} | {ratios[title]:.3f} | {size_bytes(artifact) / 1e6:.2f} |"
        )
    return lines, [result for pair in zip(scores, timings, strict=True) for result in pair]


def evaluate(artifact: Artifact, subject: Case, runtime: str, compute: str | None) -> dict[str, Any]:
    """Returns the scores of one file."""
    results = evaluate_artifacts(
        [artifact.path],
        subject.validation,
        subject.validation_images,
        runtimes=[runtime],
        threads=2,
        compute_precisions=[] if compute is None else [compute],
        place=AnyFormat(),
    )
    return results[0]


def make_parser() -> argparse.ArgumentParser:
    parser = result_parser(__doc__)
    parser.add_argument("detectors", nargs="?", choices=("detectors", *DETECTORS), default="detectors")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    for name in DETECTORS if arguments.detectors == "detectors" else (arguments.detectors,):
        run(case(name), arguments.out)


if __name__ == "__main__":
    main()
