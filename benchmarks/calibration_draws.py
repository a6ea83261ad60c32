"""What does INT8 lose by each way to choose ranges, averaged over calibrations? A score depends on the images drawn.

`python -m benchmarks.calibration_draws` calibrates each model on several draws of training images, writes files for
OpenVINO by several methods from the same histograms, biases corrected, scores them and compares their outputs with
FP32's. What is finished is kept in `--work`. All models take about a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.any_graph import Subject, request_of
from benchmarks.cases import DATA, cpu_and_threads, kept_result, read_subjects, subjects_parser, write_result
from benchmarks.image_sets import ImageSet, image_set
from benchmarks.scored_models import MODELS, ScoredModel, decibels, inputs_of, outputs_of
from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.mean_errors import mean_errors
from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators.ranges import Ranges
from edgeq.evaluation.evaluate import evaluate_artifacts
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.costs.table import shipped_table
from edgeq.exporting.onnx.writer import FloatModel, write_fp32, write_int8
from edgeq.inputs.images import list_images
from edgeq.machine import read_machine
from edgeq.sources.model import open_model
from edgeq.targets import Target, get_target
from edgeq.targets.x86 import for_isa

IMAGES, DRAWS, COMPARED, SCORED_EVERY = 48, 5, 16, 5
RUNTIME = "openvino"
WORK = Path("artifacts/calibration_draws")
HEADER = "| model | method | score | FP32 | INT8 against FP32 | deviation | least | most | against {0} | dB | to {0} |"


@dataclass(frozen=True)
class Candidate:
    """A way to choose ranges: a calibration method with its options."""

    method: str
    options: Mapping[str, float] = field(default_factory=dict)


METHODS = {
    "lp 4": Candidate("lp", {"power": 4.0}),
    "lp 3": Candidate("lp", {"power": 3.0}),
    "lp 2.5": Candidate("lp", {"power": 2.5}),
    "mse": Candidate("mse"),
}
"""The candidates; the first is what the others are compared with."""

CHOOSING = ("yunet", "ultraface", "centernet", "resnet20")
CONFIRMING = ("fastestdet", "yolox", "vit", "resnet44")
SUBJECTS: Mapping[str, ScoredModel] = {
    **{name: MODELS[name] for name in (*CHOOSING, *CONFIRMING) if name in MODELS},
    "resnet44": ScoredModel(
        Subject("ResNet-44", "cifar_resnet44", weights="weights/resnet44_cifar10.safetensors"), "cifar10"
    ),
}


@dataclass(frozen=True)
class Trial:
    """One model with its images, opened for all of its draws."""

    model: FloatModel
    images: ImageSet
    folder: Path

    def score(self, artifact: Artifact) -> dict[str, Any]:
        """Returns the name and value of a file's main score and the number of images; nothing without a decoder."""
        if artifact.postprocessing is None:
            return {}
        (result,) = evaluate_artifacts(
            [artifact.path], self.images.truth, self.images.images, runtimes=[RUNTIME], threads=1,
            compute_precisions=["f32"],
        )  # fmt: skip
        main = result.score.columns[0]
        value = result.score.numbers[main.name]
        return {"name": main.title, "value": value, "images": result.images, "engine": result.environment.engine}

    def outputs(self, artifact: Artifact) -> dict[str, np.ndarray]:
        """Returns what a file computes for images that nothing is calibrated on."""
        return outputs_of(artifact, RUNTIME, inputs_of(artifact, self.images, COMPARED))

    def ranges(self, seed: int, count: int) -> Ranges:
        """Returns ranges of one draw of `count` calibration images; they are collected once."""
        path = self.folder / f"draw_{seed}.{count}.ranges.json"
        if path.is_file():
            return Ranges.load(path)
        paths = list_images(self.images.calibration, self.images.calibration_images)
        chosen = np.random.default_rng(seed).choice(len(paths), min(count, len(paths)), replace=False)
        return calibrate(self.model, [paths[index] for index in sorted(chosen)], path, num=count, threads=1).ranges

    def quantized(self, ranges: Ranges) -> Artifact:
        """Returns the INT8 file, its biases corrected on the inputs that the calibration has kept."""
        feeds = [{self.model.input.name: self.model.input.encode(sample.array())} for sample in ranges.samples]
        costs = shipped_table(RUNTIME, read_machine().cpu_features)
        correct = partial(mean_errors, feeds=feeds, threads=1)
        return write_int8(self.model, _target(), self.folder, ranges, mean_errors=correct, costs=costs)


