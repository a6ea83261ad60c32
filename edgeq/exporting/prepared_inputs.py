"""The pre-processing of a model whose inputs the caller prepares."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeq.exporting.artifact import Preprocessing
from edgeq.files import sha256_json


@dataclass(frozen=True)
class PreparedInputs(Preprocessing):
    """Inputs that the caller prepares: only their shape is known, and that their values are finite.

    It takes the place of a pre-processing that nobody declared. It makes no input of an image, and manifests do not
    mention it.

    Attributes:
        shape: Shape of one input without its batch, if that is not `(C, H, W)` of an image.
    """

    shape: tuple[int, ...] = ()

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> PreparedInputs:
        """Returns that of inputs of a shape, without their batch."""
        return cls(1, 1, channel_order="gray", shape=shape)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input, without its batch."""
        return self.shape or super().input_shape

    @property
    def takes_images(self) -> bool:
        """Whether nothing else than the shape of an image was stated."""
        return not self.shape

    @property
    def value_range(self) -> tuple[float, float]:
        """Minus and plus infinity."""
        return -math.inf, math.inf

    @property
    def digest(self) -> str:
        """SHA-256 over the shape; never that of a declared pre-processing."""
        return sha256_json({"prepared": list(self.input_shape)})

    @property
    def declared(self) -> Preprocessing | None:
        """Nothing."""
        return None
