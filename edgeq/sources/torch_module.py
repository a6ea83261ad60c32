"""A torch module that a program holds, and an input that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeq.errors import InputError, MissingDependencyError, ModelError

if TYPE_CHECKING:
    import torch

_WANTED = "wanted one image (N, 3, H, W), or (N, 1, H, W) of gray ones, in float32"


@dataclass(frozen=True, eq=False)
class TorchModule:
    """A torch module in memory. It is run and read, and never changed.

    Attributes:
        module: In eval mode, in float32, on the CPU.
        example: An input `(1, C, H, W)`, float32, finite.
    """

    module: torch.nn.Module
    example: torch.Tensor

    @classmethod
    def of(cls, module: Any, example_input: Any) -> TorchModule:
        """Returns a module with the first image of an example input `(N, C, H, W)`, a tensor or an array.

        Raises:
            InputError: this is no module, or the example no such input.
            ModelError: the module is in training mode, not in float32, or not on the CPU.
            MissingDependencyError: torch is not installed.
        """
        try:
            import torch
        except ImportError:
            raise MissingDependencyError("torch", "export", "opening a torch module") from None
        if not isinstance(module, torch.nn.Module):
            raise InputError(
                f"`model` is of type {type(module).__name__}; wanted a path, a zoo name, 'package.module:factory' or a "
                "torch.nn.Module"
            )
        given = cls(module, _image(example_input))
        given.require_ready()
        return given

    def require_ready(self) -> None:
        """Checks that the module computes here what it will compute in a file.

        Raises:
            ModelError: it is in training mode, not in float32, or not on the CPU.
        """
        name = type(self.module).__name__
        for part, module in self.module.named_modules():
            if module.training:
                where = f"its part {part!r}" if part else "it"
                raise ModelError(f"`model` {name}: {where} is in training mode; call model.eval() first")
        for key, tensor in _tensors(self.module):
            if tensor.device.type == "meta":
                raise ModelError(f"`model` {name}: {key!r} has no values (device meta); load the weights first")
            if tensor.device.type != "cpu":
                raise ModelError(f"`model` {name}: {key!r} is on {tensor.device}; call model.cpu() first")
            if tensor.is_floating_point() and str(tensor.dtype) != "torch.float32":
                raise ModelError(f"`model` {name}: {key!r} is of {tensor.dtype}; call model.float() first")


def _tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _image(example: Any) -> torch.Tensor:
    """Returns the first image of an example input, as a tensor `(1, C, H, W)` of its own."""
    import numpy as np
    import torch

    if example is None:
        raise InputError(f"`example_input` is missing: a torch module does not say what it takes; {_WANTED}")
    if isinstance(example, np.ndarray):
        try:
            example = torch.from_numpy(np.array(example))
        except TypeError:
            raise InputError(f"`example_input` is an array of {example.dtype}; {_WANTED}") from None
    if not isinstance(example, torch.Tensor):
        raise InputError(f"`example_input` is of type {type(example).__name__}; {_WANTED}")
    shape = tuple(example.shape)
    if len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
        raise InputError(f"`example_input` has the shape {shape}; {_WANTED}")
    if example.dtype != torch.float32:
        raise InputError(f"`example_input` is of {example.dtype}; {_WANTED}")
    if example.device.type != "cpu":
        raise InputError(f"`example_input` is on {example.device}; {_WANTED}, on the CPU")
    image = example[:1].detach().clone()
    if not bool(image.isfinite().all()):
        raise InputError("`example_input` holds NaN or infinite values; give an input that the model can be run on")
    return image
