"""How much of a signal quantization leaves: sums over two runs' values, and the decibels that they come to.

The signal-to-noise ratio is `10 log10(sum x^2 / sum (x - q)^2)` of the reference `x` and what came out instead, `q`.
Each bit of a grid that fits its values is worth 6 dB. At 20 dB the error is a tenth of the signal (root mean square),
at 10 dB a third.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

EQUAL_DB = 120.0
"""The ratio of two equal signals: sums of float32 in another order differ by as much. Its negative is the floor."""

LOW_DB = 10.0
"""Below this ratio a user is warned: the error has a third of the signal's own magnitude."""

_NAMED_LAYERS = 5
_ROUNDING = 1e-10
"""Noise shares that the rounding of float32 makes in deep networks."""


@dataclass(frozen=True)
class Sums:
    """Sums over the values of a reference and of what came out instead; those of two images add up.

    Attributes:
        signal: Sum of the squared reference.
        found: Sum of the squared values that came out.
        product: Sum of the products of both.
        noise: Sum of the squared differences.
        reference_ends: Least and largest value of the reference.
        found_ends: Least and largest value that came out.
    """

    signal: float = 0.0
    found: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    reference_ends: tuple[float, float] = (math.inf, -math.inf)
    found_ends: tuple[float, float] = (math.inf, -math.inf)

    @classmethod
    def of(cls, reference: np.ndarray, found: np.ndarray) -> Sums:
        """Returns the sums of two arrays of one shape."""
        if reference.size == 0:
            return cls()
        x, q = (np.asarray(array, np.float64).ravel() for array in (reference, found))
        with np.errstate(invalid="ignore"):  # of infinite values
            difference = x - q
            products = (float(x @ x), float(q @ q), float(x @ q), float(difference @ difference))
        return cls(*products, (float(x.min()), float(x.max())), (float(q.min()), float(q.max())))

    @classmethod
    def of_energies(cls, reference: np.ndarray, found: np.ndarray) -> Sums:
        """Returns signal and noise alone of two arrays of one shape, in a fourth of the time.

        Sums of float32 are good to a thousandth of a dB; values whose squares it cannot hold count as `of` counts them.
        """
        x, q = (np.asarray(array, np.float32).ravel() for array in (reference, found))
        with np.errstate(invalid="ignore", over="ignore"):
            difference = x - q
            signal, noise = float(x @ x), float(difference @ difference)
        return cls(signal, noise=noise) if math.isfinite(signal + noise) else cls.of(reference, found)

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.signal + other.signal,
            self.found + other.found,
            self.product + other.product,
            self.noise + other.noise,
            _joined(self.reference_ends, other.reference_ends),
            _joined(self.found_ends, other.found_ends),
        )

    @property
    def snr_db(self) -> float:
        """The signal-to-noise ratio in dB, within `EQUAL_DB` of zero; the floor where a value is no finite number."""
        if not math.isfinite(self.noise):
            return -EQUAL_DB
        if self.noise == 0:
            return EQUAL_DB
        ratio = 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -EQUAL_DB
        return min(max(ratio, -EQUAL_DB), EQUAL_DB)

    @property
    def noise_share(self) -> float:
        """The noise as a share of the signal, in 0..1; 1 where there is at least as much noise as signal."""
        return min(1.0, 10 ** (-self.snr_db / 10))

    @property
    def cosine(self) -> float:
        """Cosine similarity: 1 for two signals that are zero, 0 where only one of them is, or is no finite number."""
        if not math.isfinite(self.noise):
            return 0.0
        if self.signal == 0 or self.found == 0:
            return float(self.signal == self.found)
        return self.product / math.sqrt(self.signal) / math.sqrt(self.found)

    @property
    def is_dead(self) -> bool:
        """Whether one and the same value came out everywhere while the reference varies."""
        low, high = self.reference_ends
        return low < high and self.found_ends[0] == self.found_ends[1]


