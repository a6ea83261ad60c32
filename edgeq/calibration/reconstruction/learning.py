"""AdaRound: whether each weight of a unit is rounded down or up, learned by gradient descent on the unit's output.

A weight `w` of scale `s` is `g * s * clip(floor(w / s) + h(v))` with `h(v) = clip(1.2 sigmoid(v) - 0.1, 0, 1)`, and `v`
is learned. A term that grows on the way pulls every `h` to 0 or 1 ("Up or Down? Adaptive Rounding for Post-Training
Quantization", Nagel et al., 2020, section 3.2). The gain `g` of each scale, 1 at first, is learned with it, as step
sizes are in "Learned Step Size Quantization" (Esser et al., 2020).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.calibration.reconstruction.torch_unit import TorchUnit
from edgeq.calibration.reconstruction.units import Unit
from edgeq.exporting.graphs.graph import weight_of
from edgeq.quantizers.weight import QuantizedWeight, reduced, spread

if TYPE_CHECKING:
    import torch

    from edgeq.exporting.planning.plan import QuantPlan

_LOW, _HIGH = -0.1, 1.1
_LEAST_GAIN, _MOST_GAIN = 0.5, 2.0
"""Where gains end: a bias uses half of int32, so that it fits into a step of half the size too."""
_WARM_UP = 0.2
_SHARPEST, _FLATTEST = 8.0, 2.0
_ROWS = 64
"""Matrices of a batch."""
_FEWEST_WINDOWS = 4
_EVALUATED = 8
"""Whole inputs that are evaluated at a time."""


@dataclass(frozen=True)
class Settings:
    """How rounding is learned.

    Attributes:
        blocks: Whether residual blocks are learned as one; otherwise each layer by itself.
        iterations: Steps of gradient descent for each unit.
        positions: Positions of the output that a step sees, in windows of `window` x `window`,
        products: or as many fewer as keep it below so many products.
        window: Height and width of a window.
        rate: Adam's step for `v`.
        gain_rate: Adam's step for the gains of scales.
        pull: Weight of the term that pulls to 0 and 1, in shares of the error of rounding to nearest.
        dropped: Share of the activations that stay in float at random while learning.
        seed: Of all that is drawn.
    """

    blocks: bool = True
    iterations: int = 1000
    positions: int = 1024
    products: float = 3e8
    window: int = 8
    rate: float = 0.03
    gain_rate: float = 0.001
    pull: float = 3.0
    dropped: float = 0.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Samples:
    """What a unit reads and gives on some inputs, float32, `(N, ...)` each.

    Attributes:
        sources: The source as the quantized model has it so far.
        floats: The source as the float model has it.
        targets: The output of the float model.
    """

    sources: np.ndarray
    floats: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True, eq=False)
class Learned:
    """How a unit was rounded.

    Attributes:
        weights: Layer -> its weight as it is kept: learned where that lowers the held-out error, else to nearest.
        nearest: Squared error of the output on held-out inputs, relative to its energy, with all rounded to nearest.
        learned: The same with learned weights.
    """

    weights: Mapping[str, QuantizedWeight]
    nearest: float
    learned: float

    @property
    def is_kept(self) -> bool:
        """Whether what was learned is better on inputs that it was not learned on."""
        return self.learned < self.nearest


class SoftWeight:
    """A weight between two integers each, in torch, with the gradients of the choice between them and of its scales.

    Args:
        weight: The float weight.
        quantized: The same, rounded to nearest.

    Attributes:
        choice: `v`, of the weight's shape.
        gain: `g`, of the shape of the scales.
    """

    def __init__(self, weight: np.ndarray, quantized: QuantizedWeight) -> None:
        import torch

        self._quantized = quantized
        scale = spread(quantized.scale, quantized).astype(np.float64)
        zero = spread(quantized.zero_point, quantized).astype(np.float64)
        steps = weight.astype(np.float64) / scale + zero
        below = np.floor(steps)
        share = np.clip((steps - below - _LOW) / (_HIGH - _LOW), 1e-6, 1 - 1e-6)
        self._below, self._zero = (torch.from_numpy(np.asarray(each, np.float32)) for each in (below, zero))
        self.choice = torch.from_numpy(np.log(share / (1 - share)).astype(np.float32))
        self.gain = torch.ones(quantized.scale.shape)

    def share(self) -> torch.Tensor:
        """Returns `h(v)`."""
        import torch

        return torch.clamp(torch.sigmoid(self.choice) * (_HIGH - _LOW) + _LOW, 0, 1)

    def weight(self) -> torch.Tensor:
        """Returns the real numbers that the current choice and gains stand for."""
        return (self._clipped(self._below + self.share()) - self._zero) * self._scale()

    def gradients(self, of_weight: torch.Tensor, pull: float, exponent: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the gradients of `v` and `g`, for the loss and `pull * sum(1 - (2 h - 1)^exponent)`.

        Args:
            of_weight: The gradient of the loss by the weight.
            pull: Weight of the term that pulls to 0 and 1.
            exponent: Even; the larger, the less it pulls what is undecided.
        """
        import torch

        quantized, sigmoid = self._quantized, torch.sigmoid(self.choice)
        raw = sigmoid * (_HIGH - _LOW) + _LOW
        share = torch.clamp(raw, 0, 1)
        steps = self._below + share
        clipped = self._clipped(steps)
        of_gain = reduced(np.add, (of_weight * (clipped - self._zero)).numpy(), quantized.scheme) * quantized.scale
        found = of_weight * self._scale() * (steps == clipped)
        if pull:
            found = found - 2 * pull * exponent * _integer_power(2 * share - 1, exponent - 1)
        of_choice = found * ((raw >= 0) & (raw <= 1)) * sigmoid * (1 - sigmoid) * (_HIGH - _LOW)
        return of_choice, torch.from_numpy(np.asarray(of_gain))

    def rounded(self) -> QuantizedWeight:
        """Returns the weight with each choice made, on its scales."""
        scheme = self._quantized.scheme
        integers = np.clip(self._below.numpy() + (self.choice.numpy() >= 0), scheme.qmin, scheme.qmax)
        scale = np.asarray(self._quantized.scale * self.gain.numpy())
        return dataclasses.replace(self._quantized, integers=integers.astype(scheme.dtype), scale=scale)

    def _clipped(self, steps: torch.Tensor) -> torch.Tensor:
        """Returns steps within the grid."""
        import torch

        return torch.clamp(steps, self._quantized.scheme.qmin, self._quantized.scheme.qmax)

    def _scale(self) -> torch.Tensor:
        """Returns the current scales so that they go with the weight element by element."""
        import torch

        return torch.from_numpy(
            np.asarray(spread(np.asarray(self.gain.numpy() * self._quantized.scale), self._quantized))
        )


