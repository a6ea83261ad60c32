"""Which inputs of a calibration are kept: those with the least digests, whatever their order and interruptions."""

from __future__ import annotations

import heapq
from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from edgeq.calibrators.kept_samples import KeptSample

DEFAULT_KEPT = 8
"""Enough for the ranges of a few tensors (benchmarks/shared_calibration.py), about 2 MB of inputs of 320x320."""


class SampleKeeper:
    """Keeps the inputs with the `num` least digests of those that it is shown.

    Attributes:
        num: The most inputs to keep.
    """

    def __init__(self, num: int) -> None:
        self.num = num
        self._kept: dict[str, np.ndarray | KeptSample] = {}

    def offer(self, digest: str, array: np.ndarray) -> None:
        """Shows an input `(1, C, H, W)`; what cannot be stored, because it is not finite, is not kept."""
        if self._takes(digest) and array.ndim == 4 and len(array) == 1 and np.isfinite(array).all():
            self._keep(digest, array)

    def merge(self, kept: Mapping[str, KeptSample]) -> None:
        """Shows what an earlier run had kept, by digest."""
        for digest, sample in kept.items():
            if self._takes(digest):
                self._keep(digest, sample)

    def samples(self, counted: Container[str]) -> tuple[KeptSample, ...]:
        """Returns what is kept of the inputs that were counted, by digest."""
        return tuple(_packed(self._kept[digest]) for digest in sorted(self._kept) if digest in counted)

    def to_json(self, counted: Container[str]) -> dict[str, Any]:
        """Returns digest -> what is kept of the inputs that were counted, as a JSON object."""
        return {digest: _packed(kept).to_json() for digest, kept in list(self._kept.items()) if digest in counted}

    def _takes(self, digest: str) -> bool:
        return len(self._kept) < self.num or (self.num > 0 and digest < max(self._kept))

    def _keep(self, digest: str, kept: np.ndarray | KeptSample) -> None:
        self._kept[digest] = kept
        for dropped in heapq.nlargest(len(self._kept) - self.num, self._kept):
            del self._kept[dropped]


def _packed(kept: np.ndarray | KeptSample) -> KeptSample:
    return kept if isinstance(kept, KeptSample) else KeptSample.of(kept)
