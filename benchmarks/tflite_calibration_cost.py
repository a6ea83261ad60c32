"""What does calibration on a TFLite graph cost, beside a plain forward pass and beside ai-edge-quantizer's own?

`python -m benchmarks.tflite_calibration_cost` runs each tool in a process of its own, in turns, on the same images
through CenterNet-R18 at 320x416. A model that has an ONNX graph is calibrated there; this is for those that are given
as TFLite.
"""

from __future__ import annotations

import statistics
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks.calibration_cost import listing
from benchmarks.cases import RESULTS, case
from benchmarks.peers import run_peer
from edgeq.files import write_text
from edgeq.images import list_images
from edgeq.machine import read_machine
from edgeq.verbs.export import export_model

TOOLS = {
    "plain": "plain float32 forward pass",
    "edgeq-tflite": "edgeq calibrate",
    "ai-edge-quantizer": "ai-edge-quantizer's calibrate",
}
COUNTS = (16, 64, 128)
ROUNDS = 3


def run(folder: Path) -> list[str]:
    subject = case("centernet")
    model = export_model(subject.request, "arm", ("fp32",), folder, formats=("tflite",)).files[0].artifact
    images = list_images(subject.calibration, subject.calibration_images)
    lines = ["| images | tool | seconds | over the plain pass | peak memory MB |", "|---:|---|---:|---:|---:|"]
    for count in COUNTS:
        chosen = listing(folder / f"{count}.txt", images, count)
        rounds = [
            {tool: run_peer(tool, model.path, chosen, folder / f"{tool}.json") for tool in TOOLS} for _ in range(ROUNDS)
        ]
        for tool, title in TOOLS.items():
            seconds = statistics.median(each[tool]["seconds"] for each in rounds)
            ratio = statistics.median(each[tool]["seconds"] / each["plain"]["seconds"] for each in rounds)
            memory = max(each[tool]["peak_rss_bytes"] for each in rounds)
            lines.append(f"| {count} | {title} | {seconds:.1f} | {ratio:.2f} | {memory / 1e6:.0f} |")
    return lines


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        table = run(Path(name))
    machine = read_machine()
    engines = ", ".join(f"{name} {version(name)}" for name in ("ai-edge-litert", "ai-edge-quantizer"))
    how = (
        f"Measured in fresh processes on {machine.cpu}, {machine.usable_cpus} CPUs, Python {machine.python}, "
        f"{engines}; medians of {ROUNDS} rounds in turns, reading the images included. ai-edge-quantizer takes a "
        "moving average of each image's extremes; edgeq counts every value."
    )
    text = "\n\n".join(["# Cost of calibration on a TFLite graph", "\n".join(table), how]) + "\n"
    write_text(RESULTS / "tflite_calibration_cost.md", text)
    print(text)


if __name__ == "__main__":
    main()
