"""What does a short training on unlabelled images (`edgeq export --finetune`) gain, and what does it take?

`python -m benchmarks.finetune` trains and scores two models in ONNX Runtime; `python -m benchmarks.finetune resnet20`
one. Figures are kept below `--work`: models can be measured one by one, and the table is written of all that there are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import kept_result, read_subjects, subjects_parser, write_result
from benchmarks.json_results import evaluate_artifacts, merge
from benchmarks.reconstruction import SUBJECTS, Subject, subject
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.options import ExportOptions
from edgeq.machine import read_machine
from edgeq.reporting.comparison import Comparison, compare
from edgeq.results.rows import provenance
from edgeq.verbs.export import export_model

DEFAULT = ("resnet20", "resnet44")
PRECISIONS = ("int8", "w4a8")
CALIBRATION_NUM = 512


def measure(one: Subject, images: int, folder: Path) -> dict[str, Any]:
    """Returns the figures of a model's files as JSON: FP32, then each precision as it is and trained.

    Args:
        one: The model.
        images: How many images to train on, or all to calibrate on if those are fewer.
        folder: Where the files go.
    """
    exported = export_model(
        one.request, "x86-ort", ("fp32", *PRECISIONS), folder / "plain", calibration=one.calibration, threads=1
    )
    fp32, *plain = [each.artifact for each in exported.files]
    started, cpu = time.monotonic(), time.process_time()
    again = export_model(
        one.request, "x86-ort", PRECISIONS, folder / "trained", calibration=one.calibration, threads=1,
        options=ExportOptions(finetune=min(images, one.calibration.num)),
    )  # fmt: skip
    spent = {"wall_s": time.monotonic() - started, "cpu_s": time.process_time() - cpu}
    trained = [each.artifact for each in again.files]
    return {
        "title": one.title,
        **spent,
        "cpu": read_machine().cpu,
        "finetuning": [artifact.quantization["finetuning"] for artifact in trained],
        "scored": {
            precision: scores([fp32, before, after], one)
            for precision, before, after in zip(PRECISIONS, plain, trained, strict=True)
        },
    }


def scores(files: Sequence[Artifact], one: Subject) -> list[dict[str, Any]]:
    """Returns the results of files in ONNX Runtime."""
    paths = [artifact.path for artifact in files]
    return list(evaluate_artifacts(paths, one.truth, one.images, runtimes=["onnxruntime"], threads=1))


def rows_of(found: Mapping[str, Any]) -> list[str]:
    """Returns the rows of the table for a model: each file, against FP32, and what training changed."""
    lines: list[str] = []
    for precision, (fp32, before, after) in found["scored"].items():
        if not lines:
            lines.append(f"| {found['title']} | FP32 | {_score(fp32)} | | |")
        name = precision.upper()
        lines.append(f"| {found['title']} | {name} | {_score(before)} | {_change(fp32, before)} | |")
        trained = f"{_change(fp32, after)} | {_change(before, after)}"
        lines.append(f"| {found['title']} | {name}, trained | {_score(after)} | {trained} |")
    return lines


def _score(result: Mapping[str, Any]) -> str:
    return f"{result.get('top1', result.get('AP')):.4f}"


def _change(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Returns by how many points a file is better than another one, with the interval over resampled images if any."""
    if before["digest"] == after["digest"]:
        return "the same file"
    reference, file = compare(merge([before, after]))
    drop = Comparison(file.row, reference.row, file.predictions, reference.predictions).main
    assert drop is not None
    interval = "" if drop.low is None or drop.high is None else f" ({-drop.high:+.2f} .. {-drop.low:+.2f})"
    return f"{-drop.points:+.2f}{interval}"


def _spent(found: Mapping[str, Any]) -> str:
    files = " and ".join(precision.upper() for precision in found["scored"])
    return (
        f"{found['title']}: the export that calibrates, trains and writes {files} took {found['cpu_s'] / 60:.1f} "
        f"minutes of CPU time on one thread ({found['wall_s'] / 60:.1f} minutes by the clock, on a machine that other "
        f"work shared), {found['cpu']}."
    )


def write(results: Sequence[Mapping[str, Any]], out: Path) -> Path:
    """Returns the file of the tables."""
    lines = ["| model | file | top-1 or AP | against FP32, points (95 %) | by training, points (95 %) |"]
    lines.append("|---|---|---:|---:|---:|")
    errors = ["| model | file | images, held out | outputs' error before | after | kept |"]
    errors.append("|---|---|---:|---:|---:|---|")
    for found in results:
        lines += rows_of(found)
        for precision, facts in zip(found["scored"], found["finetuning"], strict=True):
            errors.append(
                f"| {found['title']} | {precision.upper()} | {facts['images']}, {facts['held_out']} | "
                f"{facts['output_error_before']:.2e} | {facts['output_error_after']:.2e} | "
                f"{'yes' if facts['kept'] else 'no'} |"
            )
    text = [
        "# A short training on unlabelled images (`--finetune`)",
        "",
        *lines,
        "",
        "Scores are measured in ONNX Runtime; changes have the paired bootstrap over images that `edgeq gate` draws. "
        f"The files are calibrated on up to {CALIBRATION_NUM} images; W4A8 has scales of least squared error, and 8 "
        "bits in the first and the last layers.",
        "",
        "The outputs' error is squared, relative to their energy, on the images held out, in exact arithmetic:",
        "",
        *errors,
        "",
        *(_spent(found) for found in results),
        *(line for found in results for line in provenance(merge(next(iter(found["scored"].values()))))),
    ]
    return write_result(out, "finetune.md", "\n".join(text) + "\n")


def run(subjects: Mapping[str, Subject], images: int, work: Path, out: Path) -> Path:
    """Returns the result file, of all models whose figures are kept in the folder `work`.

    Args:
        subjects: Name of a model -> the model to measure, if its figures are not kept yet.
        images: How many images to train on.
        work: Folder for the files and the figures.
        out: Folder of the result file.
    """
    work.mkdir(parents=True, exist_ok=True)
    for name, one in subjects.items():
        kept_result(work / f"{name}.json", measure, one, images, work / name)
    return write([kept_result(path, dict) for path in sorted(work.glob("*.json"))], out)


def make_parser() -> argparse.ArgumentParser:
    parser = subjects_parser(__doc__, SUBJECTS, DEFAULT, CALIBRATION_NUM, Path("finetune_work"))
    parser.add_argument("--finetune", type=int, default=512, help="images to train on")
    return parser


def main() -> None:
    arguments = read_subjects(make_parser(), SUBJECTS)
    arguments.work.mkdir(parents=True, exist_ok=True)
    subjects = {name: subject(name, arguments.data, arguments.work, arguments.images) for name in arguments.names}
    run(subjects, arguments.finetune, arguments.work, arguments.out)


if __name__ == "__main__":
    main()
