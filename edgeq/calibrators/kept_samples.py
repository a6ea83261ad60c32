"""`KeptSample`: one prepared input of a calibration, kept with its ranges for tensors that nobody thought of then.

Each channel is stored on 256 even steps from its least to its largest value. A static INT8 file sees no finer input.
"""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgeq.calibrators.packing import pack_counts, unpack_counts
from edgeq.errors import InputError

Floats = npt.NDArray[np.float32]

_STEPS = 255
_MAX_VALUES = 1 << 26


@dataclass(frozen=True)
class KeptSample:
    """A prepared input, packed.

    Attributes:
        shape: Shape of the input, `(1, C, H, W)`.
        low: Least value of each channel.
        step: Distance of two levels of each channel; 0 for a channel of one value.
        codes: The levels of all channels as bytes (`edgeq.calibrators.packing`).
    """

    shape: tuple[int, ...]
    low: tuple[float, ...]
    step: tuple[float, ...]
    codes: bytes

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> KeptSample:
        """Returns an input `(1, C, H, W)` of finite values, packed."""
        channels = np.asarray(array, np.float64).reshape(array.shape[1], -1)
        low, high = channels.min(axis=1), channels.max(axis=1)
        step = (high - low) / _STEPS
        levels = np.rint((channels - low[:, None]) / np.where(step > 0, step, 1.0)[:, None])
        packed = pack_counts(levels.astype(np.int64).ravel())
        return cls(array.shape, tuple(low.tolist()), tuple(step.tolist()), packed)

    def array(self) -> Floats:
        """Returns the input, float32, each value within half a step of what it was.

        Raises:
            InputError: the levels are damaged.
        """
        try:
            levels = unpack_counts(self.codes, math.prod(self.shape)).reshape(self.shape[1], -1)
        except ValueError as error:
            raise InputError(f"a kept sample is damaged ({error}); run `edgeq calibrate` again") from error
        values: Floats = (np.array(self.low)[:, None] + levels * np.array(self.step)[:, None]).astype(np.float32)
        return values.reshape(self.shape)

    def to_json(self) -> dict[str, Any]:
        """Returns the sample as a JSON object."""
        codes = base64.b64encode(self.codes).decode("ascii")
        return {"shape": list(self.shape), "low": list(self.low), "step": list(self.step), "codes": codes}

    @classmethod
    def from_json(cls, document: Any) -> KeptSample:
        """Returns the sample that `to_json` wrote; damaged levels show in `array`.

        Raises:
            InputError: the document is not one, or its parts contradict each other.
        """
        try:
            found = msgspec.convert(document, _Document)
            channels = found.shape[1] if len(found.shape) > 1 else 0
            if found.shape[:1] != [1] or min(found.shape) < 1 or math.prod(found.shape) > _MAX_VALUES:
                raise ValueError(f"{found.shape} is not the shape of an input")
            if len(found.low) != channels or len(found.step) != channels or min(found.step) < 0:
                raise ValueError("its channels and levels do not fit together")
            codes = base64.b64decode(found.codes, validate=True)
        except (msgspec.ValidationError, ValueError, binascii.Error) as error:
            raise InputError(f"not a kept sample of edgeq ({error})") from error
        return cls(tuple(found.shape), tuple(found.low), tuple(found.step), codes)


class _Document(msgspec.Struct):
    shape: list[int]
    low: list[float]
    step: list[float]
    codes: str
