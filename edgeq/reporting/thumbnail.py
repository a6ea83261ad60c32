"""Scored images, made small enough for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from edgeq.errors import InputError

_THUMBNAIL_PX = 480
_JPEG_QUALITY = 72


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
