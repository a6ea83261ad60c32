"""The file of a trial: the float graph, in which each weight is the name of a file that holds it.

Such a file is a few kB, and is written in milliseconds however large the model is: an engine maps the weights where
they lie. For workers on other machines a file holds its weights itself. If activations have 8 bits, what quantized
layers read is rounded on a grid of 256 steps from its least to its largest value in this run, as dynamic quantization
does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.exporting.artifact import Artifact
from edgeq.files import sha256_bytes, write_bytes
from edgeq.studying.layers import StudyLayer
from edgeq.studying.space import LEFT_ALONE
from edgeq.studying.trials import StudyTrial
from edgeq.studying.weights import WeightBank

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, eq=False)
class Assembler:
    """Writes the files of trials.

    Attributes:
        float_file: The file of the float graph, in FP32.
        bank: The weights; their folder lies in that of the files.
        layers: The layers of the study.
        folder: Where files are written.
        whole: Whether files hold their weights themselves.
    """

    float_file: Artifact
    bank: WeightBank
    layers: tuple[StudyLayer, ...]
    folder: Path
    whole: bool = False

    def write(self, trial: StudyTrial, number: int) -> Artifact:
        """Returns the file of a trial, to be removed once it is scored.

        Args:
            trial: The trial.
            number: Names the file.

        Raises:
            InputError: the file cannot be written.
        """
        import onnx

        proto = onnx.ModelProto()
        proto.CopyFrom(self._skeleton)
        of_constant = {each.name: each for each in proto.graph.initializer}
        for layer in self.layers:
            path = self.bank.path(layer.name, trial.weights.get(layer.name))
            tensor = of_constant[layer.constant]
            if self.whole:
                tensor.raw_data = path.read_bytes()
            else:
                tensor.data_location = onnx.TensorProto.EXTERNAL
                location = tensor.external_data.add()
                location.key, location.value = "location", path.relative_to(self.folder).as_posix()
        if trial.activation != LEFT_ALONE:
            _quantize_inputs(proto.graph, trial.weights.keys())
        path, content = self.folder / f"{self.float_file.path.stem}.trial{number}.onnx", proto.SerializeToString()
        write_bytes(path, content)
        return dataclasses.replace(self.float_file, path=path, digest=sha256_bytes(content))

    @cached_property
    def _skeleton(self) -> onnx.ModelProto:
        """The float graph without the weights of its layers."""
        import onnx

        proto = onnx.load(self.float_file.path)
        constants = {layer.constant for layer in self.layers}
        for tensor in proto.graph.initializer:
            if tensor.name in constants:
                kept = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
                tensor.CopyFrom(kept)
        return proto


def _quantize_inputs(graph: onnx.GraphProto, layers: Collection[str]) -> None:
    """Rounds what some layers of a graph read to 8 bits, in place; layers that read the same share it."""
    import onnx

    rounded: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        if node.name in layers:
            source = node.input[0]
            if source not in rounded:
                rounded[source] = f"{source}/a8"
                integers = [f"{source}/a8.{part}" for part in ("integers", "scale", "zero")]
                nodes.append(onnx.helper.make_node("DynamicQuantizeLinear", [source], integers))
                nodes.append(onnx.helper.make_node("DequantizeLinear", integers, [rounded[source]]))
            node.input[0] = rounded[source]
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
