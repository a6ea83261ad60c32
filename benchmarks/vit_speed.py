"""How fast is an INT8 vision transformer on this CPU, compared with FP32, BF16 and NNCF?

`python -m benchmarks.vit_speed` writes torchvision's `vit_b_16` with random weights by every plan, has NNCF quantize
the same graph with its preset for transformers, and times all files of an engine in turns. Random weights prove nothing
about accuracy: the cosine of the logits alone is shown.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.cases import result_parser, write_result
from benchmarks.json_results import bench_jobs, merge
from benchmarks.peers import quantize, size_bytes
from benchmarks.vit_accuracy import plain_model
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.graph import save_onnx
from edgeq.exporting.options import ExportOptions
from edgeq.exporting.planning.keep import VitPlan
from edgeq.measurement.timed_file import Job, Sampling
from edgeq.results.rows import provenance
from edgeq.runtimes import open_session
from edgeq.sources.model import ModelRequest, open_model
from edgeq.verbs.export import export_model

IMAGES = 16
SAMPLING = Sampling(min_s=4.0, round_s=0.3)
PEERS = {"openvino": ("nncf-transformer", "nncf.xml"), "onnxruntime": ("nncf-transformer-onnx", "nncf.onnx")}
"""Runtime -> name of NNCF's tool in `benchmarks.peers.TOOLS` and name of the file that it writes."""
NNCF = "NNCF, transformer preset"
Entry = tuple[str, Artifact, str | None]


def draw_images(folder: Path, count: int) -> list[Path]:
    """Writes smooth random images; their content matters to nothing but the ranges."""
    from PIL import Image

    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        paths.append(folder / f"{number}.png")
    return paths


def logits(artifact: Artifact, runtime: str, compute: str | None) -> np.ndarray:
    """Returns the logits of one image of noise."""
    (spec,) = artifact.inputs
    shape = [1 if size is None else size for size in spec.shape]
    image = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    with open_session(artifact, runtime, 2, compute) as session:
        return next(iter(session.run({spec.name: image}).values())).ravel()


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the cosine between two vectors."""
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def run(
    model: str,
    out: Path,
    *,
    weights: Path | None = None,
    peers: Mapping[str, tuple[str, str]] = PEERS,
    images: int = IMAGES,
    sampling: Sampling = SAMPLING,
) -> Path:
    """Returns the result file of a zoo model with random weights.

    Args:
        model: Its name.
        out: Folder of the result file.
        weights: Random weights of another depth, as a file.
        peers: Which of `PEERS` take part.
        images: How many images are drawn to calibrate on.
        sampling: How long each file is timed.
    """
    lines = [
        f"# {model}, random weights: speed and cosine only",
        "",
        "| file | runtime | p50 ms | against FP32 | against NNCF | cosine to FP32 | size MB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for runtime, entries in make_entries(ModelRequest(model, weights), Path(name), peers, images).items():
            rows, timings = measure(runtime, entries, sampling)
            lines += rows
            results += timings
    facts = provenance(merge(results))
    text = [*lines, "", "Ratios are medians over interleaved rounds, within one engine.", *facts]
    return write_result(out, f"vit_speed_{model}.md", "\n".join(text) + "\n")


def make_entries(
    request: ModelRequest, folder: Path, peers: Mapping[str, tuple[str, str]], images: int
) -> dict[str, list[Entry]]:
    """Returns runtime -> the files that it runs; the first is edgeq's FP32 file."""
    listing = folder / "images.txt"
    listing.write_text("\n".join(map(str, draw_images(folder, images))))
    calibration = CalibrationSource(listing, num=images)
    fp32 = export_model(request, "x86", ("fp32",), folder, calibration=calibration).files[0].artifact
    plans: list[Entry] = []
    for vit_plan in get_args(VitPlan):
        exported = export_model(
            request,
            "x86",
            ("int8",),
            folder / vit_plan,
            calibration=calibration,
            options=ExportOptions(vit_plan=vit_plan),
        )
        plans.append((f"edgeq x86, {vit_plan}", exported.files[0].artifact, None))
        # The first pass over the images serves all plans.
        assert exported.ranges_path is not None
        calibration = CalibrationSource(exported.ranges_path)
    save_onnx(plain_model(open_model(request)).graph, folder / "plain.onnx")
    plain = dataclasses.replace(fp32, path=folder / "plain.onnx").save()
    table: dict[str, list[Entry]] = {}
    for runtime in ("openvino", "onnxruntime"):
        precise = "f32" if runtime == "openvino" else None
        entries = [("edgeq's FP32 file", fp32, precise), ("FP32 as torch exports it", plain, precise)]
        if runtime == "openvino":
            entries.append(("edgeq's FP32 file in BF16", fp32, "bf16"))
        if runtime in peers:
            tool, name = peers[runtime]
            for title, source in ((NNCF, plain), (f"{NNCF}, on edgeq's FP32 file", fp32)):
                entries.append((title, quantize(tool, source, listing, folder / f"{source.path.stem}.{name}"), None))
        table[runtime] = entries + plans
    return table


def measure(runtime: str, entries: list[Entry], sampling: Sampling) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns a row for each file, and the timings; the first file is the FP32 reference."""
    timings = bench_jobs(
        [Job(artifact, runtime, compute) for _, artifact, compute in entries], threads=2, sampling=sampling
    )
    reference = logits(entries[0][1], runtime, entries[0][2])
    ratios = {title: timing["ratio_to_first"] for (title, _, _), timing in zip(entries, timings, strict=True)}
    lines = []
    for (title, artifact, compute), timing in zip(entries, timings, strict=True):
        mark = "" if timing["stable"] else "~"
        to_nncf = f"{ratios[title] / ratios[NNCF]:.2f}" if NNCF in ratios else "-"
        lines.append(
            f"| {title} | {runtime} | {mark}{timing['latency_ms']['p50']:.1f} | {ratios[title]:.3f} | {to_nncf} | "
            f"{cosine(logits(artifact, runtime, compute), reference):.5f} | {size_bytes(artifact) / 1e6:.1f} |"
        )
        print(lines[-1], flush=True)
    return lines, timings


def make_parser() -> argparse.ArgumentParser:
    parser = result_parser(__doc__)
    parser.add_argument("model", nargs="?", default="vit_b_16", help="a vision transformer of the zoo")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    run(arguments.model, arguments.out)


if __name__ == "__main__":
    main()
