"""Where text really is: ICDAR's text files, or a label file as PaddleOCR writes it."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edgeq.boundary import parse_json, read_text
from edgeq.datasets.split import AnnotatedImage, Split
from edgeq.datasets.text import ILLEGIBLE
from edgeq.errors import InputError
from edgeq.inputs.images import existing_images, list_images
from edgeq.tasks.labelled_images import warn_of_missing
from edgeq.tasks.outlines import outline_of
from edgeq.tasks.polygons import Polygon

_KIND = "a folder of ICDAR's gt_*.txt files, or a label file with lines `image<TAB>[{transcription, points}]`"


@dataclass(frozen=True)
class TextTruth:
    """The text of one image.

    Attributes:
        polygons: Around each piece, in the image's pixels.
        ignored: Whether it need not be found, because it is illegible.
        texts: What each says.
    """

    polygons: tuple[Polygon, ...] = ()
    ignored: tuple[bool, ...] = ()
    texts: tuple[str, ...] = ()


def load_text_truth(annotations: Path | None, images_dir: Path) -> tuple[list[Path], list[TextTruth]]:
    """Returns the images and their text; an image without a file has none.

    Args:
        annotations: A folder with `gt_NAME.txt` or `NAME.txt` for every image NAME, lines `x1,y1,...,transcription`
            ("ICDAR 2015 Competition on Robust Reading", Karatzas et al., 2015); or a text file with lines of an image
            and, behind a tab, a list of `transcription` and `points`. Transcriptions `###` and `*` are illegible.
        images_dir: Folder of the images.

    Raises:
        InputError: the truth is missing, or of another form.
    """
    if annotations is None:
        raise InputError(f"text detection is scored on polygons; give `annotations`: {_KIND}")
    if annotations.is_dir():
        paths = list_images(images_dir)
        files = [_file_of(annotations, path.relative_to(images_dir)) for path in paths]
        if not any(file.is_file() for file in files):
            raise InputError(f"{annotations}: holds none of the files of {len(files)} images, such as {files[0].name}")
        warn_of_missing(annotations, files, "text")
        return paths, [_read_icdar(file) if file.is_file() else TextTruth() for file in files]
    lines = [line for line in read_text(annotations, kind=_KIND).splitlines() if line.strip()]
    split = [line.split("\t") for line in lines]
    for number, cells in enumerate(split, start=1):
        if len(cells) != 2:
            raise InputError(f"{annotations}: line {number} is {lines[number - 1][:60]!r}; expected {_KIND}")
    found = [_read_labels(annotations, number, cells[1]) for number, cells in enumerate(split, start=1)]
    return existing_images(annotations, images_dir, [cells[0] for cells in split]), found


def text_truth_of(split: Split) -> list[TextTruth]:
    """Returns the text of each image of a data set: the outlines of its objects, whatever their class.

    Raises:
        InputError: there is no object.
    """
    if not split.box_count:
        raise InputError(f"{split.source}: is {split.format} without text; wanted {_KIND}")
    return [_text_of(image) for image in split.images]


def _text_of(image: AnnotatedImage) -> TextTruth:
    return TextTruth(
        tuple(outline_of(each) for each in image.objects),
        tuple(each.is_ignored for each in image.objects),
        tuple(each.text for each in image.objects),
    )


class _Piece(msgspec.Struct):
    transcription: str
    points: list[tuple[float, float]]


def _read_labels(source: Path, number: int, text: str) -> TextTruth:
    place = f"{source}: line {number}"
    pieces = parse_json(text.encode(), list[_Piece], source=place, kind="a list of `transcription` and `points`")
    polygons = tuple(_polygon(place, [value for point in piece.points for value in point]) for piece in pieces)
    texts = tuple(piece.transcription for piece in pieces)
    return TextTruth(polygons, tuple(text in ILLEGIBLE for text in texts), texts)


def _read_icdar(file: Path) -> TextTruth:
    polygons, texts = [], []
    lines = read_text(file, kind="text of an image, lines x1,y1,...,transcription").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        cells = next(csv.reader([line], quoting=csv.QUOTE_NONE))
        # Four corners; a transcription may have commas, too.
        numbers, place = cells[:8], f"{file}: line {number}"
        try:
            polygons.append(_polygon(place, [float(cell) for cell in numbers]))
        except ValueError:
            raise InputError(f"{place} is {line[:60]!r}; wanted x1,y1,x2,y2,x3,y3,x4,y4,transcription") from None
        texts.append(",".join(cells[8:]).strip())
    return TextTruth(tuple(polygons), tuple(text in ILLEGIBLE for text in texts), tuple(texts))


def _polygon(place: str, numbers: list[float]) -> Polygon:
    if len(numbers) < 6 or len(numbers) % 2 or not all(map(math.isfinite, numbers)):
        raise InputError(f"{place} has a polygon {str(numbers)[:60]}; wanted three corners or more, finite numbers")
    return np.array(numbers).reshape(-1, 2)


def _file_of(folder: Path, image: Path) -> Path:
    named = folder / image.parent / f"gt_{image.stem}.txt"
    return named if named.is_file() else folder / image.with_suffix(".txt")
