"""A float ONNX graph as a torch module, for the TFLite converter: it takes torch programs only.

Every operator is written out as the ONNX specification defines it, for the static shapes that edgeq's graphs have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import constant, specs
from edgeq.exporting.tflite.onnx_node import OnnxNode
from edgeq.exporting.tflite.onnx_operations import OPERATIONS

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch
    from torch import Tensor

    from edgeq.exporting.tensor_spec import Layout


def onnx_to_torch(model: ir.Model, layout: Layout = "NCHW") -> torch.nn.Module:
    """Returns a module that computes an ONNX graph: its inputs in order in, its outputs in order out.

    Args:
        model: A cleaned float graph with static shapes (`edgeq.exporting.graphs.graph.clean`, `infer_shapes`).
        layout: Where the graph has the channels of its input; the module takes `(N, C, H, W)`.

    Raises:
        ModelError: the graph has operators that this cannot take; the message names them.
    """
    unknown = sorted({_kind(node) for node in model.graph if _kind(node) not in OPERATIONS})
    if unknown:
        raise ModelError(
            f"the operators {', '.join(unknown)} of the ONNX graph cannot be converted to TFLite; convert from "
            "the torch model as package.module:factory, or replace them"
        )
    for node in model.graph:
        if node.op_type != "Split" and any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
            raise ModelError(f"{node.op_type} {node.name!r}: only its first output can be converted to TFLite")
    return _module_class()(model, layout)


def _kind(node: ir.Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _module_class() -> type[torch.nn.Module]:
    """Returns the module's class; it is made here because its base is torch's."""
    import torch

    class OnnxModule(torch.nn.Module):
        """Runs the nodes of an ONNX graph one by one."""

        def __init__(self, model: ir.Model, layout: Layout) -> None:
            super().__init__()
            self._channels_last = layout == "NHWC"
            self._shapes = [spec.shape for spec in specs(model.graph.inputs)]
            self._nodes = [OnnxNode(node) for node in model.graph]
            self._inputs = [str(value.name) for value in model.graph.inputs]
            self._outputs = [str(value.name) for value in model.graph.outputs]
            self._buffer_names: dict[str, str] = {}
            for index, (name, value) in enumerate(model.graph.initializers.items()):
                array = constant(value)
                if array is not None:
                    self._buffer_names[name] = f"constant_{index}"
                    self.register_buffer(f"constant_{index}", torch.from_numpy(np.array(array)))

        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            values: dict[str | None, Any] = {None: None}
            if self._channels_last:
                inputs = tuple(each.permute(0, 2, 3, 1) for each in inputs)
            taken = (
                each if None in shape or tuple(each.shape) == shape else each.reshape([length or 1 for length in shape])
                for each, shape in zip(inputs, self._shapes, strict=True)
            )
            values.update(zip(self._inputs, taken, strict=True))
            values.update({name: getattr(self, buffer) for name, buffer in self._buffer_names.items()})
            for node in self._nodes:
                results = OPERATIONS[node.op_type](node, [values[name] for name in node.inputs])
                if isinstance(results, torch.Tensor):
                    results = [results]
                values.update(zip(node.outputs, results, strict=False))
            return tuple(values[name] for name in self._outputs)

    return OnnxModule
