"""Tensors of a Hugging Face folder, read one at a time from its `.safetensors` files; nothing is mapped into memory.

A file begins with the length of its header, 8 bytes, and the header, JSON: name -> type, shape and place of a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeq.boundary import convert, parse_json, read_json
from edgeq.errors import InputError, ModelError
from edgeq.wording import and_others

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
MAX_ELEMENTS = 1 << 40
"""Numbers of a tensor of a checkpoint; a length of 0 counts as 1."""

_MAX_HEADER, _MAX_INDEX, _LENGTH = 1 << 27, 1 << 26, 8
_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Types of numbers that can be quantized."""


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        name: Its name.
        kind: Its type, as the file has it: `F16`, `BF16`.
        shape: Its shape.
        file: The file.
        offset: Where its bytes begin in it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    file: Path
    offset: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its type for numpy."""
        if self.kind != "BF16":
            return np.dtype(_TYPES[self.kind])
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16

    def read(self) -> np.ndarray:
        """Returns its values."""
        return self._read(self.offset, self.shape)

    def read_rows(self, rows: Iterable[int]) -> np.ndarray:
        """Returns some rows of a matrix, `(rows, columns)`, without reading the others."""
        width = self.shape[1]
        places = (self.offset + row * width * self.dtype.itemsize for row in rows)
        return np.stack([self._read(place, (width,)) for place in places])

    def _read(self, offset: int, shape: Sequence[int]) -> np.ndarray:
        with self.file.open("rb") as stream:
            stream.seek(offset)
            found = np.fromfile(stream, self.dtype, math.prod(shape))
        return found.reshape(shape)


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Returns the tensors of a Hugging Face folder by name, in the order in which its files have them.

    Raises:
        InputError: weights are missing, or pickled.
        ModelError: a file is damaged.
    """
    found: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        found |= {tensor.name: tensor for tensor in _read_header(file)}
    return found


def weight_files(folder: Path) -> list[Path]:
    """Returns the `.safetensors` files of a Hugging Face folder, those of several in the order of their names.

    Raises:
        InputError: the folder holds no weights, a file that its index lists is missing, or the weights are pickled.
    """
    index = folder / INDEX
    if index.is_file():
        stated = read_json(index, _Index, kind="the index of a model's weights", max_bytes=_MAX_INDEX)
        files = [folder / name for name in sorted({Path(name).name for name in stated.weight_map.values()})]
        if missing := [file.name for file in files if not file.is_file()]:
            raise InputError(
                f"{folder}: has no {missing[0]}{and_others(missing)}, which {INDEX} lists; copy the model's files again"
            )
        return files
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    pickled = [file.name for pattern in _PICKLED for file in sorted(folder.glob(pattern))]
    if not pickled:
        raise InputError(f"{folder}: holds no weights; wanted {WEIGHTS}, or {INDEX} with its files")
    raise InputError(
        f"{folder}: its weights are pickled ({pickled[0]}), and edgeq never unpickles; convert them in that folder "
        'with: python -c "import torch; from safetensors.torch import save_file; save_file({name: tensor.clone() for '
        f"name, tensor in torch.load('{pickled[0]}', weights_only=True).items()}}, '{WEIGHTS}', {{'format': 'pt'}})\""
    )


def _read_header(file: Path) -> list[StoredTensor]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH), "little")
        if size < _LENGTH or length > min(_MAX_HEADER, size - _LENGTH):
            raise ModelError(f"{file}: is not a whole .safetensors file; copy it again")
        content = stream.read(length)
    kind = "the header of a .safetensors file"
    document = parse_json(content, dict[str, Any], source=file, kind=kind, error=ModelError)
    first, found = _LENGTH + length, []
    for name, value in document.items():
        if name == "__metadata__":
            continue
        entry = convert(value, _Entry, source=file, kind=kind, place=f"$.{name}")
        start, end = entry.data_offsets
        if entry.dtype not in _TYPES:
            raise ModelError(f"{file}: {name} is of the type {entry.dtype}; wanted one of {', '.join(_TYPES)}")
        tensor = StoredTensor(name, entry.dtype, tuple(entry.shape), file, first + start)
        whole = math.prod(tensor.shape) * tensor.dtype.itemsize == end - start
        whole &= math.prod(side or 1 for side in tensor.shape) < MAX_ELEMENTS  # numpy takes no more, even of nothing
        if min(start, *tensor.shape, 0) < 0 or not whole or first + end > size:
            raise ModelError(f"{file}: {name} does not lie within the file; copy it again")
        found.append(tensor)
    return found
