"""Which images a user means, and their pixels."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeq.boundary import read_json, read_text
from edgeq.errors import InputError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"})

IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are read. Never the others: PostScript named .jpg would start Ghostscript."""

ARRAY_SUFFIX = ".npy"
"""Files of arrays that are ready for a model, in numpy's format."""

_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
# What a JPEG can have: a longer row of pixels is no photo, and 100 KB of PNG can hold one of 89 million.
_MAX_SIDE_PX = 65_535

# warnings.catch_warnings changes the whole process, so two threads must not be inside it at once.
_WARNINGS_LOCK = threading.Lock()

_log = logging.getLogger(__name__)


def list_images(source: Path, images_dir: Path | None = None) -> list[Path]:
    """Returns the image files that `source` stands for; they are not opened.

    Args:
        source: A folder (searched recursively, sorted by path; one without images for `.npy` files), a text file with
            one path a line, or a COCO annotation file (`.json`; its images in the file's order).
        images_dir: Folder that the paths of a text or annotation file start from; a text file's start from its own
            folder otherwise.

    Raises:
        InputError: `source` is missing, of another kind, or leads to no image.
    """
    if source.is_dir():
        return _list_folder(source)
    if not source.is_file():
        raise InputError(
            f"{source}: no such file or folder; wanted a folder of images, a text file of paths or a COCO file"
        )
    if source.suffix.lower() in IMAGE_SUFFIXES:
        raise InputError(f"{source}: is a single image; wanted its folder, a text file of paths or a COCO file")
    if source.suffix.lower() in VIDEO_SUFFIXES:
        raise InputError(f"{source}: is a video; give it as `data`, or a folder of its frames")
    if source.suffix.lower() == ".json":
        return _list_coco(source, images_dir)
    return _list_text(source, images_dir)


def existing_images(source: Path, folder: Path, names: list[str], *, inside: bool = True) -> list[Path]:
    """Returns the paths of images that a file names.

    Individual missing files are counted later; a wrong folder fails immediately.

    Args:
        source: The file, for errors.
        folder: Where its paths start from.
        names: The paths that it holds.
        inside: Whether they all have to lie in the folder, as those of annotations; a list of paths is the user's own.

    Raises:
        InputError: there are no names, none of them is a file, or one leads out of the folder.
    """
    if not names:
        raise InputError(f"{source}: names no images")
    if outer := next((name for name in names if inside and _leads_out(name)), None):
        raise InputError(f"{source}: its image {outer[:80]!r} lies outside {folder}; wanted names of files in it")
    paths = [folder / name for name in names]
    try:
        found = any(path.is_file() for path in paths)
    except (OSError, ValueError):  # a line too long for a file name, or with a null character
        found = False
    if not found:
        raise InputError(f"{source}: none of its {len(paths)} images is in {folder} (the first is {names[0][:80]!r})")
    return paths


def _leads_out(name: str) -> bool:
    """Returns whether a path leaves the folder that it starts from."""
    path = Path(name)
    return bool(path.anchor) or ".." in path.parts


def read_image(
    path: Path, stated_px: tuple[int, int] | None = None, encoded: memoryview | None = None
) -> NDArray[np.uint8]:
    """Returns the image's pixels as `(H, W, 3)` uint8, RGB, as training frameworks read them.

    Grayscale, palette and CMYK images are converted, 16-bit channels keep their high byte, alpha is dropped, and of an
    animation the first frame is taken. A photo that its EXIF data calls turned is turned upright, as OpenCV,
    detectron2 and Ultralytics do, unless annotations state the size that it is stored in (torchvision and
    pycocotools' tools see it so): then it would no longer lie under its boxes.

    Args:
        path: The file.
        stated_px: Width and height that annotations state.
        encoded: The file's content, if it lies within another file; `path` is then what errors call it.

    Raises:
        InputError: the file is missing, truncated, corrupt, not an image or larger than Pillow's limit.
    """
    with _opened(path, encoded) as image:
        # A phone's MPO holds one photo twice.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            _warn_of_frames(path)
        return _turned(_rgb(image), _orientation(image, stated_px))


