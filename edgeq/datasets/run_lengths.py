"""COCO's run-length encoding of masks, as files state it: which of them are sound."""

from __future__ import annotations

from typing import Any

from edgeq.datasets.findings import Findings
from edgeq.datasets.split import RunLengthMask


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
        return decompress(counts.encode("ascii", "replace"))
    if isinstance(counts, list) and all(isinstance(run, int) and not isinstance(run, bool) for run in counts):
        return counts
    return None


def decompress(counts: bytes) -> list[int]:
    """Returns the lengths of runs that pycocotools' text stands for.

    Numbers have 5 bits per character; from the fourth on each is less the one two before it.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        digit = character - 48
        value |= (digit & 0x1F) << shift
        shift += 5
        if digit & 0x20:
            continue
        if digit & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
