"""Which of several presets fits a detector, proven on annotated images: the right one finds their objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from edgeq.boundary import Raw, read_json
from edgeq.datasets import Split
from edgeq.errors import EdgeqError, InputError
from edgeq.evaluation.inference import Job, SomeImages, predict
from edgeq.exporting.artifact import Artifact, manifest_path
from edgeq.inputs import InputCache
from edgeq.inputs.items import evenly_spaced
from edgeq.inputs.presets import Labels, load_preset
from edgeq.notes import log_of
from edgeq.runtimes import choose_runtimes
from edgeq.sources.artifact_file import describe_file, facts_of, open_artifact, takes_image
from edgeq.sources.formats import file_format
from edgeq.sources.model import ModelRequest
from edgeq.sources.recognition import AUTO, Candidate, Recognition, recognise
from edgeq.tasks import get_task
from edgeq.tasks.base import Task

_IMAGES = 16
_ENGINE = "pycocotools"
# A detector on images that are prepared for another one finds next to nothing.
_FINDS = 0.05
_FAMILY_AHEAD = 1.5
# Another preparation than the family's has to be clearly better: a few images are noise, too.
_VARIANT_AHEAD = 1.2
_SCALE = 1 / 255

_log = log_of(__name__)


@dataclass(frozen=True)
class AnnotatedImages:
    """Images whose objects are known.

    Attributes:
        source: What says where the objects are, for messages.
        task: Opens them as a task of detection.
    """

    source: Path
    task: Callable[[], Task[Any]]

    @classmethod
    def of(cls, annotations: object, images_dir: Path | None, split: Split | None = None) -> AnnotatedImages | None:
        """Returns images with boxes; `None` if there are none.

        Args:
            annotations: A COCO annotation file, or something else.
            images_dir: Folder of its images.
            split: A part of a data set, instead of these two.
        """
        detection = get_task("detection")
        if split is not None:
            known = any(image.objects for image in split.images)
            return cls(split.source, partial(detection.from_split, split, _ENGINE)) if known else None
        if not isinstance(annotations, Path) or images_dir is None or annotations.suffix != ".json":
            return None
        try:
            head = read_json(annotations, _Head, kind="a COCO annotation file")
        except InputError:  # whoever needs the file says what is wrong with it
            return None
        is_coco = all(bytes(each) for each in (head.images, head.annotations, head.categories))
        return cls(annotations, partial(detection.from_files, annotations, images_dir, _ENGINE)) if is_coco else None


class _Head(msgspec.Struct):
    """The three lists of a COCO file, not parsed."""

    images: Raw = Raw()
    annotations: Raw = Raw()
    categories: Raw = Raw()


def open_recognised(path: Path, preset: str | None, labels: Labels | None, images: AnnotatedImages | None) -> Artifact:
    """Returns what `open_artifact` does; a file without a manifest and with no preset, or `auto`, is recognised.

    Args:
        path: A model file or a manifest.
        preset: See `open_artifact`.
        labels: See `open_artifact`.
        images: What presets are proven on.

    Raises:
        EdgeqError: as `open_artifact`, and where several presets fit and no images decide.
    """
    described = path.suffix == ".json" or not path.is_file() or manifest_path(path).is_file()
    if described or preset not in (None, AUTO):
        return open_artifact(path, None if preset == AUTO else preset, labels)
    candidate = _proven(path, labels, images) if images is not None else None
    if candidate is None:
        return open_artifact(path, AUTO, labels)
    return open_artifact(path, candidate.preset, candidate.labels if labels is None else labels)


def proven_request(request: ModelRequest, images: AnnotatedImages | None) -> ModelRequest:
    """Returns a request with the preset that annotated images prove, if it states none and they decide.

    Raises:
        InputError: several presets fit, and the images do not decide between them.
    """
    path = Path(request.reference)
    if (
        images is None
        or request.stated_preset is not None
        or request.module is not None
        or file_format(request.reference) is None
        or not path.is_file()
    ):
        return request
    candidate = _proven(path, request.labels, images)
    if candidate is None:
        return request
    labels = candidate.labels if request.labels is None else request.labels
    return dataclasses.replace(request, preset=candidate.preset, labels=labels)


def _proven(path: Path, labels: Labels | None, images: AnnotatedImages | None) -> Candidate | None:
    """Returns the candidate that images prove; `None` where there is nothing to decide."""
    described = describe_file(path)
    if images is None or not takes_image(described):
        return None
    recognition = recognise(facts_of(described))
    if not recognition.candidates or recognition.candidates[0].certain:
        return None
    task = images.task()
    found = _scores(path, recognition.candidates, labels, task)
    ranked = sorted(found, key=lambda each: -found[each])
    where = f"AP on {min(_IMAGES, len(task.paths))} images of {images.source.name}"
    if len(recognition.candidates) > 1 and (
        not ranked or found[ranked[0]] < max(_FINDS, *(_FAMILY_AHEAD * found[other] for other in ranked[1:]))
    ):
        choices = "; or ".join(f"{each.flags} for {each.family}" for each in recognition.candidates)
        raise InputError(
            f"{path.name}: its outputs fit several families, and images do not decide ({where}: {_figures(found)}): "
            f"give {choices}"
        )
    if not ranked:
        return None
    base = best = ranked[0]
    others = _scores(path, _variants(base, recognition), labels, task)
    for variant, ap in others.items():
        if ap >= max(_FINDS, _VARIANT_AHEAD * found[base], found.get(best, 0.0)):
            best, found[variant] = variant, ap
    found |= others
    if found[best] < _FINDS:
        _log.warning(
            "%s: recognised by its form, but hardly anything is found: %s: %s", path.name, where, _figures(found)
        )
        return None
    _log.info("%s; by %s: %s", recognition.describe(best), where, _figures(found))
    return best


def _figures(found: Mapping[Candidate, float]) -> str:
    """Returns presets with their AP, the best first."""
    return ", ".join(f"{each.preset} {found[each]:.3f}" for each in sorted(found, key=lambda each: -found[each]))


def _variants(candidate: Candidate, recognition: Recognition) -> list[Candidate]:
    """Returns a candidate with one thing changed at a time: the order of channels, the scale, the resizing."""
    facts = recognition.facts
    spec = load_preset(candidate.preset, (facts.height_px or 64, facts.width_px or 64)).preprocessing
    order = {"rgb": "bgr", "bgr": "rgb"}.get(spec.channel_order)
    changes = [] if order is None else [f"channel_order={order}"]
    if not any(spec.mean):
        changes.append(f"scale={_SCALE!r}" if spec.scale == 1 else "scale=1")
    changes.append("resize=letterbox_center" if spec.resize == "stretch" else "resize=stretch")
    return [dataclasses.replace(candidate, preset=f"{candidate.preset},{change}") for change in changes]


def _scores(
    path: Path, candidates: Sequence[Candidate], labels: Labels | None, task: Task[Any]
) -> dict[Candidate, float]:
    """Returns the AP of each candidate whose outputs can be decoded, and scored on the annotations."""
    numbers = evenly_spaced(range(len(task.paths)), _IMAGES)
    found = {}
    for candidate in candidates:
        try:
            stated = candidate.labels if labels is None else labels
            artifact = open_artifact(path, candidate.preset, stated)
            task.check(artifact)
            found[candidate] = _score(artifact, task, numbers)
        except EdgeqError as error:
            _log.debug("%s: preset %s cannot be scored: %s", path.name, candidate.preset, error)
    return found


def _score(artifact: Artifact, task: Task[Any], numbers: Sequence[int]) -> float:
    if artifact.preprocessing is None or artifact.postprocessing is None:
        return 0.0
    runtime = choose_runtimes(artifact, ())[0]
    job = Job(artifact, artifact.preprocessing, artifact.postprocessing, runtime, None)
    if job.decoder.task.name != task.name:
        return 0.0
    predict([job], SomeImages(task, numbers), None, InputCache(0))
    predictions = {numbers[position]: each for position, each in job.predictions.items()}
    return task.score(artifact, predictions, {}).main_value or 0.0
