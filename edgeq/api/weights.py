"""`edgeq.quantize_weights`: a torch module with weights of few bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeq.api.arguments import Listener, Names, names, reporting, require_positive
from edgeq.calibration.quantize_module import QuantizedModule, quantize_module
from edgeq.errors import InputError
from edgeq.quantizers.recipes import BY_INPUTS

if TYPE_CHECKING:
    import torch


def quantize_weights(
    module: torch.nn.Module,
    inputs: Sequence[torch.Tensor | tuple[torch.Tensor, ...]],
    bits: int = 4,
    *,
    group_size: int = 32,
    weight_method: str = BY_INPUTS,
    keep: Names | None = None,
    threads: int | None = None,
    progress: Listener = None,
) -> QuantizedModule:
    """Returns a copy of a torch module whose linear layers and 2-D convolutions have weights of few bits.

    Layers are quantized in the order in which they run, each for what it reads behind quantized layers. The weights are
    those that `edgeq.export` gives the same network; use it for files, and this to study or to store them yourself.

    Args:
        module: The module, on the CPU; it is not changed.
        inputs: What it is called with to calibrate on: tensors, or tuples of its positional arguments. `rtn` and `hqq`
            read the first one alone, to see which layers run.
        bits: Of a weight, 2 to 8.
        group_size: Inputs of an output that share a scale; the last group of a row may be shorter.
        weight_method: `rtn`, `hqq`, `gptq`, `gptq-act-order`, `awq` or `awq+gptq`.
        keep: Layers that stay in float: names, regular expressions, or types such as `Conv2d`. Below 4 bits the first
            and the last layer that runs stay in float too, which lose most.
        threads: CPU threads of torch.
        progress: Called for each job, returns an `edgeq.Progress`.

    Raises:
        InputError: an argument cannot be used, or no layer is left to quantize.
    """
    if not 2 <= bits <= 8:
        raise InputError(f"`bits` {bits}: wanted 2 to 8")
    require_positive(group_size, "group_size")
    require_positive(threads, "threads")
    if not inputs:
        raise InputError("`inputs`: holds none; wanted at least one, to see which layers run")
    called = [each if isinstance(each, tuple) else (each,) for each in inputs]
    with reporting(progress):
        return quantize_module(
            module, called, bits=bits, group_size=group_size, method=weight_method, keep=names(keep), threads=threads
        )
