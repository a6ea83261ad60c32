"""What a model's inputs are made of: image files, or arrays in memory.

Arrays are either images, `(H, W, 3)` uint8, which are pre-processed like those of files, or inputs that are ready:
`(C, H, W)` or batches `(N, C, H, W)` of floating point, on which only the shape and the values are checked. A model
that takes arrays of another rank (`edgeq.exporting.prepared_inputs.PreparedInputs`) gets them with or without a batch
axis.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError
from edgeq.exporting.artifact import Preprocessing
from edgeq.files import sha256_bytes, sha256_file
from edgeq.inputs.array_files import read_array
from edgeq.inputs.images import ARRAY_SUFFIX, image_size, read_image
from edgeq.inputs.preprocessing import FloatArray, Placement, preprocess

Pixels = NDArray[np.uint8]
T = TypeVar("T")

# Share of the width of the range that pre-processing leads to: an interpolation of the user's own may overshoot a bit.
_OVERSHOOT = 0.25
_IMAGE_AXES = 4
_WANTED = "wanted images (H, W, 3) of uint8, or inputs (C, H, W) or (N, C, H, W) of floating point"


@runtime_checkable
class Item(Protocol):
    """One image or input that has not been read yet; it may be read again."""

    @property
    def name(self) -> str:
        """How messages call it: the path of a file, or the position in an iterable."""

    def digest(self) -> str:
        """Returns the SHA-256 of its content: of a file's bytes, or of an array's shape and values.

        Raises:
            InputError: it cannot be read.
        """

    def read(self) -> Pixels | FloatArray:
        """Returns an image `(H, W, 3)`, uint8, RGB, or an input that is ready, `(1, C, H, W)`, float32.

        Raises:
            InputError: it cannot be read.
        """


Items = Iterable[Item]
"""Items in order; their number is known if this is a sequence."""


@dataclass(frozen=True)
class ImageFile:
    """An image file.

    Attributes:
        path: The file.
        size_px: Width and height that the annotations state, by which a turned photo is read as they mean it.
    """

    path: Path
    size_px: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def digest(self) -> str:
        """Returns the SHA-256 of the file."""
        try:
            return sha256_file(self.path)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error

    def read(self) -> Pixels | FloatArray:
        """Returns the image; see `edgeq.inputs.images.read_image`."""
        return read_image(self.path, self.size_px)


@dataclass(frozen=True, eq=False)
class MemoryItem:
    """An array in memory.

    Attributes:
        name: How messages call it.
        content: What `read` returns.
    """

    name: str
    content: Pixels | FloatArray

    def digest(self) -> str:
        """Returns the SHA-256 of its shape and values."""
        kind = f"{self.content.dtype.name} {self.content.shape}\n".encode()
        return hashlib.sha256(kind + self.content.tobytes()).hexdigest()

    def read(self) -> Pixels | FloatArray:
        """Returns the array."""
        return self.content


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image file that lies within another file, as data sets keep them.

    Attributes:
        name: How messages call it.
        encoded: Its content.
    """

    name: str
    encoded: memoryview

    def digest(self) -> str:
        """Returns the SHA-256 of the content."""
        return sha256_bytes(bytes(self.encoded))

    def read(self) -> Pixels | FloatArray:
        """Returns the image; see `edgeq.inputs.images.read_image`."""
        return read_image(Path(self.name), encoded=self.encoded)


@dataclass(frozen=True)
class ArrayFile(ImageFile):
    """A `.npy` file with one image or one input, as arrays in memory are."""

    def read(self) -> Pixels | FloatArray:
        """Returns what it holds.

        Raises:
            InputError: it is no array file, or an array of another kind.
        """
        array = read_array(self.path)
        if _is_image(array):
            return array
        if array.dtype.kind != "f" or not array.size:
            raise InputError(f"{self.path}: is an array {array.shape} of {array.dtype}; {_WANTED}")
        return _as_float32(array[None])


def image_files(paths: Sequence[Path]) -> list[Item]:
    """Returns an item for each image file, or `.npy` file."""
    return [ArrayFile(path) if path.suffix.lower() == ARRAY_SUFFIX else ImageFile(path) for path in paths]


def path_of(item: Item) -> Path:
    """Returns the path of an image file; of anything else its name, which is no file."""
    return item.path if isinstance(item, ImageFile) else Path(item.name)


def size_of(item: Item) -> tuple[int, int]:
    """Returns width and height of an image; of a file that does not state them its head is read.

    Raises:
        InputError: it cannot be read, or is no image.
    """
    if isinstance(item, ImageFile):
        stated = item.size_px
        return stated if stated is not None and all(stated) else image_size(item.path)
    shape = item.read().shape
    return shape[1], shape[0]


