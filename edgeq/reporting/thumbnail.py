"""Scored images and what was found in them, made small enough for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import InputError
from edgeq.tasks import Task
from edgeq.tasks.drawing import Canvas, Style
from edgeq.tasks.drawing.palette import WHITE
from edgeq.tasks.drawn_findings import draw_findings
from edgeq.tasks.evidence import Example, Finding

_THUMBNAIL_PX = 480
_JPEG_QUALITY = 72
# Of what is drawn over a thumbnail, which is shown larger on some screens.
_OVERLAY_PX = 960
_OVERLAY_COLOURS = 64
_TRUTH = Style(WHITE, (1.5, 2.0))


@dataclass(frozen=True)
class Pictures:
    """One image of the gallery, as data URIs; all are of the image's shape, to be laid over each other.

    Attributes:
        image: The image; `None` if it is in none of the folders.
        reference: What the reference finds, on transparent ground.
        other: What the other file finds.
        truth: What is annotated, without labels.
    """

    image: str | None
    reference: str
    other: str
    truth: str


def pictures(task: type[Task[Any]], example: Example, folders: Sequence[Path]) -> Pictures:
    """Returns an image and what two files find in it, as their task draws it.

    Raises:
        InputError: see `thumbnail`.
    """
    return Pictures(
        thumbnail(folders, example.image),
        _findings(task, example, example.reference),
        _findings(task, example, example.other),
        _truth(example),
    )


def thumbnail(folders: Sequence[Path], image: str) -> str | None:
    """Returns an image, at most 480 pixels wide and high, as a JPEG data URI; `None` where no folder has it.

    Raises:
        InputError: the name leads out of a folder, or the image cannot be read.
    """
    from PIL import Image

    from edgeq.inputs.images import read_image

    for folder in folders:
        if not (folder / image).resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{image!r}: leads out of {folder}; wanted the names of images in it")
    path = next((folder / image for folder in folders if (folder / image).is_file()), None)
    if path is None:
        return None
    picture = Image.fromarray(read_image(path))
    picture.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def _findings(task: type[Task[Any]], example: Example, findings: Sequence[Finding]) -> str:
    """Returns findings as a task draws them, on transparent ground, as a PNG data URI."""
    canvas = _canvas(example)
    task.draw(canvas, findings)
    return _png(canvas)


def _truth(example: Example) -> str:
    """Returns what is true in white, which no class has, as a PNG data URI."""
    canvas = _canvas(example)
    draw_findings(canvas, example.truth, _TRUTH)
    return _png(canvas)


def _canvas(example: Example) -> Canvas:
    return Canvas(example.width_px, example.height_px, _OVERLAY_PX / max(example.width_px, example.height_px))


def _png(canvas: Canvas) -> str:
    stream = io.BytesIO()
    canvas.overlay().quantize(_OVERLAY_COLOURS).save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