def learn(unit: Unit, plan: QuantPlan, train: Samples, held_out: Samples, settings: Settings, number: int) -> Learned:
    """Returns how a unit is rounded.

    Args:
        unit: The unit.
        plan: Its weights rounded to nearest, and the grids of its tensors.
        train: Inputs to learn on.
        held_out: Others, which decide whether what was learned is kept.
        settings: How.
        number: Position of the unit in the graph, which its random numbers depend on.
    """
    import torch

    nearest = {name: plan.weights[name] for name in unit.layers}
    reals = {str(node.name): weight_of(node) for node in unit.nodes if node.name in nearest}
    soft = {name: SoftWeight(weight, nearest[name]) for name, weight in reals.items() if weight is not None}
    energy = float(np.square(held_out.targets, dtype=np.float64).sum())
    before = squared_error(unit, plan, held_out, nearest)
    if not before:
        return Learned(nearest, 0.0, 0.0)
    batches = _Batches(unit, plan, train, settings, torch.Generator().manual_seed(settings.seed * 100_003 + number))
    optimizer = torch.optim.Adam(
        [
            {"params": [each.choice for each in soft.values()], "lr": settings.rate},
            {"params": [each.gain for each in soft.values()], "lr": settings.gain_rate},
        ]
    )
    # The error of rounding to nearest is 1, whatever the unit and its scale.
    unit_error = before / held_out.targets.size
    pull = settings.pull / sum(each.choice.numel() for each in soft.values())
    for step in range(settings.iterations):
        weights = {name: each.weight().requires_grad_() for name, each in soft.items()}
        loss = batches.error(weights) / unit_error
        loss.backward()  # type: ignore[no-untyped-call]
        exponent = _exponent(step / settings.iterations)
        for name, each in soft.items():
            of_weight = weights[name].grad
            assert of_weight is not None  # noqa: S101 - the output depends on every layer of its unit
            each.choice.grad, each.gain.grad = each.gradients(of_weight, pull if exponent else 0.0, exponent)
        optimizer.step()
        for each in soft.values():
            each.gain.clamp_(_LEAST_GAIN, _MOST_GAIN)
    rounded = {name: each.rounded() for name, each in soft.items()}
    after = squared_error(unit, plan, held_out, rounded)
    return Learned(rounded if after < before else nearest, before / energy, after / energy)


