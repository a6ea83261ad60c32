"""What does calibration on a TFLite graph cost, compared with a plain forward pass and with ai-edge-quantizer's own?

`python -m benchmarks.tflite_calibration_cost` runs each tool in a fresh process, in turns, on the same images through
CenterNet-R18 at 320x416. A model that has an ONNX graph is calibrated there; this is for those given as TFLite.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.cases import Case, case, result_parser, write_result
from benchmarks.peers import run_peer, write_listing
from edgeq.inputs.images import list_images
from edgeq.machine import read_machine
from edgeq.verbs.export import export_model

TOOLS = {
    "plain": "plain float32 forward pass",
    "edgeq-tflite": "edgeq calibrate",
    "ai-edge-quantizer": "ai-edge-quantizer's calibrate",
}
COUNTS = (16, 64, 128)
ROUNDS = 3


def run(subject: Case, out: Path, *, counts: Sequence[int] = COUNTS, rounds: int = ROUNDS) -> Path:
    """Returns the result file: every tool on so many images, in so many rounds."""
    with tempfile.TemporaryDirectory() as name:
        table = measure(subject, Path(name), counts, rounds)
    machine = read_machine()
    engines = ", ".join(f"{name} {version(name)}" for name in ("ai-edge-litert", "ai-edge-quantizer"))
    how = (
        f"Measured in fresh processes on {machine.cpu}, {machine.usable_cpus} CPUs, Python {machine.python}, "
        f"{engines}; medians of {rounds} rounds in turns, reading the images included. ai-edge-quantizer takes a "
        "moving average of each image's extremes; edgeq counts every value."
    )
    text = "\n\n".join(["# Cost of calibration on a TFLite graph", "\n".join(table), how]) + "\n"
    return write_result(out, "tflite_calibration_cost.md", text)


def measure(subject: Case, folder: Path, counts: Sequence[int], rounds: int) -> list[str]:
    model = export_model(subject.request, "arm", ("fp32",), folder, formats=("tflite",)).files[0].artifact
    images = list_images(subject.calibration, subject.calibration_images)
    lines = ["| images | tool | seconds | over the plain pass | peak memory MB |", "|---:|---|---:|---:|---:|"]
    for count in counts:
        chosen = write_listing(folder / f"{count}.txt", images, count)
        taken = [
            {tool: run_peer(tool, model.path, chosen, folder / f"{tool}.json") for tool in TOOLS} for _ in range(rounds)
        ]
        for tool, title in TOOLS.items():
            seconds = statistics.median(each[tool]["seconds"] for each in taken)
            ratio = statistics.median(each[tool]["seconds"] / each["plain"]["seconds"] for each in taken)
            memory = max(each[tool]["peak_rss_bytes"] for each in taken)
            lines.append(f"| {count} | {title} | {seconds:.1f} | {ratio:.2f} | {memory / 1e6:.0f} |")
    return lines


def make_parser() -> argparse.ArgumentParser:
    return result_parser(__doc__)


def main() -> None:
    run(case("centernet"), make_parser().parse_args().out)


if __name__ == "__main__":
    main()
