"""Models with the images that they are calibrated and scored on, and how close a file comes to its float model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import trained_vit
from benchmarks.any_graph import SUBJECTS, Subject, torchvision_subject
from benchmarks.image_sets import ImageSet
from benchmarks.peers import AnyFormat
from edgeq.evaluation.evaluate import evaluate_artifacts
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.signal.ratio import Sums
from edgeq.inputs import evenly_spaced
from edgeq.inputs.images import read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.reporting.comparison import compare
from edgeq.results.rows import merge
from edgeq.runtimes import open_session


@dataclass(frozen=True)
class ScoredModel:
    """A model and its images.

    Attributes:
        subject: The model.
        images: A name of `benchmarks.image_sets.IMAGE_SETS`.
        is_transformer: Whether NNCF is told that it is one.
    """

    subject: Subject
    images: str = "coco"
    is_transformer: bool = False


MODELS: Mapping[str, ScoredModel] = {
    **{name: ScoredModel(SUBJECTS[name]) for name in ("yunet", "ultraface", "fastestdet", "yolox")},
    "centernet": ScoredModel(SUBJECTS["centernet"], "bccd"),
    "resnet20": ScoredModel(SUBJECTS["resnet20"], "cifar10"),
    "vit": ScoredModel(SUBJECTS["vit"], "fashionmnist", is_transformer=True),
    "resnet50": ScoredModel(torchvision_subject("ResNet-50", ":resnet50")),
}

TUNED: Mapping[str, ScoredModel] = {
    **MODELS,
    "vit_d64": ScoredModel(trained_vit.SUBJECT, "fashionmnist", is_transformer=True),
}
"""The same and one that `benchmarks.trained_vit` trains."""


def inputs_of(artifact: Artifact, images: ImageSet, count: int) -> list[np.ndarray]:
    """Returns inputs `(1, C, H, W)` of so many images that nothing was calibrated on."""
    assert artifact.preprocessing is not None
    paths = evenly_spaced(images.validation_paths(), count)
    return [preprocess(read_image(path), artifact.preprocessing)[0] for path in paths]


def outputs_of(artifact: Artifact, runtime: str, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns output -> what a file computes for all inputs, in order and behind each other, float layers in FP32."""
    (feed,) = artifact.inputs
    with open_session(artifact, runtime, 1, "f32") as session:
        found = [session.run({feed.name: feed.encode(array)}) for array in inputs]
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def decibels(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> list[float]:
    """Returns the signal-to-noise ratio of each output in dB, over all images."""
    return [Sums.of(array, found[name]).snr_db for name, array in expected.items()]


def scores(files: Sequence[Artifact], runtime: str, images: ImageSet) -> list[dict[str, Any]] | None:
    """Returns AP or top-1 of the files of one model, FP32 first; `None` if it names no decoder.

    Of the others also by how many points they are worse, with its 95 % interval over resampled images.
    """
    if files[0].postprocessing is None:
        return None
    compute = () if runtime.startswith("simulated") else ("f32",)
    results = evaluate_artifacts(
        [file.path for file in files], images.truth, images.images, runtimes=[runtime], threads=1,
        compute_precisions=compute, place=AnyFormat(),
    )  # fmt: skip
    main = results[0].score.columns[0]
    found: list[dict[str, Any]] = [
        {"name": main.title, "value": result.score.numbers[main.name], "images": result.images} for result in results
    ]
    drops = {each.row.digest: each.main for each in compare(merge(results))}  # plans share a name
    for entry, file in zip(found[1:], files[1:], strict=True):
        drop = drops[file.digest]
        assert drop is not None
        entry |= {"drop": [drop.points, drop.low, drop.high]}
    return found
