"""Which depth and which kind of layer of a transformer costs the score at 2 and 3 bits, and what does sharing save?

`python -m benchmarks.study` runs the study `vit-layers` of `edgeq study` on the Fashion-MNIST ViT, of whose 10,000 test
images `--images` are scored, with the min-max formula of published sweeps: one scale for each weight. Times are CPU
seconds of this process, because other work runs on the machine: a few trials of GPTQ with what trials share, and one on
its own, as if `edgeq export` and `edgeq eval` were run for it: weights quantized by 256 training images, a whole file
written, and images prepared again. Trials are kept below `--work`, so that a second call resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import DATA, result_parser, write_result
from benchmarks.image_sets import image_set
from edgeq.calibration.source import CalibrationSource
from edgeq.datasets import open_split
from edgeq.machine import read_machine
from edgeq.results.study import StudyResult
from edgeq.sources.model import ModelRequest
from edgeq.studying.run import StudyRun
from edgeq.studying.space import Space, read_space, with_axes
from edgeq.studying.trials import StudyTrial
from edgeq.tuning.store import Store
from edgeq.verbs.study import StudyOptions, open_study, study_model

Axes = Mapping[str, Sequence[str | int]]

TITLE = "ViT-d128, Fashion-MNIST"
CALIBRATION_NUM = 256
AXES: Axes = {"bits": (2, 3), "granularity": ("tensor",), "method": ("rtn",)}
TIMED_AXES: Axes = {"bits": (3,), "granularity": ("row",), "method": ("gptq",)}
_TIMED = 2


@dataclass(frozen=True)
class Case:
    """A model with images.

    Attributes:
        request: The model.
        labels: List of the images to score on.
        calib: Images that methods go by.
        num: How many of them.
        work: Folder for files, weights and trials.
    """

    request: ModelRequest
    labels: Path
    calib: Path
    num: int
    work: Path

    @property
    def source(self) -> CalibrationSource:
        """The images that methods go by."""
        return CalibrationSource(self.calib, num=self.num)


@dataclass(frozen=True)
class Speed:
    """CPU seconds of a trial.

    Attributes:
        shared_s: With what trials share.
        alone_s: On its own.
        method: Its method.
    """

    shared_s: float
    alone_s: float
    method: str


def vit_case(data: Path, work: Path) -> Case:
    """Returns the Fashion-MNIST ViT; its images are unpacked into the folder `work`."""
    work.mkdir(parents=True, exist_ok=True)
    images = image_set("fashionmnist", data, work)
    request = ModelRequest("vit_fashionmnist", data / "weights/vit_d128_l6_fashionmnist.safetensors")
    return Case(request, images.truth, images.calibration, CALIBRATION_NUM, work)


def measure_speed(case: Case, space: Space, options: StudyOptions) -> list[Speed]:
    """Returns what a trial takes with sharing and without, for each method of a space."""
    found = []
    data = open_split(case.labels, "evaluation")
    with (
        tempfile.TemporaryDirectory() as name,
        open_study(case.request, data, case.source, space, Path(name), options=options) as opened,
    ):
        run = opened.run
        for method in space.method:
            trials = [each for each in opened.planned.trials if each.method == method and each.granularity][-_TIMED:]
            run.assembler.bank.fill(run.assembler.bank.wanted(trials))
            assert run.float_outcome.score > 0
            started = time.process_time()
            run.outcomes(trials)
            shared = (time.process_time() - started) / len(trials)
            found.append(Speed(shared, _alone_s(run, trials[-1:]), method))
    return found


def _alone_s(run: StudyRun, trials: Sequence[StudyTrial]) -> float:
    """Returns the CPU seconds of a trial that shares nothing."""
    started = time.process_time()
    for trial in trials:
        with tempfile.TemporaryDirectory() as name, Store(Path(name) / "trials.sqlite") as store:
            folder = Path(name)
            bank = dataclasses.replace(run.assembler.bank, folder=folder / "weights")
            assembler = dataclasses.replace(run.assembler, bank=bank, folder=folder, whole=True)
            alone = dataclasses.replace(run, assembler=assembler, store=store)
            alone.__dict__["float_predictions"] = run.float_predictions
            alone.__dict__["float_outcome"] = run.float_outcome
            bank.fill(bank.wanted([trial]))
            alone.outcomes([trial])
    return (time.process_time() - started) / len(trials)


def run(case: Case, space: Space, timed: Space, options: StudyOptions, out: Path) -> Path:
    """Returns the page of a study.

    Args:
        case: The model with its images.
        space: The choices.
        timed: Those of the trials that are timed.
        options: How the study is run.
        out: Folder for the page.
    """
    speeds = measure_speed(case, timed, options)
    data = open_split(case.labels, "evaluation")
    result = study_model(case.request, data, case.source, space, case.work / "study", options=options).result
    return write_result(out, "study.md", "\n".join(page(result, speeds, case.num)) + "\n")


def page(result: StudyResult, speeds: Sequence[Speed], calibrated: int) -> list[str]:
    """Returns the page."""
    lines = [
        "# A study of a transformer's layers",
        "",
        f"`edgeq study --template vit-layers`: {TITLE}, {len(result.points)} trials on {result.images:,} test images, "
        f"evenly spaced over the classes; {result.score} in FP32 {result.float_score:.4f}. Simulated: "
        f"{result.environment.engine}, {read_machine().cpu}. Intervals are 95 %, paired bootstraps over the images.",
        "",
        "## The front",
        "",
        "| weights | bits per weight | MB | points lost | 95 % |",
        "|---|---:|---:|---:|---:|",
    ]
    for point in result.front:
        loss = point.loss
        lines.append(
            f"| {point.name} | {point.bits_per_weight:.2f} | {point.size_bytes / 1e6:.2f} | {loss.points:+.2f} | "
            f"{loss.low:+.2f} to {loss.high:+.2f} |"
        )
    lines += ["", "## What it says", "", *[f"- {advice.text}." for advice in result.advice]]
    lines += [
        "",
        "## Importance",
        "",
        "| axis | method | part | forest | permutation | SHAP | consensus | R² (linear) |",
    ]
    lines.append("|---|---|---|---:|---:|---:|---:|---:|")
    for found in result.importance:
        for part in found.parts:
            shares = [
                "" if each is None else f"{each.value:.2f} ({each.low:.2f} to {each.high:.2f})"
                for each in (part.forest, part.permutation, part.shap)
            ]
            quality = f"{found.forest_r2:.2f} ({found.linear_r2:.2f})"
            row = (found.axis, found.method, part.part, *shares, f"{part.consensus:.2f}", quality)
            lines.append(f"| {' | '.join(row)} |")
    lines += ["", "R² of the forest is out of bag, of the linear fit in five-fold cross-validation.", ""]
    lines += [f"- {note}" for note in result.notes]
    lines += [
        "",
        "## What sharing saves",
        "",
        f"CPU seconds of a trial on {result.images:,} images, calibrated on {calibrated}, without Python's start, the "
        "model's export and its FP32 score, which both share:",
        "",
        "| method | shared | alone | ratio | trials per CPU minute, shared |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {each.method} | {each.shared_s:.2f} | {each.alone_s:.2f} | {each.alone_s / each.shared_s:.1f} | "
        f"{60 / each.shared_s:.0f} |"
        for each in speeds
    ]
    lines += [
        "",
        f"The study quantized {result.weights_quantized} weights of layers, each once; its trials take "
        f"{result.weights_used:,}. What a trial takes with sharing is the engine's time for the images, so sharing "
        "saves the more the fewer images there are.",
    ]
    return lines


def make_parser() -> argparse.ArgumentParser:
    parser = result_parser(__doc__)
    parser.add_argument("--work", type=Path, default=Path("study"), help="folder for files, weights and trials")
    parser.add_argument("--images", type=int, default=10_000, help="test images to score on")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    space, timed = (with_axes(read_space(None, "vit-layers"), axes, None, None) for axes in (AXES, TIMED_AXES))
    options = StudyOptions(images=arguments.images, threads=1)
    print(run(vit_case(DATA, arguments.work.resolve()), space, timed, options, arguments.out))


if __name__ == "__main__":
    main()
