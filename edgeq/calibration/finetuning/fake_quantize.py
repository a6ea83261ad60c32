"""Rounding to a grid that gradients pass through.

Backwards a value within the grid gets its gradient as if it had not been rounded, one beyond it gets none ("Estimating
or Propagating Gradients Through Stochastic Neurons", Bengio et al., 2013). The gradient of a step is that of "Learned
Step Size Quantization" (Esser et al., 2020), equation 3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def fake_quantize(x: torch.Tensor, scale: torch.Tensor, ends: tuple[float, float]) -> torch.Tensor:
    """Returns the nearest number of a grid for each value, halves to the even integer, outliers clipped.

    Args:
        x: Values.
        scale: The step, `()`, or of a shape that spreads over the values.
        ends: Smallest and largest integer, less the zero point.
    """
    found: torch.Tensor = _function()(x, scale, *ends)
    return found


@functools.cache
def _function() -> Callable[..., Any]:
    """Returns the function with its own gradient; it is made here because its base is torch's."""
    import torch

    class FakeQuantize(torch.autograd.Function):
        """What `fake_quantize` does."""

        @staticmethod
        def forward(x: torch.Tensor, scale: torch.Tensor, low: float, high: float) -> torch.Tensor:
            return torch.div(x, scale).round_().clamp_(low, high).mul_(scale)

        @staticmethod
        def setup_context(context: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            x, scale, low, high = inputs
            context.save_for_backward(x, scale, output)
            context.ends = low, high

        @staticmethod
        def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            (gradient,) = gradients
            x, scale, output = context.saved_tensors
            low, high = context.ends
            inside = (x >= (low - 0.5) * scale) & (x <= (high + 0.5) * scale)
            passed = gradient * inside
            if not context.needs_input_grad[1]:
                return passed, None, None, None
            # Within the grid the rounding error in steps, beyond it the integer of the end.
            by_step = (gradient * output - passed * x) / scale
            return passed, by_step.sum_to_size(scale.shape), None, None

        @staticmethod
        def vmap(
            _info: Any, axes: tuple[int | None, ...], x: torch.Tensor, scale: torch.Tensor, low: float, high: float
        ) -> tuple[Any, int | None]:
            # One step for all images of a batch: they are rounded as one array.
            return FakeQuantize.apply(x, scale, low, high), axes[0]

    return FakeQuantize.apply  # type: ignore[no-any-return]
