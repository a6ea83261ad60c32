"""torch -> float32 TFLite with litert-torch: channel-last, BatchNorm folded, inputs and outputs named."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeq.errors import MissingDependencyError, ModelError
from edgeq.exporting.tflite.ends import with_own_outputs
from edgeq.exporting.tflite.graph import read_graph, rename_tensors
from edgeq.exporting.tflite.torch_passes import capture

if TYPE_CHECKING:
    import torch

INPUT = "image"

_OPERATOR = re.compile(r"torch\.ops\.(\w+\.\w+)")
_SHOWN_CHARACTERS = 300


def convert_module(
    module: torch.nn.Module, example: torch.Tensor, output_names: Sequence[str], name: str, input_name: str = INPUT
) -> bytes:
    """Returns the float32 TFLite file of a torch module, with 4-D inputs and outputs as `(N, H, W, C)`.

    Every tensor gets a name of its own: the input and the outputs theirs, the others their operator and number.
    Prints litert-torch's stages on stdout.

    Args:
        module: One image batch in, one tensor or a tuple of tensors out.
        example: An input `(N, C, H, W)`, or of another rank, float32.
        output_names: Names of the outputs, in order; missing ones are called `output_N`.
        name: What to call the model in errors.
        input_name: Name of the input.

    Raises:
        ModelError: the module cannot be traced, or has an operator that TFLite lacks.
        MissingDependencyError: the extra `tflite` is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import litert_torch
    except ImportError as error:
        raise MissingDependencyError("litert-torch", "tflite", "Writing TFLite files") from error
    try:
        channel_last = _channel_last(capture(module, example))
        taken = example.permute(0, 2, 3, 1).contiguous() if example.ndim == 4 else example
        model = litert_torch.convert(channel_last, (taken,))
        content = with_own_outputs(bytes(model.model_content()), name)
    except ModelError:
        raise
    # It raises what its parts raise: torch.export, JAX, and the MLIR passes plain ValueError.
    except Exception as error:
        raise ModelError(f"{name}: cannot be converted to TFLite: {_cause(error)}") from error
    return rename_tensors(content, _names(content, input_name, output_names, name), name)


def _channel_last(module: torch.nn.Module) -> torch.nn.Module:
    import torch

    class ChannelLast(torch.nn.Module):
        """Takes and gives 4-D tensors as `(N, H, W, C)`."""

        def __init__(self) -> None:
            super().__init__()
            self.network = module
            # A traced module has no train mode to leave, and refuses `eval()`.
            self.training = False

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            outputs = self.network(images.permute(0, 3, 1, 2) if images.ndim == 4 else images)
            if isinstance(outputs, torch.Tensor):
                outputs = (outputs,)
            return tuple(output.permute(0, 2, 3, 1) if output.ndim == 4 else output for output in outputs)

    return ChannelLast()


def _names(content: bytes, input_name: str, output_names: Sequence[str], name: str) -> dict[int, str]:
    graph = read_graph(content, name)
    names = {}
    for operator in graph.operators:
        for position, index in enumerate(operator.outputs):
            names[index] = f"{operator.kind.lower()}_{operator.index}" + (f"_{position}" if position else "")
    for tensor in graph.tensors:
        if tensor.constant:
            names[tensor.index] = f"constant_{tensor.index}"
    ends = {graph.inputs[0]: input_name}
    for position, index in enumerate(graph.outputs):
        ends[index] = output_names[position] if position < len(output_names) else f"output_{position}"
    while taken := {index for index, inner in names.items() if inner in ends.values() and index not in ends}:
        names |= {index: f"{names[index]}_inner" for index in taken}
    return names | ends


def _cause(error: BaseException) -> str:
    """Returns what the converter tripped over, and in which operator.

    MLIR names the operator in a line with `error:`; torch.fx quotes the code, whose last line calls the module's own.
    """
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = next((line.partition("error: ")[2] for line in lines if "error: " in line), lines[0] if lines else "")
    operators = _OPERATOR.findall(text)
    place = f" (in the operator {operators[-1]})" if operators and operators[-1] not in told else ""
    return f"{told[:_SHOWN_CHARACTERS] or type(error).__name__}{place}"
