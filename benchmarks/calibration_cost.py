"""What does calibration cost in time and memory, beside a plain forward pass and beside the peers?

`python -m benchmarks.calibration_cost` runs each tool in a process of its own, in turns, on the same images:
CenterNet-R18 at 320x416 over 64 images for the time, CenterNet-R50 at 512x512 over 16 and 128 images for the memory.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import onnxruntime

from benchmarks.cases import DATA, RESULTS, case
from benchmarks.peers import run_peer
from edgeq.files import write_text
from edgeq.images import list_images
from edgeq.inputs import evenly_spaced
from edgeq.machine import read_machine
from edgeq.model_source import ModelRequest
from edgeq.verbs.export import export_model

TOOLS = {
    "plain": "plain FP32 forward pass",
    "edgeq": "edgeq calibrate",
    "edgeq-entropy": "edgeq calibrate --method entropy",
    "nncf": "nncf.quantize",
    "ort-u8s8": "quantize_static, min-max",
    "ort-u8s8-entropy": "quantize_static, entropy",
}
ROUNDS = 2


def time_table(folder: Path) -> list[str]:
    subject = case("centernet")
    model = export_model(subject.request, "x86", ("fp32",), folder).files[0].artifact
    images = listing(folder / "bccd.txt", list_images(subject.calibration, subject.calibration_images), 64)
    taken: dict[str, list[dict[str, float]]] = {tool: [] for tool in TOOLS}
    for _ in range(ROUNDS):
        for tool, results in taken.items():
            suffix = ".xml" if tool == "nncf" else ".onnx"
            results.append(run_peer(tool, model.path, images, folder / f"{tool}{suffix}"))
    lines = [
        "| 64 images, CenterNet-R18 320x416 | seconds | over the plain pass | peak memory MB |",
        "|---|---:|---:|---:|",
    ]
    for tool, title in TOOLS.items():
        seconds = statistics.median(result["seconds"] for result in taken[tool])
        pairs = zip(taken[tool], taken["plain"], strict=True)
        ratio = statistics.median(ours["seconds"] / plain["seconds"] for ours, plain in pairs)
        memory = max(result["peak_rss_bytes"] for result in taken[tool])
        lines.append(f"| {title} | {seconds:.1f} | {ratio:.2f} | {memory / 1e6:.0f} |")
    return lines


def memory_table(folder: Path) -> list[str]:
    request = ModelRequest("centernet_resnet50", size=(512, 512))
    model = export_model(request, "x86", ("fp32",), folder).files[0].artifact
    everything = list_images(DATA / "coco" / "train2017")
    lines = [
        "| CenterNet-R50 512x512, random weights | images | seconds an image | peak memory MB |",
        "|---|---:|---:|---:|",
    ]
    for tool, counts in (("plain", (16,)), ("edgeq", (16, 128)), ("ort-u8s8", (16,)), ("ort-u8s8-entropy", (8,))):
        for count in counts:
            images = listing(folder / f"coco{count}.txt", everything, count)
            result = run_peer(tool, model.path, images, folder / f"r50-{tool}.onnx")
            each = result["seconds"] / count
            lines.append(f"| {TOOLS[tool]} | {count} | {each:.2f} | {result['peak_rss_bytes'] / 1e6:.0f} |")
    return lines


def listing(path: Path, images: list[Path], count: int) -> Path:
    path.write_text("\n".join(str(image.resolve()) for image in evenly_spaced(images, count)))
    return path


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        tables = [time_table(Path(name)), memory_table(Path(name))]
    machine = read_machine()
    how = (
        f"Measured in fresh processes on {machine.cpu}, {machine.usable_cpus} CPUs, Python {machine.python}, ONNX "
        f"Runtime {onnxruntime.__version__}; the times are medians of {ROUNDS} rounds in turns and include reading the "
        "images."
    )
    text = "\n\n".join(["# Cost of calibration", *("\n".join(table) for table in tables), how]) + "\n"
    write_text(RESULTS / "calibration_cost.md", text)
    print(text)


if __name__ == "__main__":
    main()