def _joined(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return min(one[0], other[0]), max(one[1], other[1])


@dataclass(frozen=True)
class Layer:
    """A layer whose loss can be measured.

    Attributes:
        name: As `keep` takes it.
        op_type: Its operator.
        inputs: Tensors that it reads, before operators that only move values.
        output: The tensor that it writes, behind a fused activation.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class LayerSignal:
    """What is left of the signal before and behind a layer.

    Attributes:
        name: The layer's name.
        op_type: Its operator.
        input_db: Signal-to-noise ratio of what arrives at it.
        snr_db: Signal-to-noise ratio of what it gives.
    """

    name: str
    op_type: str
    input_db: float
    snr_db: float


@dataclass(frozen=True)
class OutputSignal:
    """What is left of an output, or of the channels of an output that belong together.

    Attributes:
        name: The output's name.
        channels: Which of its channels, as `0:4` or `4`; empty for all of them.
        snr_db: Signal-to-noise ratio.
        cosine: Cosine similarity to the reference.
        dead: Whether it is constant while the reference is not.
    """

    name: str
    channels: str
    snr_db: float
    cosine: float
    dead: bool

    @classmethod
    def of(cls, name: str, channels: str, sums: Sums) -> OutputSignal:
        """Returns what the sums of an output come to, rounded to what is worth telling."""
        return cls(name, channels, round(sums.snr_db, 2), round(sums.cosine, 6), sums.is_dead)

    @property
    def label(self) -> str:
        """The output with its channels, as messages name it."""
        return f"{self.name}[{self.channels}]" if self.channels else self.name


@dataclass(frozen=True)
class Signal:
    """What a file of a lower precision leaves of the float model's signal.

    Attributes:
        how: How it was obtained: the arithmetic and the images.
        images: How many images were run.
        outputs: Every output, or every group of its channels.
        layers: The layers where most is lost, the worst first.
        course: Every layer, those that stay in float too, in the order of the network.
    """

    how: str
    images: int
    outputs: tuple[OutputSignal, ...]
    layers: tuple[LayerSignal, ...]
    course: tuple[LayerSignal, ...] = ()

    @property
    def snr_db(self) -> float:
        """The least ratio of an output."""
        return min(output.snr_db for output in self.outputs)

    def to_json(self) -> dict[str, Any]:
        """Returns what the manifest keeps."""
        return {
            "how": self.how,
            "images": self.images,
            "snr_db": self.snr_db,
            "outputs": [vars(output).copy() for output in self.outputs],
            "layers": [vars(layer).copy() for layer in self.layers],
            "course": [vars(layer).copy() for layer in self.course],
        }


def worst_layers(layers: Sequence[Layer], sums: Mapping[str, Sums]) -> tuple[LayerSignal, ...]:
    """Returns up to five layers where most of the signal is lost, the worst first, without those that lose nothing.

    What a layer loses is the noise share of its output less that of its inputs: noise that it adds, or that arrives and
    it amplifies. A drop in dB would always name the first layer, whose input is the image without any noise.

    Args:
        layers: The layers to choose from.
        sums: Tensor -> its sums; layers whose tensors are missing are passed over.
    """
    losses = [
        (behind.noise_share - before.noise_share, _signal(layer, before, behind))
        for layer, before, behind in _around(layers, sums)
    ]
    losses.sort(key=lambda entry: entry[0], reverse=True)
    return tuple(found for loss, found in losses[:_NAMED_LAYERS] if loss > _ROUNDING)


def course_of(layers: Sequence[Layer], sums: Mapping[str, Sums]) -> tuple[LayerSignal, ...]:
    """Returns what is left of the signal at each layer, in the order of `layers`; arguments as of `worst_layers`."""
    return tuple(_signal(layer, before, behind) for layer, before, behind in _around(layers, sums))


def _around(layers: Sequence[Layer], sums: Mapping[str, Sums]) -> Iterator[tuple[Layer, Sums, Sums]]:
    """Yields each layer with the sums of what it reads and of what it gives."""
    for layer in layers:
        known = [sums[name] for name in layer.inputs if name in sums]
        if known and layer.output in sums:
            yield layer, sum(known, Sums()), sums[layer.output]


def _signal(layer: Layer, before: Sums, behind: Sums) -> LayerSignal:
    return LayerSignal(layer.name, layer.op_type, round(before.snr_db, 2), round(behind.snr_db, 2))
