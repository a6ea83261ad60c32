"""Which linear layers of a vision transformer lose most when they are quantized?

`python -m benchmarks.vit_sensitivity` quantizes one group of layers of the trained Fashion-MNIST ViT at a time (queries
and keys, values, projection, fc1, fc2; in all blocks, or in a third of them), and compares the logits with those of
FP32. At 8 bits that is measured in ONNX Runtime, at 4 bits, where the groups come apart, it is simulated. 15 minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.cases import result_parser, write_result
from benchmarks.vit_accuracy import CALIBRATION_NUM, X86, Study, fashionmnist
from edgeq.calibrators.ranges import Ranges
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.transformer import find_transformer, matching_nodes
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.onnx.writer import quantizable_graph, write_artifact, write_fp32
from edgeq.exporting.planning.plan import make_plan
from edgeq.exporting.planning.selection import select_named
from edgeq.files import atomic_path
from edgeq.inputs.images import read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.runtimes import open_session

PARTS = {"qk": "q and k", "v": "v", "projection": "projection", "fc1": "fc1", "fc2": "fc2"}
BLOCKS = {"front": "blocks 0-1", "middle": "blocks 2-3", "end": "blocks 4-5", "": "all blocks"}
EVERY = 5
"""Every fifth test image is enough to rank groups."""


def write_group(study: Study, ranges: Ranges, pattern: str, bits: int, folder: Path) -> Artifact:
    """Returns a file in which only the layers that a pattern of `--keep` names are quantized."""
    model = study.model("folded")
    graph, _ = quantizable_graph(model, X86)
    int8 = X86.rules.static("Gemm")
    assert int8 is not None
    matched = matching_nodes(graph, pattern, find_transformer(graph)) or ()
    layers = {str(node.name): int8.with_bits(bits, bits) for node in matched}
    plan = make_plan(graph, select_named(graph, X86.rules, layers), ranges, X86.rules)
    insert_qdq(graph, plan, X86.rules)
    precision = "int8" if bits == 8 else f"simulated-w{bits}a{bits}"
    return write_artifact(model, graph, X86, precision, folder, plan.summary())


class Images:
    """Every n-th test image as the model takes it, and its class."""

    def __init__(self, study: Study, every: int) -> None:
        preprocessing = study.model("folded").preprocessing
        rows = [line.split(",") for line in study.labels.read_text().splitlines()][::every]
        folder = study.labels.parent
        self.inputs = [preprocess(read_image(folder / name), preprocessing)[0] for name, _ in rows]
        self.classes = np.array([int(number) for _, number in rows])

    def logits(self, artifact: Artifact) -> np.ndarray:
        """Returns the logits `(images, classes)`."""
        runtime = "simulated-narrow" if artifact.precision.startswith("simulated") else "onnxruntime"
        with open_session(artifact, runtime, 2) as session:
            name = artifact.inputs[0].name
            return np.concatenate([next(iter(session.run({name: image}).values())) for image in self.inputs])


def sqnr_db(found: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the signal-to-quantization-noise ratio of logits in decibels."""
    noise = np.square(found.astype(np.float64) - wanted).sum()
    return float(10 * np.log10(np.square(wanted.astype(np.float64)).sum() / noise))


def run(
    study: Study,
    out: Path,
    *,
    parts: Mapping[str, str] = PARTS,
    blocks: Mapping[str, str] = BLOCKS,
    every: int = EVERY,
) -> Path:
    """Returns the result file, with the picture beside it.

    Args:
        study: The model and its images.
        out: Folder of the result file.
        parts: Part of a block, as `--keep vit.PART` names it -> its title.
        blocks: Place of blocks, as `--keep vit.PLACE.PART` names it -> its title.
        every: Every so many test images are taken.
    """
    images = Images(study, every)
    folder = study.work / "sensitivity"
    reference = images.logits(write_fp32(study.model("folded"), X86, folder))
    top1 = (reference.argmax(axis=1) == images.classes).mean()
    lines = [
        f"# Fashion-MNIST ViT: one group of layers quantized at a time, {len(images.inputs)} test images",
        "",
        "| group | layers | W8A8: SQNR of logits, dB | W4A4: SQNR of logits, dB | W4A4: top-1 against FP32, points |",
        "|---|---|---:|---:|---:|",
    ]
    losses = np.zeros((len(parts), len(blocks)))
    ratios = np.zeros_like(losses)
    for row, (part, title) in enumerate(parts.items()):
        for column, (place, where) in enumerate(blocks.items()):
            pattern = f"vit.{place}.{part}" if place else f"vit.{part}"
            cells = []
            for bits in (8, 4):
                ranges = study.ranges("folded", "lp", bits)
                found = images.logits(write_group(study, ranges, pattern, bits, folder))
                cells.append(f"{sqnr_db(found, reference):.1f}")
                ratios[row, column] = sqnr_db(found, reference)
                losses[row, column] = 100 * ((found.argmax(axis=1) == images.classes).mean() - top1)
            lines.append(f"| {title} | {where} | {' | '.join(cells)} | {losses[row, column]:+.2f} |")
            print(lines[-1], flush=True)
    draw(ratios, losses, list(parts.values()), list(blocks.values()), out / "vit_sensitivity.svg")
    import onnxruntime

    lines += [
        "",
        f"FP32: {top1:.4f} top-1 on these images. W8A8 measured, W4A4 simulated with onnxruntime "
        f"{onnxruntime.__version__}; ranges by lp over {CALIBRATION_NUM} training images. A smaller SQNR is a greater "
        "loss.",
        f"One image is {100 / len(images.inputs):.2f} points.",
    ]
    return write_result(out, "vit_sensitivity.md", "\n".join(lines) + "\n")


def draw(ratios: np.ndarray, losses: np.ndarray, rows: Sequence[str], columns: Sequence[str], path: Path) -> None:
    """Writes the loss of every group as one picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "edgeq"
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    panels = (
        (axes[0], ratios, "SQNR of the logits, dB", "{:.1f}", "viridis"),
        (axes[1], losses, "top-1 against FP32, points", "{:+.2f}", "magma"),
    )
    for each, values, title, form, colors in panels:
        shown = each.imshow(values, cmap=colors, aspect="auto")
        each.set_xticks(range(len(columns)), columns)
        each.set_yticks(range(len(rows)), rows)
        each.set_title(f"W4A4, simulated: {title}")
        middle = (values.min() + values.max()) / 2
        for (row, column), value in np.ndenumerate(values):
            color = "black" if value > middle else "white"
            each.text(column, row, form.format(value), ha="center", va="center", color=color, fontsize=9)
        figure.colorbar(shown, ax=each)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, metadata={"Date": None})


def make_parser() -> argparse.ArgumentParser:
    parser = result_parser(__doc__)
    parser.add_argument("--work", type=Path, default=Path("vit_accuracy"), help="folder for files and ranges")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    run(fashionmnist(arguments.work.resolve()), arguments.out)


if __name__ == "__main__":
    main()
