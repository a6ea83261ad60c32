"""Which inputs of a calibration are kept: those with the least digests, and those whose outputs are strongest.

Digests choose at random, and the same whatever the order of the inputs and interruptions. That is right for averages.
A file of lower precision is judged by what it leaves of the outputs' signal, though, and most images may hold next to
none: YuNet's scores are nearly zero where nobody is near. Eight random images of COCO give its file for ONNX Runtime
9.5 dB, all 48 give 24.3, and the eight with the strongest outputs 23.6; of ranges that cut faces off (5.8 dB) the
random ones say 10.5, the strong ones 5.7.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np

from edgeq.calibrators.kept_samples import KeptSample

DEFAULT_KEPT = 8
"""Enough for the ranges of a few tensors (benchmarks/shared_calibration.py), about 2 MB of inputs of 320x320."""

Strength = Callable[[Mapping[str, np.ndarray]], float]
"""Returns how strong the outputs are among the activations of an input, by tensor name; NaN if that cannot be said."""


class KeptInput(NamedTuple):
    """An input that is kept.

    Attributes:
        strength: How strong its outputs are; NaN if nobody knows.
        array: The input `(1, C, H, W)`, or what is stored of it.
    """

    strength: float
    array: np.ndarray | KeptSample

    def to_json(self) -> dict[str, Any]:
        """Returns it as a JSON object."""
        strength = None if math.isnan(self.strength) else self.strength
        return {"strength": strength, "sample": _packed(self.array).to_json()}

    @classmethod
    def from_json(cls, document: Any) -> KeptInput:
        """Returns what `to_json` wrote.

        Raises:
            InputError: the sample is none.
            msgspec.ValidationError: the document is another one.
        """
        found = msgspec.convert(document, _Document)
        strength = math.nan if found.strength is None else found.strength
        return cls(strength, KeptSample.from_json(found.sample))


class _Document(msgspec.Struct):
    strength: float | None
    sample: dict[str, Any]


@dataclass(frozen=True)
class _First:
    """The first few inputs in some order, of those that it is shown.

    Attributes:
        num: The most that are kept.
        order: Returns what digest and strength are ordered by.
        kept: Digest -> input.
    """

    num: int
    order: Callable[[str, float], Any]
    kept: dict[str, KeptInput]

    def offer(self, digest: str, shown: KeptInput) -> None:
        self.kept[digest] = shown
        for dropped in heapq.nlargest(len(self.kept) - self.num, self.kept, key=self._place):
            del self.kept[dropped]

    def samples(self, counted: Container[str]) -> tuple[KeptSample, ...]:
        return tuple(_packed(self.kept[each].array) for each in sorted(self.kept, key=self._place) if each in counted)

    def _place(self, digest: str) -> Any:
        return self.order(digest, self.kept[digest].strength)


class SampleKeeper:
    """Keeps `num` inputs with the least digests, and `num` whose outputs are strongest, of those that it is shown.

    Attributes:
        num: The most inputs of each kind.
    """

    def __init__(self, num: int, strength: Strength | None = None) -> None:
        self.num = num
        self._strength = strength
        self._random = _First(num, lambda digest, strength: digest, {})
        self._strong = _First(num, lambda digest, strength: (-strength, digest), {})

    def offer(self, digest: str, array: np.ndarray, activations: Mapping[str, np.ndarray]) -> None:
        """Shows an input `(1, C, H, W)`; what cannot be stored, because it is not finite, is not kept."""
        if self.num > 0 and array.ndim == 4 and len(array) == 1 and np.isfinite(array).all():
            strength = math.nan if self._strength is None else self._strength(activations)
            self._offer(digest, KeptInput(strength, array))

    def merge(self, kept: Mapping[str, KeptInput]) -> None:
        """Shows what an earlier run had kept, by digest."""
        for digest, each in kept.items():
            self._offer(digest, each)

    def samples(self, counted: Container[str]) -> tuple[KeptSample, ...]:
        """Returns the kept inputs with the least digests, of those that were counted, by digest."""
        return self._random.samples(counted)

    def strongest(self, counted: Container[str]) -> tuple[KeptSample, ...]:
        """Returns the kept inputs with the strongest outputs, of those that were counted, the strongest first."""
        return self._strong.samples(counted)

    def to_json(self, counted: Container[str]) -> dict[str, Any]:
        """Returns digest -> what is kept of the inputs that were counted, as a JSON object."""
        every = {**self._random.kept, **self._strong.kept}
        return {digest: kept.to_json() for digest, kept in every.items() if digest in counted}

    def _offer(self, digest: str, shown: KeptInput) -> None:
        self._random.offer(digest, shown)
        if not math.isnan(shown.strength):
            self._strong.offer(digest, shown)


def _packed(kept: np.ndarray | KeptSample) -> KeptSample:
    return kept if isinstance(kept, KeptSample) else KeptSample.of(kept)
