"""COCO's run-length encoding of masks, as files state it: which of them are sound."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.datasets.findings import Findings
from edgeq.datasets.split import RunLengthMask

# Of a number: 35 bits, more than any image has pixels.
_MAX_CHARACTERS = 7


def run_length_mask(
    stated: Any, size_px: tuple[int, int] | None, findings: Findings, where: object
) -> RunLengthMask | None:
    """Returns the mask that a COCO file states, or `None` and a finding if it is not one of its image.

    Args:
        stated: The value of `segmentation`, which is no list of polygons.
        size_px: Width and height of the image, if known.
        findings: Where oddities are counted.
        where: The place in the data set, for findings.
    """
    size = stated.get("size") if isinstance(stated, dict) else None
    counts = stated.get("counts") if isinstance(stated, dict) else None
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)):
        findings.add("masks that are neither polygons nor RLE, left out", where)
        return None
    height, width = size
    if size_px is not None and (width, height) != size_px:
        findings.add("masks of another size than their image, left out", where)
        return None
    runs = _runs(counts)
    if runs is None or sum(runs) != width * height or min(runs, default=0) < 0:
        findings.add("masks whose runs do not fill their image, left out", where)
        return None
    if sum(runs[1::2]) == 0:
        findings.add("masks of zero area, left out", where)
        return None
    return RunLengthMask((width, height), counts if isinstance(counts, str) else tuple(runs))


def _runs(counts: Any) -> list[int] | None:
    if isinstance(counts, str):
        runs: list[int] = decompress(counts.encode("ascii", "replace")).tolist()
        return runs
    if isinstance(counts, list) and all(isinstance(run, int) and not isinstance(run, bool) for run in counts):
        return counts
    return None


def decompress(counts: bytes) -> NDArray[np.int64]:
    """Returns the lengths of runs that pycocotools' text stands for; a negative one if it stands for nothing.

    Numbers have 5 bits per character, the lowest first. A sixth bit says that the number goes on, and the highest bit
    of the last five that it is negative. From the fourth number on each is less the one two before it.
    """
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits & 0x20 == 0)
    lengths = np.diff(ends, prepend=-1)
    if len(digits) and not (0 <= digits.min() <= digits.max() < 64 and len(ends) and ends[-1] == len(digits) - 1):
        return np.array([-1], np.int64)
    if lengths.max(initial=0) > _MAX_CHARACTERS:
        return np.array([-1], np.int64)
    starts = ends - lengths + 1
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    bits = (digits & 0x1F) << (5 * places)
    runs = np.add.reduceat(bits, starts) if len(starts) else np.zeros(0, np.int64)
    runs = np.where(digits[ends] & 0x10, runs - (1 << (5 * lengths)), runs)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
