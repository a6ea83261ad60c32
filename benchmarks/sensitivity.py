"""Which layers cost accuracy when quantized, and does the cheap screening of `edgeq tune --sensitivity` find them?

`python -m benchmarks.sensitivity` measures four models in INT8 or with weights of 4 bits, each twice: as the command
does, and with every layer, alone quantized and alone in float, scored on every image. Of the ViT it also tries the same
part of all blocks at once. Images are scored in the first engine of x86 on one thread. 30 minutes of one core for all;
`python -m benchmarks.sensitivity resnet20-w4a8` measures one, and the page is written of all that `--work` holds.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import any_graph, trained_vit
from benchmarks.cases import cpu_and_threads, kept_result, read_subjects, subjects_parser, write_result
from benchmarks.image_sets import image_set
from benchmarks.scored_models import TUNED
from edgeq.calibration.source import CalibrationSource
from edgeq.machine import read_machine
from edgeq.reporting.sensitivity_plot import save_sensitivity_plot
from edgeq.results.sensitivity import Choice, Precision, ScoreChange, SensitivityResult
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import get_target
from edgeq.targets.isa import with_isa
from edgeq.tasks import Task, find_decoder
from edgeq.tuning.groups import LayerGroup
from edgeq.tuning.screening import Screening
from edgeq.tuning.sensitivity import SensitivityOptions, measure_sensitivity
from edgeq.tuning.store import Store
from edgeq.tuning.trials import Subject

SUBJECTS = {
    **any_graph.SUBJECTS,
    **{name: model.subject for name, model in TUNED.items()},
    "resnet44": dataclasses.replace(
        any_graph.SUBJECTS["resnet20"],
        title="ResNet-44",
        reference="cifar_resnet44",
        weights="weights/resnet44_cifar10.safetensors",
    ),
}
IMAGES = {**{name: model.images for name, model in TUNED.items()}, "resnet44": "cifar10"}
"""Name of a model -> its images."""

EVERY = {"resnet20": 5, "resnet44": 5, "vit": 10, "vit_d64": trained_vit.SCORED_EVERY}
"""Of the 10,000 test images of a classifier every so many are scored."""


class Study(NamedTuple):
    """A section of the page.

    Attributes:
        model: A name of `SUBJECTS`.
        precision: What its layers are tried in.
        every: Of the test images of a classifier every so many are scored.
        by_part: Whether the parts of all blocks are tried, instead of layers.
    """

    model: str
    precision: Precision
    every: int = 1
    by_part: bool = False


STUDIES = {
    "resnet20": Study("resnet20", "int8", EVERY["resnet20"]),
    "vit": Study("vit", "int8", EVERY["vit"]),
    "fastestdet": Study("fastestdet", "int8"),
    "resnet20-w4a8": Study("resnet20", "w4a8", EVERY["resnet20"]),
    "resnet44-w4a8": Study("resnet44", "w4a8", EVERY["resnet44"]),
    "centernet-w4a8": Study("centernet", "w4a8"),
    "vit-w4a8": Study("vit", "w4a8", 5),
    "vit-parts": Study("vit", "int8", 5, by_part=True),
    "vit-parts-w4a8": Study("vit", "w4a8", 5, by_part=True),
}

SCREENED = 4
PART_IMAGES = 16
"""Images on which the noise of a ViT's parts is compared."""

PARTS = {"q and k": ("q", "k"), "v": ("v",), "projection": ("projection",), "fc1": ("fc1",), "fc2": ("fc2",)}
_DRAWS = 1000
Values = Sequence[float] | np.ndarray


@dataclasses.dataclass(frozen=True)
class PartSubject(Subject):
    """A transformer whose groups are parts of all its blocks."""

    @cached_property
    def groups(self) -> tuple[LayerGroup, ...]:
        """The parts, and what belongs to none."""
        layers = super().groups
        named = {
            title: [layer for group in layers if group.name.rpartition(".")[2] in parts for layer in group.layers]
            for title, parts in PARTS.items()
        }
        known = {layer for members in named.values() for layer in members}
        rest = [layer for group in layers for layer in group.layers if layer not in known]
        return tuple(
            LayerGroup(title, tuple(members)) for title, members in {**named, "others": rest}.items() if members
        )


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, opened, with images.

    Attributes:
        subject: The model in INT8 for x86.
        task: The images to score on.
        source: The images that it was calibrated on.
        store: File that trials are kept in.
    """

    subject: Subject
    task: Task[Any]
    source: CalibrationSource
    store: Path

    def measure(self, subject: Subject, options: SensitivityOptions) -> SensitivityResult:
        """Returns the sensitivity of the model's layers, grouped as a subject has them."""
        with Store(self.store) as store:
            return measure_sensitivity(subject, self.task, self.inputs(SCREENED), options, store)

    def inputs(self, count: int) -> list[np.ndarray]:
        """Returns so many inputs."""
        return [array for array, _ in self.source.inputs(self.subject.model.preprocessing, count)]