@functools.lru_cache(maxsize=4096)
def _warn_of_frames(path: Path) -> None:
    """Warns of an animation once, however often its image is read."""
    _log.warning("%s: holds several frames; the first one is taken", path)


def image_size(path: Path) -> tuple[int, int]:
    """Returns the width and height of what `read_image` returns; only the head of the file is read.

    Raises:
        InputError: the file is missing, not an image or larger than Pillow's limit.
    """
    with _opened(path) as image:
        width, height = image.size
        return (height, width) if _orientation(image, None) in _SIDEWAYS else (width, height)


def small_image(path: Path, side_px: int) -> NDArray[np.uint8]:
    """Returns an image as `(side_px, side_px, 3)` uint8, RGB; of a JPEG only its coarse frequencies are decoded.

    Raises:
        InputError: see `read_image`.
    """
    from PIL import Image

    with _opened(path) as image:
        image.draft("RGB", (8 * side_px, 8 * side_px))
        pixels = Image.fromarray(_turned(_rgb(image), _orientation(image, None)))
        return np.asarray(pixels.resize((side_px, side_px), Image.Resampling.BOX))


@contextlib.contextmanager
def _opened(path: Path, encoded: memoryview | None = None) -> Iterator[Any]:
    """Yields Pillow's image; what its parsers raise, then or later, becomes one line."""
    from PIL import Image, UnidentifiedImageError

    try:
        # A pipe or a device would be waited for, or read without end.
        if encoded is None and not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path}: is not a regular file; wanted an image")
        with _WARNINGS_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path if encoded is None else io.BytesIO(encoded), formats=IMAGE_FORMATS)
        with image:
            if max(image.size) > _MAX_SIDE_PX:
                raise InputError(f"{path}: is {max(image.size):,} pixels long; wanted at most {_MAX_SIDE_PX:,}")
            yield image
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: is not an image that Pillow can read") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = (Image.MAX_IMAGE_PIXELS or 0) / 1_000_000
        reason = f"is too large to be decoded safely (more than {limit:.3g} million pixels)"
        raise InputError(f"{path}: {reason}; cut it into tiles, or make it smaller") from None
    # Pillow's parsers raise whatever a broken file makes them trip over: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise InputError(f"{path}: cannot be decoded ({error}); it is truncated or corrupt") from error


def _rgb(image: Any) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit values at 255.
        gray = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        return np.repeat(gray.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point pixels, wanted integers")
    if "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow would warn that transparency is lost
    # Converting to the mode that it has would copy it.
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _orientation(image: Any, stated_px: tuple[int, int] | None) -> int:
    """Returns the EXIF orientation that an image is to be turned by; 1 leaves it."""
    if image.format == "TIFF":
        return 1  # Pillow turns these by itself
    try:
        found = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # broken metadata of a sound image
        return 1
    stored = stated_px == image.size and image.width != image.height
    return 1 if stored and found in _SIDEWAYS else found


def _turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Returns pixels as EXIF's orientation (Exif 2.32, tag 0x0112) says that they are to be shown."""
    if orientation in _SIDEWAYS:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _list_folder(folder: Path) -> list[Path]:
    # Hidden ones are no photos: macOS leaves `._0001.jpg` beside each, and a killed process half a file.
    files = sorted(path for path in folder.rglob("*") if not path.name.startswith(".") and path.is_file())
    found = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    found = found or [path for path in files if path.suffix.lower() == ARRAY_SUFFIX]
    if not found:
        raise InputError(f"{folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def _list_text(source: Path, images_dir: Path | None) -> list[Path]:
    lines = read_text(source, kind="a folder, a text file with one path per line, or a COCO file").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    return existing_images(source, images_dir or source.parent, names, inside=False)


class _CocoImage(msgspec.Struct):
    file_name: str


class _CocoImages(msgspec.Struct):
    images: list[_CocoImage]


def _list_coco(source: Path, images_dir: Path | None) -> list[Path]:
    names = [image.file_name for image in read_json(source, _CocoImages, kind="a COCO annotation file").images]
    if images_dir is None:
        raise InputError(f"{source}: is a COCO annotation file; say with `images` DIR where its images are")
    return existing_images(source, images_dir, names)
