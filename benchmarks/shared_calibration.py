"""Is a file as good by the ranges of one calibration as by those of its own?

`python -m benchmarks.shared_calibration` calibrates detectors once, exports the ranges file to every target without an
image, and compares each INT8 file with one that was calibrated for itself: a TFLite file on its own graph, an ONNX file
by an export that is given the images. Signal-to-noise ratios are those of exact arithmetic. What is finished is kept in
`--work`; run it again to go on after an interruption.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import edgeq
from benchmarks.cases import read_subjects, subjects_parser, write_result
from benchmarks.exact_signal import SUBJECTS, calibration_of, request_of
from edgeq.boundary import read_json
from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.source import CalibrationSource
from edgeq.evaluation.exact_comparison import ComparedImages, measure
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.signal.output_groups import WHOLE
from edgeq.exporting.tflite.writer import TfliteModel
from edgeq.files import write_json
from edgeq.machine import read_machine
from edgeq.sources.formats import get_format
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import TARGETS, get_target
from edgeq.verbs.export import export_model

NAMES = ("yunet", "ultraface")
PRECISION = "int8"
IMAGES = 64
WORK = Path("artifacts/shared_calibration")


@dataclass(frozen=True)
class Row:
    """An INT8 file by ranges of either kind.

    Attributes:
        target: The target.
        format: The file's format.
        own: Output -> dB, calibrated for itself.
        shared: Output -> dB, by the ranges file alone.
        followed: TFLite tensors whose ranges are those of the ONNX graph, or follow from them; `None` for ONNX files.
        sampled: TFLite tensors that were measured on inputs that the ranges file keeps.
    """

    target: str
    format: str
    own: dict[str, float]
    shared: dict[str, float]
    followed: int | None = None
    sampled: int = 0

    def to_markdown(self) -> str:
        """Returns the row of the table."""
        differences = {name: db - self.own[name] for name, db in self.shared.items()}
        least = min(differences, key=differences.__getitem__)
        most = max(differences, key=differences.__getitem__)
        cells = [
            self.target,
            self.format,
            f"{min(self.own.values()):.1f}",
            f"{min(self.shared.values()):.1f}",
            f"{_mean(differences):+.2f}",
            f"{differences[least]:+.2f} ({least})",
            f"{differences[most]:+.2f} ({most})",
            "" if self.followed is None else f"{self.followed} and {self.sampled}",
        ]
        return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class _Rows:
    rows: list[Row]


def compare(
    request: ModelRequest, images: CalibrationSource, targets: Sequence[str], work: Path, threads: int | None = None
) -> Iterator[Row]:
    """Yields a row for each INT8 file of the targets.

    Args:
        request: The model.
        images: What it is calibrated on, and compared on.
        targets: Names of targets.
        work: Folder for the files; a target whose rows lie there is not measured again.
        threads: CPU threads.
    """
    model, ranges = open_model(request).model, work / "ranges.json"
    if not ranges.is_file():
        calibrate(model, images.data(), ranges, num=images.num, threads=threads)
    for target in targets:
        kept = work / f"{target}.json"
        if not kept.is_file():
            # A ranges file serves every opset: the graph is that of the target, as on the command line.
            wanted = dataclasses.replace(request, opset=get_target(target).rules.opset)
            rows = list(_compared(wanted, model, ranges, images, target, work / target, threads))
            write_json(kept, {"rows": [dataclasses.asdict(row) for row in rows]})
        yield from read_json(kept, _Rows, kind="a result of this benchmark").rows


def _compared(
    request: ModelRequest,
    model: FloatModel,
    ranges: Path,
    images: CalibrationSource,
    target: str,
    work: Path,
    threads: int | None,
) -> Iterator[Row]:
    source = CalibrationSource(ranges)
    shared = export_model(request, target, [PRECISION], work / "shared", calibration=source, threads=threads)
    for file in shared.files:
        if file.artifact.precision != PRECISION:
            continue  # a cache comes with the float file that it is for
        float_form, own = _calibrated_for_itself(request, model, file.artifact, images, work, threads)
        facts = file.artifact.quantization
        yield Row(
            target,
            file.artifact.format,
            _signal(own, float_form, images, threads),
            _signal(file.artifact, float_form, images, threads),
            facts.get("matched_tensors"),
            len(facts.get("sampled_tensors", ())),
        )


def _calibrated_for_itself(
    request: ModelRequest,
    model: FloatModel,
    shared: Artifact,
    images: CalibrationSource,
    work: Path,
    threads: int | None,
) -> tuple[FloatModel | TfliteModel, Artifact]:
    """Returns what a file is made from, and the same file by ranges of its own."""
    own_form: FloatModel | TfliteModel = model
    source = request
    if get_format(shared.format).has_own_form:
        (converted,) = export_model(request, shared.target, ["fp32"], work / "float", formats=[shared.format]).files
        source = ModelRequest(str(converted.artifact.path), preset=request.preset, size=request.size)
        own_form = get_format(shared.format).function("open")(source)
    result = export_model(
        source, shared.target, [PRECISION], work / "own", calibration=images, formats=[shared.format], threads=threads
    )
    return own_form, next(file.artifact for file in result.files if file.artifact.precision == PRECISION)


def _signal(
    artifact: Artifact, model: FloatModel | TfliteModel, images: CalibrationSource, threads: int | None
) -> dict[str, float]:
    compared = ComparedImages(model.preprocessing, images)
    groups = [WHOLE] * len(artifact.outputs)
    signal = measure(
        artifact, model, target=get_target(artifact.target), images=compared, groups=groups, threads=threads
    )
    return {} if signal is None else {output.name: output.snr_db for output in signal.outputs}


def _mean(differences: dict[str, float]) -> float:
    return sum(differences.values()) / len(differences)


def to_markdown(tables: dict[str, list[Row]], images: int, samples: int) -> str:
    """Returns a table for each model, and below them how the figures were obtained."""
    lines = [
        "# One calibration for every target",
        "",
        "Signal-to-noise ratio of the INT8 file against the float model, in dB: calibrated for itself, and by the "
        "ranges file of the ONNX graph, without images. Differences are shared minus own, over the outputs.",
    ]
    for title, rows in tables.items():
        lines += [
            "",
            f"## {title}",
            "",
            "| target | format | own, least | shared, least | difference, mean | least | largest "
            "| TFLite tensors followed and measured on kept inputs |",
            "|---|---|---:|---:|---:|---|---|---:|",
        ]
        lines += [row.to_markdown() for row in rows]
    machine = read_machine()
    engines = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "ai-edge-litert", "ai-edge-quantizer"))
    lines += [
        "",
        f"Calibrated on {images} images by the default method; compared on 8 of them, in exact arithmetic. The ranges "
        f"file keeps {samples} inputs. {machine.cpu} ({', '.join(machine.cpu_features)}), {engines}, edgeq "
        f"{edgeq.__version__}, Python {machine.python}.",
    ]
    return "\n".join(lines) + "\n"


def run(
    subjects: dict[str, tuple[ModelRequest, CalibrationSource]],
    out: Path,
    *,
    targets: Sequence[str] = tuple(TARGETS),
    work: Path = WORK,
    threads: int | None = None,
) -> Path:
    """Returns the result file.

    Args:
        subjects: Title -> model, and the images that it is calibrated on.
        out: Folder of the result file.
        targets: Names of targets.
        work: Folder for the files.
        threads: CPU threads.
    """
    from edgeq.calibration.sample_keeper import DEFAULT_KEPT

    tables = {}
    for number, (title, (request, images)) in enumerate(subjects.items()):
        tables[title] = list(compare(request, images, targets, work / str(number), threads))
    num = max(images.num for _, images in subjects.values())
    return write_result(out, "shared_calibration.md", to_markdown(tables, num, DEFAULT_KEPT))


def make_parser() -> argparse.ArgumentParser:
    return subjects_parser(__doc__, SUBJECTS, NAMES, IMAGES, WORK)


def main() -> None:
    given = read_subjects(make_parser(), SUBJECTS)
    given.work.mkdir(parents=True, exist_ok=True)
    subjects = {
        SUBJECTS[name].title: (
            request_of(name, given.data, given.work),
            calibration_of(SUBJECTS[name], given.data, given.images, given.work),
        )
        for name in given.names
    }
    run(subjects, given.out, work=given.work)


if __name__ == "__main__":
    main()
