"""The images on which a file differs most from FP32, as pictures, and the kinds of error that changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from edgeq.datasets import Split
from edgeq.errors import InputError
from edgeq.evaluation.findings import caption, draw_picture, save_picture
from edgeq.inputs.images import read_image
from edgeq.inputs.items import Pixels
from edgeq.reporting.comparison import Comparison, compare
from edgeq.reporting.errors import ErrorChange, error_changes
from edgeq.results.evaluation import EvalResult, Score
from edgeq.results.reading import Result
from edgeq.results.rows import LOCAL, Row, merge
from edgeq.results.serialization import to_json
from edgeq.tasks import get_task
from edgeq.tasks.evidence import Diagnosis, Example
from edgeq.tasks.prediction_records import PredictionRecords, unpack_predictions

ReadImage = Callable[[str], Pixels]
"""Name of an image in results -> the image `(H, W, 3)`, RGB."""


@dataclass(frozen=True)
class WorstImages:
    """The images on which one file differs most from FP32.

    Attributes:
        artifact: Name of the file.
        runtime: Name of the runtime.
        device: Name of the device.
        reference: Name of the FP32 file.
        threshold: Score from which findings are drawn: the best one for FP32.
        pictures: The pictures, the worst first.
        errors: Kinds of error, and how they changed from FP32; empty for a task without them.
    """

    artifact: str
    runtime: str
    device: str
    reference: str
    threshold: float
    pictures: tuple[Path, ...]
    errors: tuple[ErrorChange, ...]


def require_two(artifacts: Sequence[Path]) -> None:
    """Raises `InputError` if there is nothing to compare a file with, before any of it is run."""
    if len(artifacts) < 2:
        raise InputError("`save_worst` compares files with FP32; name the fp32 file of the same model too")


def reader(images_dir: Path | None, data: Split | None) -> ReadImage:
    """Returns what reads the images of a data set by their names in results.

    Args:
        images_dir: Folder of the images, if they were given as a folder.
        data: The part of a data set, if they were given as one.
    """
    if data is None:
        folder = cast(Path, images_dir)
        return lambda name: read_image(folder / name)
    items = {image.name: image.item for image in data.images}
    return lambda name: cast("Pixels", items[name].read())


def save_worst(results: Sequence[Result], read: ReadImage, count: int, out: Path) -> list[WorstImages]:
    """Draws the images on which each file differs most from the FP32 file of its model, in the same runtime and device.

    A picture shows what FP32 finds, what the file finds, and what is annotated. What both find is thin; of the rest,
    `lost` and `won` find an annotated box, a false alarm does not.

    Args:
        results: Results of `edgeq eval` with their predictions.
        read: See `reader`.
        count: Most images per file.
        out: Folder for the pictures, which gets a folder per file.

    Raises:
        InputError: no file has FP32 to compare with, an image cannot be read, or a picture not be written.
    """
    rows = merge(results)
    found = [
        _save(each, each.reference, read, count, out)
        for each in compare(rows)
        if each.reference is not None and not each.row.is_float and each.without_interval is None
    ]
    if not found:
        raise InputError(
            "`save_worst`: found no fp32 file of the same model in the same runtime; name it too, and give `runtime`"
        )
    return found


def diagnosed(results: Sequence[Result]) -> list[Result]:
    """Returns the results with what is wrong with each file, where its task can tell."""
    return [_diagnosed(result) if isinstance(result, EvalResult) else result for result in results]


def _diagnosed(result: EvalResult[Score]) -> EvalResult[Score]:
    task = get_task(result.task)
    diagnosis = unpack_predictions(result.predictions, task.records_type).diagnosis(task.show_from)
    return result if diagnosis is None else dataclasses.replace(result, diagnosis=to_json(diagnosis))


def _save(comparison: Comparison, reference: Row, read: ReadImage, count: int, out: Path) -> WorstImages:
    row, now, before = comparison.row, comparison.predictions, comparison.reference_predictions
    assert now is not None and before is not None  # noqa: S101 - otherwise there is no interval
    task = get_task(comparison.task or "")
    curve = before.curve()
    threshold = task.show_from if curve is None else curve.best_threshold
    place = row.runtime if row.device == LOCAL else f"{row.runtime}.{row.device}"
    folder = out / f"{row.artifact}.{place}"
    pictures = []
    for number, example in enumerate(before.most_different(now, threshold, count), start=1):
        path = folder / f"{number:03}_{Path(example.image).stem}.jpg"
        _save_example(path, task.name, example, read, (reference.artifact, row.artifact))
        pictures.append(path)
    changes = _changes(now, before, task.show_from)
    return WorstImages(row.artifact, row.runtime, row.device, reference.artifact, threshold, tuple(pictures), changes)


def _save_example(path: Path, task: str, example: Example, read: ReadImage, names: tuple[str, str]) -> None:
    panels = [
        (caption(names[0], example.reference), example.reference),
        (caption(names[1], example.other), example.other),
        (caption("annotated", example.truth), example.truth),
    ]
    save_picture(path, draw_picture(get_task(task), read(example.image), panels))


def _changes(now: PredictionRecords, before: PredictionRecords, threshold: float) -> tuple[ErrorChange, ...]:
    found: Diagnosis | None = now.diagnosis(threshold)
    return () if found is None else error_changes(found, before.diagnosis(threshold))
