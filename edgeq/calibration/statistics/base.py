"""What a statistic promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from typing_extensions import Self


class NonFiniteError(ValueError):
    """An array holds NaN or infinite values.

    Attributes:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} NaN or infinite values")
        self.count = count


class Statistic(Protocol):
    """What was gathered about one tensor so far. Its memory does not grow with the number of images."""

    def update(self, array: np.ndarray) -> None:
        """Takes the tensor's values for one or more further images.

        Raises:
            NonFiniteError: there are NaN or infinite values among them; the statistic must not be used any more.
        """

    def merge(self, other: Self) -> None:
        """Takes what another statistic of the same options has gathered.

        Raises:
            InputError: its options or its channels are others.
        """

    def to_json(self) -> dict[str, Any]:
        """Returns everything, options included, as JSON, without loss."""

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """Returns the statistic that `to_json` wrote.

        Raises:
            InputError: the document is not one.
        """


def require_finite(array: np.ndarray) -> None:
    """Raises `NonFiniteError` if an array holds NaN or infinite values."""
    finite = int(np.isfinite(array).sum())
    if finite != array.size:
        raise NonFiniteError(array.size - finite)