class _Batches:
    """Draws windows of a unit's inputs and outputs, and computes their error."""

    def __init__(
        self, unit: Unit, plan: QuantPlan, samples: Samples, settings: Settings, chance: torch.Generator
    ) -> None:
        import torch

        size = samples.sources.shape[2:] if unit.is_spatial else ()
        weights = sum(plan.weights[name].integers.size for name in unit.layers)
        wanted = min(settings.positions, settings.products / weights)
        # Few windows of many positions see too few places.
        window = settings.window if wanted >= _FEWEST_WINDOWS * settings.window**2 else settings.window // 2
        self._module = TorchUnit(unit, plan, size, window)
        self._settings, self._chance = settings, chance
        self._targets = torch.from_numpy(samples.targets)
        self._margins = [_margins(self._module, axis) for axis in range(len(size))]
        self._sources, self._floats = (_padded(each, self._margins) for each in (samples.sources, samples.floats))
        self._count = max(int(wanted // np.prod(self._module.size)), 1) if size else _ROWS

    def error(self, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Returns the mean squared error of the output on the next windows."""
        import torch

        chosen = torch.randint(len(self._targets), (self._count,), generator=self._chance)
        origins = torch.stack(
            [self._origins(axis) for axis in range(len(self._margins))], dim=1
        ) if self._margins else torch.zeros((self._count, 0), dtype=torch.int64)  # fmt: skip
        windows = list(zip(self._module.source_windows, self._margins, strict=True))
        sizes = [window.size for window, _ in windows]
        starts = [
            [window.start(int(origin)) + margin for (window, (margin, _)), origin in zip(windows, row, strict=True)]
            for row in origins
        ]
        sources, floats = (_cut(each, chosen, starts, sizes) for each in (self._sources, self._floats))
        targets = _cut(self._targets, chosen, [[int(each) for each in row] for row in origins], self._module.size)
        found = self._module(sources, floats, origins, weights, self._settings.dropped, self._chance)
        return torch.mean(torch.square(found - targets))

    def _origins(self, axis: int) -> torch.Tensor:
        import torch

        step, size = self._module.steps[axis], self._module.size[axis]
        choices = (self._targets.shape[2 + axis] - size) // step + 1
        return torch.randint(choices, (self._count,), generator=self._chance) * step


def _margins(module: TorchUnit, axis: int) -> tuple[int, int]:
    """Returns how far windows of the source reach beyond the map, before and behind it."""
    window, lengths = module.source_windows[axis], module.lengths[axis]
    step, size = module.steps[axis], module.size[axis]
    output = list(lengths.values())[-1]
    last = window.start((output - size) // step * step) + window.size
    return max(-window.offset, 0), max(last - next(iter(lengths.values())), 0)


def _padded(array: np.ndarray, margins: list[tuple[int, int]]) -> torch.Tensor:
    import torch

    found = torch.from_numpy(array)
    if not any(map(any, margins)):
        return found
    return torch.nn.functional.pad(found, (*margins[1], *margins[0]))


def _cut(array: torch.Tensor, chosen: torch.Tensor, starts: list[list[int]], sizes: list[int]) -> torch.Tensor:
    """Returns windows of some of the maps, `(N, C, *sizes)`."""
    import torch

    if not sizes:
        return array[chosen]
    height, width = sizes
    return torch.stack(
        [
            array[index, :, top : top + height, left : left + width]
            for index, (top, left) in zip(chosen.tolist(), starts, strict=True)
        ]
    )


def squared_error(unit: Unit, plan: QuantPlan, samples: Samples, weights: Mapping[str, QuantizedWeight]) -> float:
    """Returns the squared error of a unit's output over whole inputs."""
    import torch

    size = samples.sources.shape[2:] if unit.is_spatial else ()
    module = TorchUnit(unit, plan, size, max(samples.targets.shape[2:], default=1))
    margins = [_margins(module, axis) for axis in range(len(size))]
    real = {name: torch.from_numpy(weight.dequantize()) for name, weight in weights.items()}
    starts = [window.offset + margin for window, (margin, _) in zip(module.source_windows, margins, strict=True)]
    sizes = [window.size for window in module.source_windows]
    total = 0.0
    with torch.no_grad():
        for begin in range(0, len(samples.sources), _EVALUATED):
            part = slice(begin, begin + _EVALUATED)
            source = _padded(samples.sources[part], margins)
            every = torch.arange(len(source))
            source = _cut(source, every, [starts] * len(source), sizes)
            found = module(source, source, torch.zeros((len(source), len(size)), dtype=torch.int64), real)
            total += float(
                torch.sum(torch.square(found - torch.from_numpy(samples.targets[part])), dtype=torch.float64)
            )
    return total


def _exponent(progress: float) -> int:
    """Returns the exponent of the pulling term, even, from sharp to flat; 0 while it does not pull yet."""
    if progress < _WARM_UP:
        return 0
    left = (1 - progress) / (1 - _WARM_UP)
    return 2 * round((_FLATTEST + (_SHARPEST - _FLATTEST) * left) / 2)


def _integer_power(base: torch.Tensor, exponent: int) -> torch.Tensor:
    """Returns a power by products, in a fifth of the time of `torch.pow`."""
    result, square = None, base
    while exponent:
        if exponent & 1:
            result = square if result is None else result * square
        square, exponent = square * square, exponent >> 1
    return base.new_ones(base.shape) if result is None else result
