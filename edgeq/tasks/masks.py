"""Masks of objects as COCO files state them, and as runs of pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.datasets.run_lengths import decompress
from edgeq.errors import InputError

_MIN_NUMBERS = 6  # three points


@dataclass(frozen=True, eq=False)
class RunLengths:
    """Masks of one image, column by column in runs, as COCO's uncompressed RLE: outside first, then inside, and so on.

    Attributes:
        counts: `(M,)` int64, how many runs each mask has.
        runs: `(R,)` int32, the lengths of all runs, mask after mask; those of one mask add up to the image's pixels.
    """

    counts: NDArray[np.int64]
    runs: NDArray[np.int32]

    @classmethod
    def of(cls, masks: list[NDArray[np.int32]]) -> RunLengths:
        """Returns masks of which each is the lengths of its runs, see `encode`."""
        counts = np.array([len(runs) for runs in masks], np.int64)
        return cls(counts, np.concatenate([np.zeros(0, np.int32), *masks]))

    def split(self) -> list[NDArray[np.int32]]:
        """Returns the runs of each mask."""
        ends = np.cumsum(self.counts)
        return [self.runs[end - count : end] for end, count in zip(ends.tolist(), self.counts.tolist(), strict=True)]


def encode(part: NDArray[np.bool_], left: int, top: int, width: int, height: int) -> NDArray[np.int32]:
    """Returns the runs of a mask of an image of `width` x `height` pixels.

    Args:
        part: `(h, w)`, the mask within a rectangle; outside of it nothing is of the object.
        left: First column of the rectangle.
        top: Its first row.
        width: Of the image.
        height: Of the image.
    """
    columns, rows = np.nonzero(part.T)
    places = (columns + left) * height + rows + top
    if not len(places):
        return np.array([width * height], np.int32)
    breaks = np.flatnonzero(np.diff(places) > 1)
    starts = places[np.concatenate([[0], breaks + 1])]
    ends = places[np.concatenate([breaks, [len(places) - 1]])] + 1
    edges = np.stack([starts, ends], axis=1).ravel()
    runs = np.diff(edges, prepend=0, append=width * height).astype(np.int32)
    return runs if runs[-1] else runs[:-1]


def compress(runs: NDArray[np.int32], width: int, height: int) -> str:
    """Returns pycocotools' text for the lengths of runs that `encode` returned."""
    from pycocotools import mask

    compressed = mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return str(compressed["counts"], "ascii")


def decode(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Returns the pixels `(H, W)` of pycocotools' compressed RLE, which `to_rle` returns.

    Raises:
        InputError: its runs do not fill its size.
    """
    height, width = rle["size"]
    runs = decompress(rle["counts"])
    if runs.sum() != width * height or runs.min(initial=0) < 0:
        raise InputError(f"a compressed RLE does not fill its {width} x {height} pixels; it is damaged")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def to_rle(segmentation: Any, width: int, height: int, place: str) -> dict[str, Any] | None:
    """Returns a `segmentation` of a COCO file as pycocotools' compressed RLE; `None` if it encloses no pixel.

    Polygons of fewer than three points enclose nothing and are left out.

    Args:
        segmentation: Polygons `[[x, y, x, y, ...], ...]`, or RLE with `size` and `counts`, compressed or not.
        width: Of the image.
        height: Of the image.
        place: Where it is from, for the error.

    Raises:
        InputError: it is neither, or of an image of another size.
    """
    from pycocotools import mask

    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if _is_polygon(polygon, place)]
        if not polygons:
            return None
        merged: dict[str, Any] = mask.merge(mask.frPyObjects(polygons, height, width))
        return merged
    if not isinstance(segmentation, dict) or list(segmentation.get("size", ())) != [height, width]:
        stated = segmentation.get("size") if isinstance(segmentation, dict) else segmentation
        raise InputError(
            f"{place} has the segmentation {str(stated)[:60]}; wanted polygons, or RLE of size [{height}, {width}]"
        )
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        text = counts.encode("ascii", "replace")
        stated = decompress(text)
        if stated.sum() != width * height or stated.min(initial=0) < 0:
            raise InputError(f"{place} has an RLE whose runs do not fill its image of {width * height} pixels")
        return {"size": [height, width], "counts": text}
    if not isinstance(counts, list) or not all(isinstance(run, int) and run >= 0 for run in counts):
        raise InputError(f"{place} has an RLE without `counts`; wanted text, or lengths of runs from 0")
    if sum(counts) != width * height:
        raise InputError(f"{place} has an RLE of {sum(counts)} pixels; its image has {width * height}")
    compressed: dict[str, Any] = mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return compressed


def _is_polygon(polygon: Any, place: str) -> bool:
    numbers = isinstance(polygon, list) and all(isinstance(value, (int, float)) for value in polygon)
    if not numbers or len(polygon) % 2 or not all(map(math.isfinite, polygon)):
        raise InputError(f"{place} has the polygon {str(polygon)[:60]}; wanted finite numbers [x, y, x, y, ...]")
    return len(polygon) >= _MIN_NUMBERS
