"""Which images to calibrate on: by coverage (`--pick spread`) or by chance? AP over ten draws of each number of images.

`python -m benchmarks.calibration_pick` counts the histograms of every calibration image of FastestDet once; a draw adds
up those of its images, which is what a calibration on them counts.
"""

from __future__ import annotations

import argparse
import functools
import operator
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.cases import Case, case, result_parser, write_result
from edgeq.calibration.calibrate import DEFAULT_METHOD, calibrate
from edgeq.calibrators import Histogram
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.evaluation.dataset import Dataset, load_dataset
from edgeq.evaluation.evaluate import evaluate
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.onnx.writer import FloatModel, write_fp32, write_int8
from edgeq.inputs.coverage import pick_items
from edgeq.inputs.images import list_images
from edgeq.inputs.items import Item, image_files
from edgeq.results.evaluation import EvalResult, Score
from edgeq.results.rows import merge, provenance
from edgeq.sources.model import open_model
from edgeq.targets import get_target
from edgeq.tasks.detection.task import DetectionScore

SIZES = (16, 32, 64, 128)
DRAWS = 10
RUNTIME = "onnxruntime"

Histograms = Mapping[str, Histogram]


def run(subject: Case, out: Path, sizes: Sequence[int] = SIZES, draws: int = DRAWS, seed: int = 0) -> Path:
    """Returns the result file, with a row for each number of images."""
    model = open_model(subject.request).model
    items = image_files(list_images(subject.calibration, subject.calibration_images))
    counted = [calibrate(model, [item], keep_samples=0).ranges for item in items]
    histograms = {id(item): ranges.histograms for item, ranges in zip(items, counted, strict=True)}
    dataset = load_dataset("detection", subject.validation, subject.validation_images)
    with tempfile.TemporaryDirectory() as folder:
        fp32 = _score(write_fp32(model, get_target("x86"), Path(folder)), dataset)
        results, lines = [fp32], []
        for size in sizes:
            cells = []
            for pick in ("random", "spread"):
                found = [
                    _score(_quantized(model, drawn, histograms, counted[0].provenance, Path(folder)), dataset)
                    for drawn in _draws(items, size, pick, range(seed, seed + draws))
                ]
                results += found
                losses = 100 * (np.array([_ap(each) for each in found]) - _ap(fp32))
                cells += [f"{losses.mean():+.2f}", f"{losses.std(ddof=1):.2f}", f"{losses.min():+.2f}"]
            lines.append(f"| {size} | {' | '.join(cells)} |")
    text = "\n".join(
        [
            "# Calibration images by chance and by coverage",
            "",
            f"{subject.model_title}, AP of FP32 {_ap(fp32):.4f} on {fp32.images} validation images. INT8 by "
            f"`{DEFAULT_METHOD}`, calibrated on images out of {len(items)}; each cell is over {draws} draws, in points "
            "of AP (hundredths) against FP32.",
            "",
            "| images | random: mean | standard deviation | worst | spread: mean | standard deviation | worst |",
            "|--:|--:|--:|--:|--:|--:|--:|",
            *lines,
            "",
            *provenance(merge(results)),
        ]
    )
    return write_result(out, "calibration_pick.md", f"{text}\n")


def _draws(items: Sequence[Item], size: int, pick: str, seeds: range) -> list[list[Item]]:
    if pick == "spread":
        return [pick_items(items, size, "spread", seed) for seed in seeds]
    chosen = [np.random.default_rng(seed).choice(len(items), min(size, len(items)), replace=False) for seed in seeds]
    return [[items[index] for index in sorted(each)] for each in chosen]


def _quantized(
    model: FloatModel, drawn: Sequence[Item], histograms: Mapping[int, Histograms], origin: Provenance, folder: Path
) -> Artifact:
    """Returns the INT8 file that a calibration on the drawn images leads to."""
    parts = [histograms[id(item)] for item in drawn]
    added = {name: functools.reduce(operator.add, [part[name] for part in parts]) for name in parts[0]}
    ranges = Ranges.from_histograms(added, origin, DEFAULT_METHOD)
    return write_int8(model, get_target("x86"), folder, ranges)


def _score(artifact: Artifact, dataset: Dataset) -> EvalResult[Score]:
    (result,) = evaluate([artifact], dataset, runtimes=(RUNTIME,), threads=1)
    return result


def _ap(result: EvalResult[Score]) -> float:
    assert isinstance(result.score, DetectionScore)
    return result.score.AP or 0.0


def make_parser() -> argparse.ArgumentParser:
    return result_parser(__doc__)


def main() -> None:
    run(case("fastestdet"), make_parser().parse_args().out)


if __name__ == "__main__":
    main()