def run(
    names: Sequence[str], out: Path, *, data: Path = DATA, images: int = IMAGES, draws: int = DRAWS, work: Path = WORK
) -> Path:
    """Returns the result file, with a row for each model and method.

    Args:
        names: Of `SUBJECTS`.
        out: Folder of the result file.
        data: Folder of the real data.
        images: How many images each draw calibrates on.
        draws: How often is calibrated, at least twice.
        work: Folder for files and results.
    """
    rows = []
    for name in names:
        reference, found = measure(name, data, images, draws, work)
        rows += rows_of(SUBJECTS[name].subject.title, reference, found)
        print("\n".join(rows[-len(found) :]), flush=True)
    first = next(iter(METHODS))
    head = HEADER.format(first)
    text = "\n".join(
        [
            "# INT8 over calibrations", "", head, "|---|---|---|" + "--:|" * 8, *rows, "",
            f"Each of {draws} draws calibrates on {images} random training images, the same for all methods; the "
            "scored images do not change. Means over the draws, +- the standard error; deviation, least and most are "
            f"those of the score against FP32. Against `{first}`: mean of the paired differences. dB: signal-to-noise "
            f"ratio of the outputs against FP32 on {COMPARED} other images, mean over the outputs. Files for "
            "`x86-openvino` with VNNI, shipped kernel costs, corrected biases; measured with "
            f"{reference['engine']}, float layers in FP32, on {cpu_and_threads(read_machine(), 1)}.",
        ]
    )  # fmt: skip
    return write_result(out, "calibration_draws.md", f"{text}\n")


def measure(
    name: str, data: Path, images: int, draws: int, work: Path
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Returns the FP32 file's score, and method -> score and dB of the INT8 file of each draw."""
    folder, subject = work / name, SUBJECTS[name]
    folder.mkdir(parents=True, exist_ok=True)
    given = image_set(subject.images, data, work, scored_every=SCORED_EVERY)
    source = CalibrationSource(given.calibration, given.calibration_images, num=images)
    trial = Trial(open_model(request_of(subject.subject, source, data, folder)).model, given, folder)
    float_file = write_fp32(trial.model, _target(), folder)
    reference = kept_result(folder / "fp32.json", score_float, trial, float_file)
    outputs: dict[str, np.ndarray] = {}
    found: dict[str, list[dict[str, Any]]] = {title: [] for title in METHODS}
    for seed in range(draws):
        for title, candidate in METHODS.items():
            kept = folder / f"draw_{seed}.{images}.{title.replace(' ', '_')}.json"
            if not kept.is_file():
                outputs = outputs or trial.outputs(float_file)
            found[title].append(kept_result(kept, score_draw, trial, candidate, seed, images, outputs))
    return reference, found


def _target() -> Target:
    return for_isa(get_target("x86-openvino"), "vnni")


def score_float(trial: Trial, artifact: Artifact) -> dict[str, Any]:
    """Returns the engine, and what the FP32 file scores if the model has a decoder."""
    return {"engine": f"{RUNTIME} {version(RUNTIME)}"} | trial.score(artifact)


def score_draw(
    trial: Trial, candidate: Candidate, seed: int, images: int, reference: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Returns score and mean dB of the INT8 file by one draw of calibration images."""
    ranges = trial.ranges(seed, images).with_method(candidate.method, **candidate.options)
    artifact = trial.quantized(ranges)
    return trial.score(artifact) | {"db": float(np.mean(decibels(reference, trial.outputs(artifact))))}


def rows_of(title: str, reference: Mapping[str, Any], found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Returns a model's rows, one for each method, all compared with the first."""
    rows, first = [], next(iter(found.values()))
    for method, draws in found.items():
        scored = ["–"] * 7
        if "value" in reference:
            values, of_first = (np.array([each["value"] for each in one]) for one in (draws, first))
            losses = values - reference["value"]
            scored = [
                f"{reference['name']}, {reference['images']} images", f"{reference['value']:.4f}",
                _mean(losses, "+.4f"), f"{losses.std(ddof=1):.4f}", f"{losses.min():+.4f}", f"{losses.max():+.4f}",
                "" if draws is first else _mean(values - of_first, "+.4f"),
            ]  # fmt: skip
        signal, of_first = (np.array([each["db"] for each in one]) for one in (draws, first))
        gain = "" if draws is first else _mean(signal - of_first, "+.1f")
        rows.append(f"| {' | '.join([title, method, *scored, f'{signal.mean():.1f}', gain])} |")
    return rows


def _mean(values: np.ndarray, form: str) -> str:
    """Returns the mean and its standard error."""
    return f"{values.mean():{form}} +- {values.std(ddof=1) / np.sqrt(len(values)):{form[1:]}}"


def make_parser() -> argparse.ArgumentParser:
    parser = subjects_parser(__doc__, SUBJECTS, SUBJECTS, IMAGES, WORK)
    parser.add_argument("--draws", type=int, default=DRAWS, help="calibrations of each model")
    return parser


def main() -> None:
    given = read_subjects(make_parser(), SUBJECTS)
    run(given.names, given.out, data=given.data, images=given.images, draws=given.draws, work=given.work)


if __name__ == "__main__":
    main()
