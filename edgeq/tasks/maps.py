"""Maps that a model gives of its input (scores, masks, depths), sampled at the pixels of the image."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError
from edgeq.inputs.images import IMAGE_FORMATS
from edgeq.inputs.preprocessing import Placement


@dataclass(frozen=True, eq=False)
class ImageSampler:
    """Samples maps of one size at the centres of an image's pixels.

    What the input does not show of an image, because it was cropped, gets the values at the input's edge.

    Attributes:
        columns: Position of each image column in the map, see `Placement.pixel_centres`.
        rows: Position of each image row.
        width: Columns of the map.
        height: Its rows.
    """

    columns: NDArray[np.float64]
    rows: NDArray[np.float64]
    width: int
    height: int

    @classmethod
    def of(cls, placement: Placement, width: int, height: int) -> ImageSampler:
        """Returns the sampler of maps of `width` columns and `height` rows that cover the whole input."""
        return cls(*placement.pixel_centres(width, height), width, height)

    def part(self, left: int, top: int, right: int, bottom: int) -> ImageSampler:
        """Returns a sampler for the image's columns `left` to `right` and rows `top` to `bottom`, ends left out."""
        return ImageSampler(self.columns[left:right], self.rows[top:bottom], self.width, self.height)

    def bilinear(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the map `(height, width)` at every pixel `(rows, columns)`, between its four nearest cells.

        Half coordinates are cell centres and edges are repeated, as in torch's `interpolate(mode="bilinear")`.
        """
        low, high, weight = _neighbours(self.rows, self.height)
        if not len(low):
            return np.empty((0, len(self.columns)), np.float32)
        first = int(low[0])
        lines = values[first : int(high[-1]) + 1]
        left, right, share = _neighbours(self.columns, self.width)
        between = lines.take(left, axis=1)
        between += (lines.take(right, axis=1) - between) * share
        # Whole rows are taken here, which costs much less than single cells: so columns come first.
        steps = np.diff(between, axis=0, append=between[-1:])
        sampled: NDArray[np.float32] = steps.take(low - first, axis=0)
        sampled *= weight[:, None]
        sampled += between.take(low - first, axis=0)
        return sampled

    def nearest(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Returns the map `(height, width)` at every pixel `(rows, columns)`: of the cell that holds its centre."""
        columns, rows = (
            np.clip(np.floor(positions + 0.5).astype(np.intp), 0, count - 1)
            for positions, count in ((self.columns, self.width), (self.rows, self.height))
        )
        return values[rows[:, None], columns]


def _neighbours(
    positions: NDArray[np.float64], count: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    inside = np.clip(positions, 0, count - 1)
    low = np.floor(inside).astype(np.intp)
    return low, np.minimum(low + 1, count - 1), (inside - low).astype(np.float32)


@contextlib.contextmanager
def opened_map(path: Path, kind: str) -> Iterator[Any]:
    """Yields a true map as Pillow's image; whatever goes wrong with it while it is open is an `InputError`.

    Args:
        path: The image file.
        kind: What it is, for the error: `mask`, for example.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            yield image
    except FileNotFoundError:
        raise InputError(f"{path}: no such {kind}") from None
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a {kind} ({error})") from error
