"""TensorRT's calibration cache: one scale a tensor, as text, for the implicit route (TensorRT 5 to 10).

The first line is `TRT-<version>-<algorithm>`, every other one `<tensor>: <bits>`: the bits of the float32 scale as a
hexadecimal number without leading zeros. The scale is threshold / 127, the dynamic range -127 * scale to 127 * scale.
Names hold whatever ONNX names hold: colons, spaces, brackets. Read off caches that TensorRT 5.1 to 10.13 wrote.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeq.calibrators.grid import Grid, Range
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.errors import InputError, MismatchError
from edgeq.files import sha256_bytes
from edgeq.schemes import INT8

DEFAULT_VERSION = "10.3.0"
"""TensorRT of JetPack 6.1 and 6.2. The board writes its own version over it."""

ENTROPY, MINMAX = "EntropyCalibration2", "MinMaxCalibration"

_HEADER = re.compile(r"TRT-([0-9]+)-([A-Za-z0-9]+)")
_LINE = re.compile(r"(.+): ([0-9a-f]{1,8})", re.DOTALL)
_VERSION = re.compile(r"([0-9]+)\.([0-9]+)\.([0-9]+)(?:\.[0-9]+)?")
_SIGN = 0x80000000
_INFINITY = 0x7F800000
_FLOAT32 = np.finfo(np.float32)


@dataclass(frozen=True)
class CalibrationCache:
    """A calibration cache, from which the same bytes can be written again.

    Attributes:
        version: TensorRT's version as the header writes it, see `header_version`.
        algorithm: The calibrator's algorithm, for example `EntropyCalibration2`.
        bits: Tensor name -> the bits of its float32 scale, in the order of the lines. TensorRT writes zero for a tensor
            that was zero on all images, and infinity for masks.
    """

    version: int
    algorithm: str
    bits: Mapping[str, int]

    def scales(self) -> dict[str, float]:
        """Returns tensor name -> scale (threshold / 127): zero and infinity are as the cache has them."""
        return {name: float(np.uint32(bits).view(np.float32)) for name, bits in self.bits.items()}

    def thresholds(self) -> dict[str, float]:
        """Returns tensor name -> the magnitude that becomes 127; without tensors whose scale is zero or infinite."""
        return {name: Grid(scale, 0, INT8).ends[1] for name, scale in self.scales().items() if 0 < scale < np.inf}

    def to_ranges(self, *, model_digest: str, preprocessing_digest: str) -> Ranges:
        """Returns the thresholds as symmetric ranges of the method `calibration-cache`.

        A cache does not tell what it was made of: the digests are those of the model and the pre-processing that the
        ranges are to be used with, and the provenance names the cache where others name images and edgeq's version.

        Raises:
            MismatchError: there is no finite range in it.
        """
        tensors = {name: Range(-limit, limit, limit) for name, limit in self.thresholds().items()}
        if not tensors:
            raise MismatchError("the calibration cache holds no finite range; calibrate again")
        header = f"TRT-{self.version}-{self.algorithm}"
        provenance = Provenance(model_digest, preprocessing_digest, 0, sha256_bytes(self.render()), header)
        return Ranges("calibration-cache", {}, provenance, tensors, {})

    def restamped(self, version: str) -> CalibrationCache:
        """Returns the same scales under the header of another TensorRT, which takes no cache but its own.

        Raises:
            InputError: `version` is none.
        """
        return dataclasses.replace(self, version=header_version(version))

    def render(self) -> bytes:
        """Returns the content of the file."""
        lines = [f"TRT-{self.version}-{self.algorithm}", *(f"{name}: {bits:x}" for name, bits in self.bits.items())]
        return "".join(f"{line}\n" for line in lines).encode()


def header_version(version: str) -> int:
    """Returns how a cache's header writes a TensorRT version: 8.6.1 is 8601, 10.3.0 is 100300.

    Args:
        version: Three or four fields, as `tensorrt.__version__` has them; the fourth is not written.

    Raises:
        InputError: it has other fields.
    """
    fields = _VERSION.fullmatch(version)
    if fields is None:
        raise InputError(f"TensorRT version {version!r}: wanted three or four numbers, for example 10.3.0")
    major, minor, patch = (int(field) for field in fields.groups())
    return major * (10_000 if major >= 10 else 1_000) + minor * 100 + patch


def make_cache(
    scales: Mapping[str, float], *, algorithm: str = ENTROPY, version: str = DEFAULT_VERSION
) -> CalibrationCache:
    """Returns the cache of symmetric ranges.

    Args:
        scales: Tensor name -> threshold / 127. They stay within the normal float32 numbers: a zero or an infinity would
            switch layers to float without a word.
        algorithm: What the header names; TensorRT takes a cache only in the calibrator of this algorithm.
        version: TensorRT's version for the header.

    Raises:
        InputError: `version` is none, or a name cannot stand in a line.
    """
    bits = {}
    for name, scale in scales.items():
        if not name or "\n" in name:
            raise InputError(
                f"tensor {name!r}: such a name cannot be written to a calibration cache; rename it in the model"
            )
        bits[name] = int(np.float32(np.clip(scale, _FLOAT32.tiny, _FLOAT32.max)).view(np.uint32))
    return CalibrationCache(header_version(version), algorithm, bits)


def parse_cache(content: bytes, name: str) -> CalibrationCache:
    """Returns the cache in a file's content.

    Args:
        content: The bytes of the file.
        name: The file's name, for errors.

    Raises:
        InputError: it is no cache, a line is broken, or it was cut short; the message holds the line's number and text.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: is not text ({error}); wanted a calibration cache of TensorRT") from error
    header, *lines = text.split("\n")
    found = _HEADER.fullmatch(header)
    if found is None:
        raise InputError(
            f"{name}: line 1 is {header[:80]!r}; a calibration cache of TensorRT begins with TRT-<version>-<algorithm>"
        )
    if not lines or lines.pop():
        raise InputError(f"{name}: its last line {text[-80:]!r} has no end; the file was cut short, copy it again")
    bits: dict[str, int] = {}
    for number, line in enumerate(lines, 2):
        entry = _LINE.fullmatch(line)
        if entry is None:
            raise _broken(name, number, line, "wanted `<tensor>: <hexadecimal bits of a float32>`")
        tensor, value = entry[1], int(entry[2], 16)
        if value & _SIGN or value > _INFINITY:
            raise _broken(name, number, line, "its scale is negative or not a number")
        if entry[2] != f"{value:x}":
            raise _broken(name, number, line, "TensorRT writes no leading zeros")
        if tensor in bits:
            raise _broken(name, number, line, "the tensor is listed on an earlier line already")
        bits[tensor] = value
    return CalibrationCache(int(found[1]), found[2], bits)


def _broken(name: str, number: int, line: str, reason: str) -> InputError:
    return InputError(f"{name}: line {number} is {line[:200]!r}: {reason}; calibrate again or export the cache again")
