"""The cheap screening: the noise that layers in INT8 leave in the outputs, on a few images, in exact arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.signal.output_groups import compared_groups
from edgeq.exporting.signal.ratio import Sums
from edgeq.runtimes.observer import ActivationObserver, ExactObserver

_ROUNDING = 1e-12
"""Noise of float32 itself, as a share of the signal."""


@dataclass(frozen=True)
class Noise:
    """The noise in each group of channels of the outputs, as a share of its signal in 0..1.

    Attributes:
        shares: One per group.
        snr_db: Signal-to-noise ratio of the group that loses most.
    """

    shares: tuple[float, ...]
    snr_db: float

    def share_of(self, whole: Noise) -> float:
        """Returns which share of another file's noise it is, in the group of channels where that is most."""
        return max(own / max(other, _ROUNDING) for own, other in zip(self.shares, whole.shares, strict=True))

    def missing_in(self, whole: Noise) -> float:
        """Returns which share of another file's noise is not in it, in the group of channels where that is most."""
        pairs = zip(self.shares, whole.shares, strict=True)
        return max((other - own) / max(other, _ROUNDING) for own, other in pairs)


class Screening:
    """The outputs of a float model for a few images, and how far files are from them.

    Args:
        model: The float model.
        inputs: Inputs `(1, C, H, W)`.
        threads: CPU threads of the engine.
    """

    def __init__(self, model: FloatModel, inputs: Sequence[np.ndarray], threads: int | None = None) -> None:
        self._groups = compared_groups(model.graph)
        self._names = list(dict.fromkeys(name for name, _ in self._groups))
        self._threads = threads
        feed = model.input
        observer = ActivationObserver(model.graph, self._names, threads)
        self._inputs = inputs
        self._expected = [observer.observe({feed.name: feed.encode(array)}) for array in inputs]

    def on_first(self, num: int) -> Screening:
        """Returns a screening on the first so many of the inputs, for which the model is not run again."""
        found = copy.copy(self)
        found._inputs, found._expected = self._inputs[:num], self._expected[:num]
        return found

    def noise(self, artifact: Artifact) -> Noise:
        """Returns the noise in the outputs of a file of the model."""
        (feed,) = artifact.inputs
        observer = ExactObserver(read_onnx(artifact.path), self._names, self._threads)
        sums = [Sums()] * len(self._groups)
        for array, expected in zip(self._inputs, self._expected, strict=True):
            found = observer.observe({feed.name: feed.encode(array)})
            sums = [each + self._compared(index, expected, found) for index, each in enumerate(sums)]
        return Noise(tuple(each.noise_share for each in sums), min(each.snr_db for each in sums))

    def _compared(self, index: int, expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> Sums:
        name, group = self._groups[index]
        if expected[name].shape != found[name].shape:  # the graph has chosen another number of them
            return Sums()
        return Sums.of(group.of(expected[name]), group.of(found[name]))
