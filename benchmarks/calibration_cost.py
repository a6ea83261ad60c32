"""What does calibration cost in time and memory, compared with a plain forward pass and with the peers?

`python -m benchmarks.calibration_cost` runs each tool in a fresh process, in turns, on the same images: CenterNet-R18
at 320x416 over 64 images for the time, CenterNet-R50 at 512x512 over 16 and 128 images for the memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime

from benchmarks.cases import Case, case, random_centernet, result_parser, write_result
from benchmarks.peers import run_peer, write_listing
from edgeq.inputs.images import list_images
from edgeq.machine import read_machine
from edgeq.verbs.export import export_model

TOOLS = {
    "plain": "plain FP32 forward pass",
    "edgeq": "edgeq calibrate",
    "edgeq-entropy": "edgeq calibrate --method entropy",
    "nncf": "nncf.quantize",
    "ort-u8s8": "quantize_static, min-max",
    "ort-u8s8-entropy": "quantize_static, entropy",
}
COUNTS = {"plain": (16,), "edgeq": (16, 128), "ort-u8s8": (16,), "ort-u8s8-entropy": (8,)}
"""Tool -> how many images it takes through the large model."""
ROUNDS = 2


def run(
    subject: Case,
    large: Case,
    out: Path,
    *,
    tools: Mapping[str, str] = TOOLS,
    counts: Mapping[str, Sequence[int]] = COUNTS,
    rounds: int = ROUNDS,
) -> Path:
    """Returns the result file: time on a subject, memory on a large model.

    Args:
        subject: The detector whose calibration is timed.
        large: The model whose calibration takes memory.
        out: Folder of the result file.
        tools: Names of `benchmarks.peers.TOOLS` that are timed, and what the table calls them; `plain` is among them.
        counts: Tool -> numbers of images that its memory is measured with.
        rounds: How often each tool is timed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = [
            time_table(subject, folder / "time", tools, rounds),
            memory_table(large, folder / "memory", counts),
        ]
    machine = read_machine()
    how = (
        f"Measured in fresh processes on {machine.cpu}, {machine.usable_cpus} CPUs, Python {machine.python}, ONNX "
        f"Runtime {onnxruntime.__version__}; the times are medians of {rounds} rounds in turns and include reading the "
        "images."
    )
    text = "\n\n".join(["# Cost of calibration", *("\n".join(table) for table in tables), how]) + "\n"
    return write_result(out, "calibration_cost.md", text)


def time_table(subject: Case, folder: Path, tools: Mapping[str, str], rounds: int) -> list[str]:
    exported = export_model(subject.request, "x86", ("fp32",), folder)
    model, preprocessing = exported.files[0].artifact, exported.model.preprocessing
    everything = list_images(subject.calibration, subject.calibration_images)
    images = write_listing(folder / "images.txt", everything, subject.calibration_num)
    taken: dict[str, list[dict[str, float]]] = {tool: [] for tool in tools}
    for _ in range(rounds):
        for tool, results in taken.items():
            suffix = ".xml" if tool == "nncf" else ".onnx"
            results.append(run_peer(tool, model.path, images, folder / f"{tool}{suffix}"))
    size = f"{preprocessing.height_px}x{preprocessing.width_px}"
    lines = [
        f"| {subject.calibration_num} images, {subject.model_title} {size} | seconds | over the plain pass | "
        "peak memory MB |",
        "|---|---:|---:|---:|",
    ]
    for tool, title in tools.items():
        seconds = statistics.median(result["seconds"] for result in taken[tool])
        pairs = zip(taken[tool], taken["plain"], strict=True)
        ratio = statistics.median(ours["seconds"] / plain["seconds"] for ours, plain in pairs)
        memory = max(result["peak_rss_bytes"] for result in taken[tool])
        lines.append(f"| {title} | {seconds:.1f} | {ratio:.2f} | {memory / 1e6:.0f} |")
    return lines


def memory_table(large: Case, folder: Path, counts: Mapping[str, Sequence[int]]) -> list[str]:
    model = export_model(large.request, "x86", ("fp32",), folder).files[0].artifact
    images = list_images(large.calibration, large.calibration_images)
    lines = [f"| {large.title} | images | seconds per image | peak memory MB |", "|---|---:|---:|---:|"]
    for tool, numbers in counts.items():
        for count in numbers:
            listing = write_listing(folder / f"{count}.txt", images, count)
            result = run_peer(tool, model.path, listing, folder / f"{tool}.onnx")
            each = result["seconds"] / result["images"]
            lines.append(f"| {TOOLS[tool]} | {count} | {each:.2f} | {result['peak_rss_bytes'] / 1e6:.0f} |")
    return lines


def make_parser() -> argparse.ArgumentParser:
    return result_parser(__doc__)


def main() -> None:
    arguments = make_parser().parse_args()
    run(case("centernet"), random_centernet(case("yolox")), arguments.out)


if __name__ == "__main__":
    main()
