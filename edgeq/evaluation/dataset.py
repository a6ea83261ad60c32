"""A data set that is read once and scored as often as wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.datasets import Split
from edgeq.inputs import InputCache
from edgeq.tasks import Task, get_task

_CACHE_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images, the truth about them, and what was prepared of them so far.

    Attributes:
        task: The truth, parsed, and how a model is scored on it.
        inputs: The inputs of images that were read, for each pre-processing.
    """

    task: Task[Any]
    inputs: InputCache


def load_dataset(
    task: str,
    annotations: Path | None,
    images_dir: Path,
    *,
    engine: str = "pycocotools",
    cache_bytes: int = _CACHE_BYTES,
) -> Dataset:
    """Returns a data set for `edgeq.evaluation.evaluate.evaluate`; its annotations are parsed here, its images later.

    Args:
        task: A name of `edgeq.tasks.TASKS`.
        annotations: See `edgeq.evaluation.evaluate.evaluate_artifacts`.
        images_dir: Folder of the images.
        engine: COCO evaluator, see `edgeq.tasks.detection.coco.evaluate`.
        cache_bytes: The most memory for prepared inputs, which later scorings take instead of reading the images again.
            An input of 640x640 pixels takes 4.9 MB. When it is full, the remaining images are read each time.

    Raises:
        InputError: there is no such task, or the data set cannot be used.
        MissingDependencyError: the evaluator is not installed.
    """
    return Dataset(get_task(task).from_files(annotations, images_dir, engine), InputCache(cache_bytes))


def dataset_of(task: str, split: Split, *, engine: str = "pycocotools", cache_bytes: int = _CACHE_BYTES) -> Dataset:
    """Returns a part of a data set of any format for `edgeq.evaluation.evaluate.evaluate`.

    Args:
        task: A name of `edgeq.tasks.TASKS`.
        split: See `edgeq.datasets.open_split`.
        engine: See `load_dataset`.
        cache_bytes: See `load_dataset`.

    Raises:
        InputError: there is no such task, or it does not take such data.
        MissingDependencyError: the evaluator is not installed.
    """
    return Dataset(get_task(task).from_split(split, engine), InputCache(cache_bytes))
