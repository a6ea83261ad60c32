"""Classification: images with labels, the scores that a model gives them, and top-1 and top-5 accuracy.

Equal scores are common in INT8 files; between them the lower class index ranks first, so that results repeat.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.boundary import Integer, convert, read_json, read_text
from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Artifact, Postprocessing
from edgeq.inputs.images import IMAGE_SUFFIXES, existing_images, list_images
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs

DECODER = "classification"

TOP = 5
"""How many classes of an image are ranked."""

_ROLES = {"scores": "scores"}
_OPTIONS = {"offset": 0}
_WANTED = "a JSON object of file name and class, or a text file with lines `path,class`"


@dataclass(frozen=True)
class LabelledImages:
    """Images and the class of each, as a folder or file states them.

    Attributes:
        source: The folder or file.
        paths: The image files; they are not opened.
        classes: The class of each: an index, or what a text says (a name, or an index in digits).
        folders: Names of the class folders, sorted; empty where the classes come from a file.
    """

    source: Path
    paths: tuple[Path, ...]
    classes: tuple[int | str, ...]
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassAccuracy:
    """How often images of one class are recognised.

    Attributes:
        name: The class's name, or its index where the model has no names.
        class_index: Its index.
        images: How many images of it were scored.
        top1: Share of them whose best class it is; `None` without any.
    """

    name: str
    class_index: int
    images: int
    top1: float | None


@dataclass(frozen=True)
class ClassificationScores:
    """Accuracy over images.

    Attributes:
        top1: Share of the images whose class ranks first.
        top5: Share of the images whose class is among the first five; `None` for models of fewer than six classes.
        per_class: One entry a class, by index.
    """

    top1: float
    top5: float | None
    per_class: tuple[ClassAccuracy, ...]


def load_labelled_images(source: Path | None, images_dir: Path) -> LabelledImages:
    """Returns the images of a data set with their classes.

    Args:
        source: A JSON object of file name -> class, or a text or CSV file with lines `path,class` or `path class`
            (without a comma or tab the class is the last word); a first line that names no image is a heading. `None`
            where `images_dir` has one sub-folder a class.
        images_dir: Folder that the paths of `source` start from, or the one with the sub-folders.

    Raises:
        InputError: nothing is found, a class folder is empty, or the file has another form.
    """
    if source is None:
        return _from_folders(images_dir)
    if not source.is_file():
        raise InputError(f"{source}: no such file; wanted {_WANTED}")
    rows = _from_json(source) if source.suffix.lower() == ".json" else _from_text(source)
    if not rows:
        raise InputError(f"{source}: names no images; wanted {_WANTED}")
    paths = existing_images(source, images_dir, [name for name, _ in rows])
    return LabelledImages(source, tuple(paths), tuple(label for _, label in rows))


def class_indices(images: LabelledImages, classes: int, labels: Sequence[str]) -> NDArray[np.int64]:
    """Returns the class index `(images,)` of every image, 0 to `classes - 1`.

    Text is looked up among `labels` where all of it is there, and otherwise read as indices. Class folders without
    either are the classes in sorted order, as torchvision's `ImageFolder` counts them.

    Args:
        images: The images.
        classes: How many classes the model tells apart.
        labels: Their names, by index; empty where the model has none.

    Raises:
        InputError: a name is unknown, an index too high, or there are more or fewer folders than classes.
    """
    index = _text_indices(images, classes, labels)
    found = [index[label] if isinstance(label, str) else label for label in images.classes]
    for path, number in zip(images.paths, found, strict=True):
        if not 0 <= number < classes:
            raise InputError(
                f"{images.source}: {path.name} is of class {number}, but the model has {classes} classes (0 to "
                f"{classes - 1}); if it has a background class that the labels count too, omit the option offset"
            )
    return np.array(found, np.int64)


def count_classes(artifact: Artifact) -> int:
    """Returns how many classes a classifier tells apart: the length of its scores without the option `offset`.

    Raises:
        ModelError: its scores are missing, or not of one fixed length.
    """
    post = _postprocessing(artifact)
    outputs = {}
    for spec in artifact.outputs:
        if None in spec.shape[1:]:
            raise ModelError(
                f"{artifact.name}: its output {spec.name!r} has the shape {spec.shape}, wanted (1, classes)"
            )
        outputs[spec.name] = spec.decode(np.zeros([length or 1 for length in spec.shape], spec.dtype))
    return len(decode(outputs, post))


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing) -> NDArray[np.float32]:
    """Returns the score of every class `(classes,)`, as the model gives them.

    Args:
        outputs: Role `scores`: `(1, offset + classes)`, logits or probabilities; further axes have length 1.
        post: Option `offset`: how many classes at the front the labels do not have (TensorFlow's models of ImageNet
            often count a background class first). They are left out of the ranking.

    Raises:
        ModelError: the output is missing or has another shape.
        InputError: `post` has an unknown role or option.
    """
    return _class_scores(pick_outputs(outputs, post, _ROLES)["scores"], post)


def class_names(artifact: Artifact) -> tuple[str, ...]:
    """Returns the names of the classes that the labels may have, by index; empty where the artifact has none.

    Raises:
        InputError: there are more or fewer names than classes.
    """
    offset = int(pick_options(_postprocessing(artifact), _OPTIONS)["offset"])
    classes, names = count_classes(artifact), artifact.labels
    if len(names) == classes + offset:
        return names[offset:]
    if names and len(names) != classes:
        raise InputError(f"{artifact.name}: has {classes} classes, but {len(names)} labels; wanted one label per class")
    return names


def rank(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Returns the class indices of the best `TOP` scores `(classes,)`, best first; of equal ones the lower index."""
    return np.argsort(-scores, kind="stable")[:TOP].astype(np.int64)


