"""Writes `.safetensors` files whose tensors come in any order, one in memory at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgeq.exporting.checkpoints.stored import INDEX, WEIGHTS
from edgeq.files import write_json

_KINDS = {
    "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_ALIGNMENT = 8


class TensorSpec(NamedTuple):
    """What a file is to hold under a name.

    Attributes:
        dtype: Type, as numpy calls it.
        shape: Its shape.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class _Place:
    file: Path
    offset: int
    spec: TensorSpec


class Shards:
    """The files of a checkpoint, of known contents, whose bytes are written as they come.

    Args:
        folder: Where they go.
        contents: For each file, name -> what it is to hold.
    """

    def __init__(self, folder: Path, contents: Sequence[Mapping[str, TensorSpec]]) -> None:
        self._places: dict[str, _Place] = {}
        self._written: set[str] = set()
        count = len(contents)
        for number, specs in enumerate(contents, start=1):
            name = WEIGHTS if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"
            self._begin(folder / name, specs)
        if count > 1:
            total = sum(place.spec.nbytes for place in self._places.values())
            names = {name: place.file.name for name, place in self._places.items()}
            write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": names})

    def write(self, name: str, array: np.ndarray) -> None:
        """Writes one tensor.

        Raises:
            ValueError: it is not what was announced, or comes a second time.
        """
        place = self._places[name]
        if TensorSpec(array.dtype.name, array.shape) != place.spec or name in self._written:
            raise ValueError(f"{name}: {array.dtype} {array.shape}, announced once as {place.spec}")
        with place.file.open("r+b") as stream:
            stream.seek(place.offset)
            np.ascontiguousarray(array).tofile(stream)
        self._written.add(name)

    def require_whole(self) -> None:
        """Checks that everything was written.

        Raises:
            ValueError: a tensor is missing.
        """
        if missing := sorted(self._places.keys() - self._written):
            raise ValueError(f"{missing[0]} was never written")

    def _begin(self, file: Path, specs: Mapping[str, TensorSpec]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, spec in specs.items():
            end = offset + spec.nbytes
            header[name] = {"dtype": _KINDS[spec.dtype], "shape": list(spec.shape), "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        start = 8 + len(text)
        with file.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(start + offset)
        place = start
        for name, spec in specs.items():
            self._places[name] = _Place(file, place, spec)
            place += spec.nbytes
