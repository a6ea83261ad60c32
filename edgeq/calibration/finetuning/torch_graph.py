"""Runs an ONNX graph in torch, so that gradients of its outputs reach its weights.

The operators are those of the TFLite conversion (`edgeq.exporting.tflite.onnx_operations`). A Q/DQ pair rounds to its
grid and passes gradients on (`edgeq.calibration.finetuning.fake_quantize`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.calibration.finetuning.fake_quantize import fake_quantize
from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import constant
from edgeq.exporting.tflite.onnx_node import OnnxNode
from edgeq.exporting.tflite.onnx_operations import OPERATIONS

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


class TorchGraph:
    """A float graph, with or without Q/DQ pairs of activations, as a function of torch.

    Args:
        model: The graph; it is not changed.
        given: Names of tensors that the caller computes, such as trained weights; what they were made from is not run.

    Attributes:
        inputs: Names of the graph's inputs.
        outputs: Names of the graph's outputs of floating point.
        steps: Name of a tensor with a Q/DQ pair -> its step, `()`.

    Raises:
        ModelError: the graph has operators that this cannot run; the message names them.
    """

    def __init__(self, model: ir.Model, given: Collection[str] = ()) -> None:
        import torch

        self.inputs = [str(value.name) for value in model.graph.inputs]
        self.outputs = [
            str(value.name)
            for value in model.graph.outputs
            if value.dtype is not None and value.dtype.is_floating_point()
        ]
        nodes = _needed(model, self.outputs, given)
        unknown = sorted({_kind(node) for node in nodes if _kind(node) not in OPERATIONS.keys() | _PAIR})
        if unknown:
            raise ModelError(f"the operators {', '.join(unknown)} have no gradient here")
        several = [node for node in nodes if node.op_type != "Split" and any(each.uses() for each in node.outputs[1:])]
        if several:
            raise ModelError(f"the further outputs of {several[0].op_type} {several[0].name!r} have no gradient here")
        self.steps: dict[str, torch.Tensor] = {}
        self._ends: dict[str, tuple[float, float]] = {}
        self._passed: set[str] = set()
        for node in nodes:
            if node.op_type == "QuantizeLinear":
                self._take_pair(node)
        self._nodes = [OnnxNode(node) for node in nodes]
        read = {name for node in self._nodes for name in node.inputs} - set(given)
        self._constants = {
            name: torch.from_numpy(np.array(array))
            for name, value in model.graph.initializers.items()
            if name in read and (array := constant(value)) is not None
        }

    def run(
        self, inputs: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], steps: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Returns the outputs for one set of inputs.

        Args:
            inputs: Every input, of the graph's own shape.
            given: What the caller computes.
            steps: The step of each tensor with a pair.
        """
        values: dict[str | None, Any] = {None: None}
        for known in (self._constants, inputs, given):
            values.update(known)
        for node in self._nodes:
            if node.op_type == "QuantizeLinear":
                name = str(node.inputs[0])
                results: Any = fake_quantize(values[name], steps[name], self._ends[name])
            elif node.outputs[0] in self._passed:
                results = values[node.inputs[0]]
            else:
                results = OPERATIONS[node.op_type](node, [values[name] for name in node.inputs])
            values.update(zip(node.outputs, [results] if hasattr(results, "shape") else results, strict=False))
        return {name: values[name] for name in self.outputs}

    def run_batch(
        self, inputs: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], steps: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Returns the outputs for several images, each as `run` computes it, with a further axis in front.

        Args:
            inputs: Every input, with an axis in front of the graph's own.
            given: As for `run`; the same for all images.
            steps: As for `run`.

        Raises:
            ModelError: an operator cannot be run in the form that the graph has it in.
        """
        import torch

        try:
            found: dict[str, torch.Tensor] = torch.vmap(lambda each: self.run(each, given, steps))(dict(inputs))
        except (ModelError, RuntimeError, ValueError, TypeError) as error:
            raise ModelError(f"the graph has no gradient here ({' '.join(str(error).split())[:200]})") from error
        return found

    def _take_pair(self, node: ir.Node) -> None:
        """Takes note of the grid of an activation; what stands behind its QuantizeLinear hands its numbers on."""
        import torch

        name = str(node.inputs[0].name) if node.inputs[0] is not None else ""
        scale, zero = (constant(value) for value in node.inputs[1:3])
        if scale is None or zero is None or scale.size != 1:
            raise ModelError(f"the pair of {name!r} has no single constant step")
        limits = np.iinfo(zero.dtype)
        low, high = int(limits.min), int(limits.max)
        behind = [use.node for use in node.outputs[0].uses()]
        while behind:
            reader = behind.pop()
            if reader.op_type == "Clip":
                low, high = (int(np.asarray(constant(value))) for value in reader.inputs[1:3])
                behind += [use.node for use in reader.outputs[0].uses()]
            self._passed.add(str(reader.outputs[0].name))
        self.steps[name] = torch.tensor(float(scale.reshape(())), dtype=torch.float32)
        self._ends[name] = float(low - int(zero.reshape(()))), float(high - int(zero.reshape(())))


def _kind(node: ir.Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _needed(model: ir.Model, outputs: Collection[str], given: Collection[str]) -> list[ir.Node]:
    """Returns the nodes that outputs depend on, in graph order; what is given needs none."""
    wanted, nodes = set(outputs), []
    for node in reversed(list(model.graph)):
        if any(value.name in wanted and value.name not in given for value in node.outputs):
            nodes.append(node)
            wanted.update(str(value.name) for value in node.inputs if value is not None)
    return nodes[::-1]