def score(
    ranked: NDArray[np.int64], truth: NDArray[np.int64], classes: int, names: Sequence[str] = ()
) -> ClassificationScores:
    """Returns the accuracy over at least one image.

    Args:
        ranked: Class indices `(images, TOP)` (or fewer columns, where there are fewer classes), best first.
        truth: Class index `(images,)`.
        classes: How many classes the model tells apart.
        names: Their names, by index; empty where the model has none.
    """
    hits = ranked == truth[:, None]
    images = np.bincount(truth, minlength=classes)
    right = np.bincount(truth[hits[:, 0]], minlength=classes)
    return ClassificationScores(
        top1=float(hits[:, 0].mean()),
        top5=float(hits.any(axis=1).mean()) if classes > TOP else None,
        per_class=tuple(
            ClassAccuracy(
                names[index] if names else str(index),
                index,
                int(images[index]),
                float(right[index] / images[index]) if images[index] else None,
            )
            for index in range(classes)
        ),
    )


def _text_indices(images: LabelledImages, classes: int, labels: Sequence[str]) -> dict[str, int]:
    """Returns the class index of every text that stands for a class."""
    texts = {label for label in images.classes if isinstance(label, str)}
    if texts <= set(labels):
        return {label: number for number, label in enumerate(labels)}
    if all(text.isdecimal() for text in texts):
        return {text: int(text) for text in texts}
    if images.folders and not labels:
        if len(images.folders) != classes:
            raise InputError(
                f"{images.source}: has {len(images.folders)} class folders, and the model {classes} classes without "
                "names; name the folders by class index, or score a model with labels"
            )
        return {name: number for number, name in enumerate(images.folders)}
    unknown = min(texts - set(labels), key=lambda text: (text.isdecimal(), text))
    names = f"its names ({', '.join(labels[:5])}{', ...' if len(labels) > 5 else ''}) or " if labels else ""
    raise InputError(
        f"{images.source}: has a class {unknown!r}, which the model does not know; wanted {names}indices 0 to "
        f"{classes - 1}"
    )


def _postprocessing(artifact: Artifact) -> Postprocessing:
    assert artifact.postprocessing is not None  # noqa: S101 - it names the decoder by which this module was chosen
    return artifact.postprocessing


def _class_scores(scores: NDArray[np.float32], post: Postprocessing) -> NDArray[np.float32]:
    offset = pick_options(post, _OPTIONS)["offset"]
    if offset < 0 or offset != int(offset):
        raise InputError(f"decoder {post.decoder}: option 'offset' is {offset!r}, wanted a whole number from 0")
    if scores.ndim < 2 or scores.shape[0] != 1 or scores.size != scores.shape[1] or scores.size - offset < 2:
        raise ModelError(
            f"decoder {post.decoder}: wanted scores (1, classes) of at least two classes after an offset of "
            f"{int(offset)}, found {describe({'scores': scores})}; a detector or embedding needs another preset"
        )
    return scores.reshape(-1)[int(offset) :]


def _from_folders(folder: Path) -> LabelledImages:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; wanted one with a sub-folder of images for each class")
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise InputError(
            f"{folder}: has no sub-folder for each class; give the classes with --annotations FILE, {_WANTED}"
        )
    found = [(path, each.name) for each in folders for path in list_images(each)]
    names = tuple(each.name for each in folders)
    return LabelledImages(folder, tuple(path for path, _ in found), tuple(name for _, name in found), names)


def _from_json(source: Path) -> list[tuple[str, int | str]]:
    found = read_json(source, dict[str, Any], kind=_WANTED)
    if {"images", "annotations"} <= found.keys():
        raise InputError(f"{source}: is a COCO file, which is for detectors; wanted {_WANTED}")
    for name, label in found.items():
        convert(label, Integer | str, source=source, kind=_WANTED, place=f"$[{name!r}]")  # type: ignore[arg-type]
    return list(found.items())


def _from_text(source: Path) -> list[tuple[str, int | str]]:
    lines = read_text(source, kind=_WANTED).splitlines()
    rows: list[tuple[str, int | str]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, label = _split(source, number, line.strip())
        if number > 1 or Path(name).suffix.lower() in IMAGE_SUFFIXES:
            rows.append((name, label))
    return rows


def _split(source: Path, number: int, line: str) -> tuple[str, str]:
    if "\t" in line:
        cells = line.split("\t")
    elif "," in line:
        cells = next(csv.reader([line]))
    else:
        cells = line.rsplit(maxsplit=1)
    if len(cells) != 2 or not all(cell.strip() for cell in cells):
        raise InputError(f"{source}: line {number} is {line[:80]!r}; wanted `path,class` or `path class`")
    return cells[0].strip(), cells[1].strip()