def request_of(name: str, data: Path) -> ModelRequest:
    """Returns a model of `SUBJECTS` as it is opened; `data` is the folder of the real data."""
    stated = SUBJECTS[name]
    reference = str(data / stated.reference) if "/" in stated.reference else stated.reference
    weights = None if stated.weights is None else data / stated.weights
    return ModelRequest(reference, weights, preset=stated.preset, size=stated.size)


def open_case(
    name: str, data: Path, work: Path, num: int, *, ranges_file: Path | None = None, every: int | None = None
) -> Case:
    """Returns a model of `SUBJECTS`, calibrated on `num` images or with the ranges of a file.

    Args:
        name: Of the model.
        data: Folder of the real data.
        work: Folder for images and ranges.
        num: Images to calibrate on.
        ranges_file: Ranges that were calibrated before.
        every: Of the test images of a classifier every so many are scored; by default as `EVERY` says.
    """
    model = open_model(request_of(name, data)).model
    work.mkdir(parents=True, exist_ok=True)
    images = image_set(IMAGES[name], data, work, scored_every=every or EVERY.get(name, 1))
    source = CalibrationSource(images.calibration, images.calibration_images, num=num)
    if ranges_file is not None:
        source = CalibrationSource(ranges_file)
    target = with_isa(get_target("x86"), None, read_machine())
    ranges, _ = source.ranges(model, work, 1)
    assert model.postprocessing is not None
    task = find_decoder(model.postprocessing).task.from_files(images.truth, images.images, "pycocotools")
    return Case(Subject(model, target, ranges, "layer"), task, source, work / "trials.sqlite")


def both_runs(name: str, title: str, case: Case, out: Path, precision: Precision = "int8") -> list[str]:
    """Returns the section of a model; the picture of every layer on every image lies beside the table.

    Args:
        name: Of the section.
        title: What people call the model.
        case: The model.
        out: Folder of the picture.
        precision: What its layers are tried in.
    """
    options = SensitivityOptions(threads=1, precision=precision)
    quick, full = (case.measure(case.subject, dataclasses.replace(options, thorough=each)) for each in (False, True))
    save_sensitivity_plot(full, out / f"sensitivity_{name}.svg")
    return [*summary(title, quick, full), *most_sensitive(full)]


def summary(title: str, quick: SensitivityResult, full: SensitivityResult) -> list[str]:
    """Returns what both runs found, and how the screening ranks layers compared with their real scores."""
    precision = full.precision.upper()
    sides = {f"alone in {precision}": "quantized_alone", "alone in float": "float_alone"}
    choices: dict[str, list[Choice]] = {
        side: [getattr(group, attribute) for group in full.groups] for side, attribute in sides.items()
    }
    lines = [
        f"## {title} in {precision}: {full.score} of {full.images} images",
        "",
        f"Float {full.float_score:.4f}; all {len(full.groups)} layers in {precision} {full.quantized_score:.4f}: "
        f"{shown(full.loss)} points lost.",
        "",
        "Rank correlation (Spearman) of a layer's noise in the screening with what was measured on all images, and of "
        "the layers whose interval has no 0 how many are among as many with the most noise:",
        "",
        "| layers | points lost | width of their interval | intervals without 0 | of these among the noisiest |",
        "|---|---:|---:|---:|---:|",
    ]
    for side, found in choices.items():
        changes = [choice.change for choice in found if choice.change is not None]
        noise = [choice.noise_share for choice in found]
        measured = [each.points for each in changes], [each.high - each.low for each in changes]
        cells = " | ".join(correlated(noise, each) for each in measured)
        clear = [index for index, each in enumerate(changes) if each.low > 0 or each.high < 0]
        noisiest = sorted(range(len(noise)), key=lambda index: -noise[index])[: len(clear)]
        both = len(set(clear) & set(noisiest))
        lines.append(f"| {side} | {cells} | {len(clear)} of {len(changes)} | {both} |")
    share = quick.images_scored / quick.images_of_all
    missed = [
        group.name
        for group, fast in zip(full.groups, quick.groups, strict=True)
        for attribute in sides.values()
        if getattr(group, attribute).verdict == "matters" and getattr(fast, attribute).verdict != "matters"
    ]
    certain = sum(getattr(group, each).verdict == "matters" for group in full.groups for each in sides.values())
    return [
        *lines,
        "",
        f"`edgeq tune --sensitivity` scored {quick.images_scored:,} images of {quick.images_of_all:,} ({share:.1%}). "
        f"On all images {certain} choices lose more than {full.matters:g} points for certain; of these it missed: "
        f"{', '.join(missed) or 'none'}.",
        "",
    ]


def most_sensitive(full: SensitivityResult, count: int = 8) -> list[str]:
    """Returns the table of the layers that lose most, by their noise."""
    groups = sorted(full.groups, key=lambda group: group.quantized_alone.snr_db)[:count]
    precision = full.precision.upper()
    return [
        f"| layer | SNR alone in {precision}, dB | points lost alone in {precision} | points gained alone in float |",
        "|---|---:|---:|---:|",
        *(
            f"| {group.name} | {group.quantized_alone.snr_db:.1f} | {shown(group.quantized_alone.change)} | "
            f"{shown(group.float_alone.change)} |"
            for group in groups
        ),
        "",
    ]


