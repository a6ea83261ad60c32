"""Models with the images that they are calibrated and scored on, and how close a file comes to its float model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.any_graph import SUBJECTS, Subject, torchvision_subject
from benchmarks.image_sets import ImageSet
from benchmarks.peers import AnyFormat
from edgeq.evaluation.evaluate import evaluate_artifacts
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.signal.ratio import Sums
from edgeq.inputs import evenly_spaced
from edgeq.inputs.images import read_image
from edgeq.inputs.preprocessing import preprocess
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


def score(artifact: Artifact, runtime: str, images: ImageSet) -> dict[str, Any] | None:
    """Returns a file's AP or top-1 with its name; `None` if it names no decoder, as networks of random weights."""
    if artifact.postprocessing is None:
        return None
    compute = () if runtime.startswith("simulated") else ("f32",)
    (result,) = evaluate_artifacts(
        [artifact.path], images.truth, images.images, runtimes=[runtime], threads=1, compute_precisions=compute,
        place=AnyFormat(),
    )  # fmt: skip
    column = result.score.columns[0]
    return {"name": column.title, "value": result.score.numbers[column.name], "images": result.images}
