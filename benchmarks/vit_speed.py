"""How fast is an INT8 vision transformer on this CPU, beside FP32, BF16 and NNCF?

`python -m benchmarks.vit_speed` writes torchvision's `vit_b_16` with random weights by every plan, has NNCF quantize
the same graph with its preset for transformers, and times all files of an engine in turns. Random weights prove nothing
about accuracy: the cosine of the logits alone is shown.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.cases import RESULTS
from benchmarks.json_results import bench_jobs, merge
from benchmarks.peers import run_peer
from benchmarks.vit_accuracy import plain_model
from edgeq.export.artifact import Artifact
from edgeq.export.graph import save_onnx
from edgeq.export.topology import VitPlan
from edgeq.files import write_text
from edgeq.model_source import ModelRequest, open_model
from edgeq.results.rows import provenance
from edgeq.runtimes import open_session
from edgeq.verbs.bench import Job, Sampling
from edgeq.verbs.calibration_source import CalibrationSource
from edgeq.verbs.export import export_model

IMAGES = 16
PEERS = {"openvino": ("nncf-transformer", "nncf.xml"), "onnxruntime": ("nncf-transformer-onnx", "nncf.onnx")}
NNCF = "NNCF, transformer preset"
Entry = tuple[str, Artifact, str | None]


def draw_images(folder: Path) -> list[Path]:
    """Writes smooth random images; their content matters to nothing but the ranges."""
    from PIL import Image

    rng = np.random.default_rng(0)
    paths = []
    for number in range(IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        paths.append(folder / f"{number}.png")
    return paths


def logits(artifact: Artifact, runtime: str, compute: str | None) -> np.ndarray:
    """Returns the logits of one image of noise."""
    image = np.random.default_rng(1).standard_normal((1, 3, 224, 224)).astype(np.float32)
    with open_session(artifact, runtime, 2, compute) as session:
        return next(iter(session.run({artifact.inputs[0].name: image}).values())).ravel()


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the cosine between two vectors."""
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def run(model: str, folder: Path) -> str:
    images = folder / "images.txt"
    images.write_text("\n".join(map(str, draw_images(folder))))
    request = ModelRequest(model)
    calibration = CalibrationSource(images, num=IMAGES)
    exported = export_model(request, "x86", ("fp32",), folder, calibration=calibration)
    fp32 = exported.files[0].artifact
    plans: dict[str, Artifact] = {}
    for vit_plan in get_args(VitPlan):
        (file,) = export_model(
            request, "x86", ("int8",), folder / vit_plan, calibration=calibration, vit_plan=vit_plan
        ).files
        plans[vit_plan] = file.artifact
        # The first pass over the images serves all plans.
        calibration = CalibrationSource(next((folder / vit_plan).glob("*.ranges.json"), calibration.source))
    lines = [
        f"# {model}, random weights: speed and cosine only",
        "",
        "| file | runtime | p50 ms | against FP32 | against NNCF | cosine to FP32 | size MB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    results: list[dict[str, Any]] = []
    save_onnx(plain_model(open_model(request)).graph, folder / "plain.onnx")
    plain = dataclasses.replace(fp32, path=folder / "plain.onnx").save()
    for runtime, (tool, name) in PEERS.items():
        peers = {}
        for title, source in ((NNCF, plain), (f"{NNCF}, on edgeq's FP32 file", fp32)):
            path = folder / f"{source.path.stem}.{name}"
            run_peer(tool, source.path, images, path)
            kind = "openvino" if path.suffix == ".xml" else "onnx"
            peers[title] = dataclasses.replace(fp32, path=path, precision="int8", format=kind).save()
        entries: list[Entry] = [("edgeq's FP32 file", fp32, "f32" if runtime == "openvino" else None)]
        entries.append(("FP32 as torch exports it", plain, entries[0][2]))
        if runtime == "openvino":
            entries.append(("edgeq's FP32 file in BF16", fp32, "bf16"))
        entries += [(title, peer, None) for title, peer in peers.items()]
        entries += [(f"edgeq x86, {vit_plan}", artifact, None) for vit_plan, artifact in plans.items()]
        jobs = [Job(artifact, runtime, compute) for _, artifact, compute in entries]
        timings = bench_jobs(jobs, threads=2, sampling=Sampling(min_s=4.0, round_s=0.3))
        reference = logits(fp32, runtime, "f32" if runtime == "openvino" else None)
        nncf = next(timing for (each, _, _), timing in zip(entries, timings, strict=True) if each == NNCF)
        for (each, artifact, compute), timing in zip(entries, timings, strict=True):
            weights = artifact.path.with_suffix(".bin")
            size = artifact.size_bytes + (weights.stat().st_size if artifact.path.suffix == ".xml" else 0)
            mark = "" if timing["stable"] else "~"
            lines.append(
                f"| {each} | {runtime} | {mark}{timing['latency_ms']['p50']:.1f} | {timing['ratio_to_first']:.3f} | "
                f"{timing['ratio_to_first'] / nncf['ratio_to_first']:.2f} | "
                f"{cosine(logits(artifact, runtime, compute), reference):.5f} | {size / 1e6:.1f} |"
            )
            print(lines[-1], flush=True)
        results += timings
    facts = provenance(merge(results))
    return "\n".join([*lines, "", "Ratios are medians over interleaved rounds, within one engine.", *facts]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="vit_b_16")
    model = parser.parse_args().model
    with tempfile.TemporaryDirectory() as folder:
        text = run(model, Path(folder))
    write_text(RESULTS / f"vit_speed_{model}.md", text)
    print(text)


if __name__ == "__main__":
    main()
