"""A part of a torch model with example inputs, and its ONNX graph, checked against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.bundles.contents import PartName, PartTensor
from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import specs, weight_of
from edgeq.exporting.passes.cleaning import clean
from edgeq.exporting.passes.opset import raise_opset
from edgeq.sources.torch_export import last_cause, quiet_export

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    Compute = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]

FreeAxes = Mapping[int, str]
"""Axis -> name of the free length."""

_COMPARED = 24
_TRACED_OPSET = 20
"""The one that the exporter writes without converting."""

TOLERANCE = 1e-3
"""Largest difference from PyTorch's outputs over the largest output, for graphs in FP32."""


@dataclass(frozen=True)
class TorchPart:
    """What one file is to compute.

    Attributes:
        name: Which part it is.
        module: Holds its weights.
        compute: From the module and the inputs, in order, to the outputs.
        inputs: Examples by name, to trace it with: free axes are longer than 1 and of different lengths.
        axes: Input -> its free axes.
        outputs: Output -> its free axes.
        checks: Inputs of other lengths, to compare the file on.
    """

    name: PartName
    module: torch.nn.Module
    compute: Compute
    inputs: Mapping[str, torch.Tensor]
    axes: Mapping[str, FreeAxes]
    outputs: Mapping[str, FreeAxes]
    checks: Sequence[Mapping[str, torch.Tensor]] = field(default_factory=tuple)

    def run(self, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Returns PyTorch's outputs."""
        import torch

        with torch.no_grad():
            found = self.compute(self.module, *(inputs[name] for name in self.inputs))
        return found if isinstance(found, tuple) else (found,)


def export_part(part: TorchPart, opset: int) -> ir.Model:
    """Returns the ONNX graph of a part, its ends, free axes and layers with weights named.

    Args:
        part: The part.
        opset: ONNX's opset, 20 or higher.

    Raises:
        ModelError: the part cannot be traced.
    """
    import torch

    class Traced(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = part.module

        def forward(self, *tensors: torch.Tensor) -> Any:
            return part.compute(self.part, *tensors)

    free = torch.export.Dim.DYNAMIC
    shapes = tuple(dict.fromkeys(part.axes.get(name, {}), free) for name in part.inputs)
    try:
        with quiet_export(), torch.no_grad():
            program = torch.onnx.export(
                Traced().eval(), tuple(part.inputs.values()), dynamo=True, dynamic_shapes=(shapes,), verbose=False,
                input_names=list(part.inputs), output_names=list(part.outputs), opset_version=_TRACED_OPSET,
            )  # fmt: skip
            assert program is not None  # noqa: S101 - only with `f=` given does it return nothing
            model: ir.Model = program.model
    # The exporter raises errors of many kinds, from its own tree to plain RuntimeError.
    except Exception as error:
        raise ModelError(f"the {part.name} part cannot be exported to ONNX: {last_cause(error)}") from error
    _name_axes(model, part)
    clean(model)
    raise_opset(model, opset)
    _name_layers(model, part.module)
    return model


def ends_of(model: ir.Model) -> tuple[tuple[PartTensor, ...], tuple[PartTensor, ...]]:
    """Returns the inputs and outputs of a graph as a manifest states them."""
    return tensors_of(model.graph.inputs), tensors_of(model.graph.outputs)


def compare_with_torch(part: TorchPart, run: Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]) -> float:
    """Returns the largest absolute difference of a file's outputs from PyTorch's, over all checks.

    Args:
        part: The part.
        run: Runs the file.

    Raises:
        ModelError: it computes something else.
    """
    largest = 0.0
    for inputs in (part.inputs, *part.checks):
        found = run({name: tensor.numpy() for name, tensor in inputs.items()})
        for name, wanted, array in zip(part.outputs, part.run(inputs), found, strict=True):
            expected = wanted.numpy()
            if expected.shape != array.shape:
                raise ModelError(
                    f"the {part.name} part: output {name} is {array.shape}, PyTorch gives {expected.shape} for inputs "
                    f"{[tuple(tensor.shape) for tensor in inputs.values()]}"
                )
            difference = float(np.abs(array - expected).max(initial=0))
            if difference > TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0))):
                raise ModelError(
                    f"the {part.name} part: output {name} is up to {difference:.2g} off PyTorch's; report this model "
                    "to edgeq"
                )
            largest = max(largest, difference)
    return largest


def _name_layers(model: ir.Model, module: torch.nn.Module) -> None:
    """Names nodes by the torch modules whose weights they have, `layers.0.self_attn.q_proj`: the exporter numbers them.

    Of a weight some hundred values are compared.
    """
    from onnx_ir.passes.common import NameFixPass

    known = {}
    for name, tensor in module.named_parameters():
        array = tensor.detach().numpy()
        known[_fingerprint(array.T if array.ndim == 2 else array)] = known[_fingerprint(array)] = _module_of(name)
    for node in model.graph:
        weight = weight_of(node)
        if weight is not None and (module_name := known.get(_fingerprint(weight))):
            node.name = module_name
    NameFixPass()(model)


def _fingerprint(array: np.ndarray) -> tuple[object, ...]:
    """Returns the shape of an array and some of its values."""
    steps = tuple(slice(None, None, max(1, length // _COMPARED)) for length in array.shape)
    return array.shape, array[steps].tobytes()


def _module_of(parameter: str) -> str:
    """Returns the name of the module that has a parameter; a decoder's layers are in `body`."""
    return parameter.rpartition(".")[0].removeprefix("body.")


def _name_axes(model: ir.Model, part: TorchPart) -> None:
    """Gives the ends their free axes by name; everything between keeps its lengths, under the same names."""
    import onnx_ir as ir

    renamed = {}
    for value in model.graph.inputs:
        for axis, axis_name in part.axes.get(str(value.name), {}).items():
            assert value.shape is not None  # noqa: S101 - inputs have the shapes of the examples
            renamed[str(value.shape[axis])] = axis_name
    for value in _values(model):
        if value.shape is not None:
            value.shape = ir.Shape([renamed.get(str(each), each) for each in value.shape])
    for value, axes in zip(model.graph.outputs, part.outputs.values(), strict=True):
        if value.shape is not None:
            value.shape = ir.Shape([axes.get(axis, length) for axis, length in enumerate(value.shape)])


def _values(model: ir.Model) -> list[ir.Value]:
    return [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]


def tensors_of(values: Sequence[ir.Value]) -> tuple[PartTensor, ...]:
    """Returns inputs or outputs of a graph as a manifest states them."""
    found = []
    for value, spec in zip(values, specs(values), strict=True):
        shape = [] if value.shape is None else list(value.shape)
        axes = tuple(each if isinstance(each, int) else str(each) for each in shape)
        found.append(PartTensor(name=spec.name, dtype=spec.dtype, shape=axes))  # type: ignore[arg-type]
    return tuple(found)