def parts_of_a_vit(case: Case, precision: Precision) -> list[str]:
    """Returns what each part of all blocks of a ViT loses, and how much noise it leaves, both with intervals."""
    held = case.subject
    subject = PartSubject(held.model, held.target, held.ranges, held.by)
    full = case.measure(subject, SensitivityOptions(threads=1, thorough=True, precision=precision))
    images = [Screening(subject.model, [array], 1) for array in case.inputs(PART_IMAGES)]
    name = precision.upper()
    lines = [
        f"## The same part of all blocks of the ViT in {name}, {full.images:,} images",
        "",
        f"| part | SNR of the logits alone in {name}, dB, {PART_IMAGES} images | points lost alone in {name} | "
        "gained alone in float |",
        "|---|---:|---:|---:|",
    ]
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        for group, found in zip(subject.groups, full.groups, strict=True):
            file = subject.write(subject.of_groups((group,), precision=precision), Path(folder))
            low, middle, high = decibels([image.noise(file).shares[0] for image in images])
            lines.append(
                f"| {group.name} | {middle:.1f} ({low:.1f} to {high:.1f}) | {shown(found.quantized_alone.change)} | "
                f"{shown(found.float_alone.change)} |"
            )
    return [*lines, ""]


def decibels(shares: Sequence[float]) -> tuple[float, float, float]:
    """Returns the SNR of the mean noise of images in dB, between the ends of its 95 % interval (bootstrap)."""
    values = np.asarray(shares)
    drawn = np.random.default_rng(0).choice(values, (_DRAWS, len(values))).mean(axis=1)
    most, least = np.percentile(drawn, [2.5, 97.5])
    low, middle, high = (-10 * np.log10(each) for each in (least, values.mean(), most))
    return float(low), float(middle), float(high)


def shown(change: ScoreChange | None) -> str:
    """Returns a change of a score with its interval."""
    return "-" if change is None else f"{change.points:+.2f} ({change.low:+.2f} to {change.high:+.2f})"


def spearman(one: Values, other: Values) -> float:
    """Returns Spearman's rank correlation; equal values share their mean rank."""
    ranks = [_mean_ranks(np.asarray(values)) for values in (one, other)]
    with np.errstate(invalid="ignore"):
        return float(np.corrcoef(ranks)[0, 1])


def correlated(one: Sequence[float], other: Sequence[float]) -> str:
    """Returns the rank correlation with its 95 % interval, a bootstrap over layers."""
    draws = np.random.default_rng(0).integers(0, len(one), (_DRAWS, len(one)))
    found = [spearman(np.asarray(one)[draw], np.asarray(other)[draw]) for draw in draws]
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return f"{spearman(one, other):+.2f} ({low:+.2f} to {high:+.2f})"


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    return np.array([(values < value).sum() + (values == value).sum() / 2 for value in values])


def section(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the lines of a section."""
    study = STUDIES[name]
    work = arguments.work / f"{study.model}_{study.every}"
    case = open_case(study.model, arguments.data, work, arguments.images, every=study.every)
    if study.by_part:
        return {"lines": parts_of_a_vit(case, study.precision)}
    return {"lines": both_runs(name, SUBJECTS[study.model].title, case, arguments.out, study.precision)}


def run(sections: Mapping[str, Callable[[], dict[str, Any]]], images: int, work: Path, out: Path) -> Path:
    """Returns the result file, of all sections that are kept in the folder `work`.

    Args:
        sections: Name of a section -> what measures it, if it is not kept yet.
        images: How many images are calibrated on.
        work: Folder for the sections.
        out: Folder of the result file.
    """
    work.mkdir(parents=True, exist_ok=True)
    files = {name: work / f"{name}.json" for name in dict.fromkeys((*STUDIES, *sections))}
    for name, measure in sections.items():
        print("\n".join(kept_result(files[name], measure)["lines"]), flush=True)
    found = [kept_result(file, dict)["lines"] for file in files.values() if file.is_file()]
    lines = ["# Sensitivity of layers to quantization in the score of the task", ""]
    lines += [line for each in found for line in each]
    return write_result(out, "sensitivity.md", "\n".join([*lines, provenance(images), ""]))


def make_parser() -> argparse.ArgumentParser:
    return subjects_parser(__doc__, STUDIES, STUDIES, 64, Path("sensitivity"))


def main() -> None:
    arguments = read_subjects(make_parser(), STUDIES)
    sections = {name: partial(section, name, arguments) for name in arguments.names}
    run(sections, arguments.images, arguments.work, arguments.out)


def provenance(images: int) -> str:
    """Returns what the figures were measured with; `images` were calibrated on."""
    import openvino

    return (
        f"Measured in OpenVINO {openvino.__version__} on {cpu_and_threads(read_machine(), 1)}; float layers in FP32. "
        f"Noise in exact arithmetic on {SCREENED} images. Calibrated on {images} images (lp). In brackets: "
        "95 % interval, paired bootstrap over images; if no image changes, the rule of three; of a rank correlation it "
        "is a bootstrap over layers. Weights of 4 bits are rounded to nearest."
    )


if __name__ == "__main__":
    main()