def items_of(data: Sequence[str | Path] | Iterable[Any], num: int, rank: int = 3) -> Items:
    """Returns at most `num` items of what a user gives as images or inputs.

    Args:
        data: Paths of image files; or an array, or an iterable of arrays as the module describes them (tensors of
            PyTorch on the CPU are arrays, too); or a list of items.
        num: The most items to take: evenly spaced from files, an array, a list or a tuple, which come back as a list;
            the first ones of any other iterable, of which one element at a time is in memory.
        rank: Axes of one input that is ready: 3 for `(C, H, W)`. Arrays of one axis more are batches.

    Raises:
        InputError: `num` is below 1, or an element is of another kind; for an iterable, when its turn comes.
    """
    if isinstance(data, str | bytes | Path):
        raise InputError(
            f"{str(data)[:80]!r}: is a single path; wanted a list of paths (edgeq.inputs.images.list_images)"
        )
    if isinstance(data, list | tuple) and all(isinstance(entry, Item) for entry in data):
        return evenly_spaced(data, num)
    if isinstance(data, list | tuple) and all(isinstance(entry, str | Path) for entry in data):
        return evenly_spaced(image_files([Path(entry) for entry in data]), num)
    if hasattr(data, "__array__"):
        array = _as_array(data, "the data")
        data = [array] if array.ndim <= rank else list(array)
    if isinstance(data, list | tuple):
        return evenly_spaced(list(_array_items(data, rank)), num)
    if not isinstance(data, Iterable):
        raise InputError(f"the data is of type {type(data).__name__}; wanted paths, arrays or an iterable of arrays")
    _check_num(num)
    return islice(_array_items(data, rank, copied=True), num)


def _check_num(num: int) -> None:
    """Raises `InputError` if there is nothing to take."""
    if num < 1:
        raise InputError(f"`num` {num}: wanted at least 1")


def evenly_spaced(entries: Sequence[T], num: int) -> list[T]:
    """Returns at most `num` of the entries, spread over the whole sequence, in its order.

    Raises:
        InputError: `num` is below 1.
    """
    _check_num(num)
    if len(entries) <= num:
        return list(entries)
    return [entries[index * len(entries) // num] for index in range(num)]


def model_input(content: Pixels | FloatArray, spec: Preprocessing, name: str) -> tuple[FloatArray, Placement]:
    """Returns the input `(1, C, H, W)`, float32, of what an item holds, and where the image lies in it.

    Args:
        content: What `Item.read` returned.
        spec: The model's pre-processing; of an input that is ready it gives the shape and the range of the values.
        name: The item's name, for errors.

    Raises:
        InputError: an input that is ready has another shape than the model's, or values that pre-processing does not
            lead to; or it is an image, and no pre-processing is declared.
    """
    if content.dtype == np.uint8 and spec.declared is None:
        raise InputError(
            f"{name}: is an image, and nothing says how the model takes it; open the model with `preset`, or give "
            "inputs (C, H, W) or (N, C, H, W) of floating point"
        )
    if content.dtype == np.uint8:
        return preprocess(cast(Pixels, content), spec)
    expected = (1, *spec.input_shape)
    if content.shape == (1, *expected):  # a file's array may have the batch axis already
        content = content[0]
    if content.shape != expected:
        advice = "resize it, or give images (H, W, 3) of uint8, which are pre-processed"
        if len(expected) != _IMAGE_AXES or spec.declared is None:
            advice = "give arrays of this shape"
        raise InputError(f"{name}: has shape {content.shape[1:]}, the model takes {expected[1:]}; {advice}")
    least, most = spec.value_range
    margin = _OVERSHOOT * (most - least)
    low, high = float(content.min()), float(content.max())
    if spec.declared is None and not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(f"{name}: has values from {low:.4g} to {high:.4g}; wanted finite numbers")
    if not (least - margin <= low and high <= most + margin):  # NaN fails both
        raise InputError(
            f"{name}: has values from {low:.4g} to {high:.4g}, the model's pre-processing leads to {least:.4g} to "
            f"{most:.4g}; scale and normalise it, or give images (H, W, 3) of uint8, which are pre-processed"
        )
    height, width = spec.height_px, spec.width_px
    return cast(FloatArray, content), Placement(width, height, width, height, 1.0, 1.0, 0, 0)


def _array_items(data: Iterable[Any], rank: int, *, copied: bool = False) -> Iterator[Item]:
    """Yields the items of arrays.

    Args:
        data: The arrays.
        rank: Axes of one input that is ready.
        copied: Whether each is copied: what yields them may fill the same one again while earlier items still wait.
    """
    for number, element in enumerate(_elements(data)):
        name = f"item {number}"
        array = _as_array(element, name)
        array = array.copy() if copied else array
        if _is_image(array):
            yield MemoryItem(name, array)
        elif array.dtype.kind != "f" or array.ndim not in (rank, rank + 1) or not array.size:
            raise InputError(f"{name}: is an array {array.shape} of {array.dtype}; {_WANTED}")
        elif array.ndim == rank:
            yield MemoryItem(name, _as_float32(array[None]))
        else:
            for row in range(len(array)):
                yield MemoryItem(f"{name}, row {row}", _as_float32(array[row : row + 1]))


def _elements(data: Iterable[Any]) -> Iterator[Any]:
    """Yields the elements of an iterable; what it raises becomes one clear error."""
    number = 0
    try:
        for element in data:
            yield element
            number += 1
    except (GeneratorExit, InputError):
        raise
    except Exception as error:
        raise InputError(
            f"the data raised {type(error).__name__} at item {number} ({error}); nothing was written, correct what "
            "yields it"
        ) from error


def _as_array(element: Any, name: str) -> NDArray[Any]:
    if not hasattr(element, "__array__"):
        raise InputError(f"{name}: is of type {type(element).__name__}; {_WANTED}")
    try:
        return np.asarray(element)
    except Exception as error:  # a tensor on a GPU, or one with a gradient
        raise InputError(f"{name}: cannot be read as an array ({error})") from error


def _is_image(array: NDArray[Any]) -> bool:
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.size > 0


def _as_float32(array: NDArray[Any]) -> FloatArray:
    with np.errstate(over="ignore"):  # infinities are refused with the other values
        return np.ascontiguousarray(array, dtype=np.float32)
