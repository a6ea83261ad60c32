"""Runs an ONNX graph some nodes of which Python computes: ONNX Runtime runs what lies between, as it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.exporting.graphs.graph import infer_shapes
from edgeq.runtimes.base import Arrays

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

_LOG_FATAL = 4


@dataclass(frozen=True)
class Computed:
    """A node that Python computes.

    Attributes:
        inputs: Which of its inputs the function takes.
        function: Computes its only output.
    """

    inputs: tuple[int, ...]
    function: Callable[..., np.ndarray]


@dataclass(frozen=True)
class _Call:
    reads: tuple[str, ...]
    result: str
    function: Callable[..., np.ndarray]


@dataclass(frozen=True)
class _Stage:
    """Nodes that ONNX Runtime runs at once, and the computed nodes that can run behind them.

    Attributes:
        session: Of ONNX Runtime; `None` if no node is in it.
        reads: Names of the session's inputs.
        gives: Names of its outputs.
        computed: Inputs and output of each computed node, and its function.
    """

    session: Any
    reads: Sequence[str]
    gives: Sequence[str]
    computed: Sequence[_Call]


class StagedGraph:
    """A graph in stages.

    Args:
        model: The graph; shapes are inferred in place.
        computed: Name of a node's only output -> how Python computes it.

    Raises:
        Exception: of ONNX Runtime, where it cannot run a stage.
    """

    def __init__(self, model: ir.Model, computed: Mapping[str, Computed]) -> None:
        import onnx_ir as ir

        infer_shapes(model)
        proto = ir.to_proto(model)
        self._outputs = [value.name for value in proto.graph.output]
        depths = {value.name: 0 for value in proto.graph.input}
        levels: dict[int, list[onnx.NodeProto]] = {}
        behind: dict[int, list[_Call]] = {}
        for node in proto.graph.node:
            level = max((depths.get(name, 0) for name in _read(node)), default=0)
            if node.output[0] in computed:
                found = computed[node.output[0]]
                reads = tuple(node.input[index] for index in found.inputs)
                behind.setdefault(level, []).append(_Call(reads, node.output[0], found.function))
                depths[node.output[0]] = level + 1
            else:
                levels.setdefault(level, []).append(node)
                depths |= dict.fromkeys(node.output, level)
        wanted = set(self._outputs).union(name for calls in behind.values() for call in calls for name in call.reads)
        last = max([*levels, *behind], default=0)
        self._stages = [
            _stage(proto, levels.get(level, []), behind.get(level, []), wanted.union(*_reads_elsewhere(levels, level)))
            for level in range(last + 1)
        ]

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Returns output name -> array."""
        values = dict(inputs)
        for stage in self._stages:
            if stage.session is not None:
                given = {name: values[name] for name in stage.reads}
                values |= dict(zip(stage.gives, stage.session.run(list(stage.gives), given), strict=True))
            for call in stage.computed:
                values[call.result] = call.function(*(values[name] for name in call.reads))
        return {name: values[name] for name in self._outputs}


def _reads_elsewhere(levels: Mapping[int, list[onnx.NodeProto]], level: int) -> Iterator[set[str]]:
    for other, nodes in levels.items():
        if other != level:
            yield {name for node in nodes for name in _read(node)}


def _stage(
    proto: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    computed: Sequence[_Call],
    wanted: set[str],
) -> _Stage:
    import onnx
    import onnxruntime

    if not nodes:
        return _Stage(None, (), (), computed)
    graph = proto.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    made = {name for node in nodes for name in node.output if name}
    read = {name for node in nodes for name in _read(node) if name} - made
    constants = [value for value in graph.initializer if value.name in read]
    reads = sorted(read - {value.name for value in constants})
    gives = sorted(made & wanted)

    def infos(names: Sequence[str]) -> list[onnx.ValueInfoProto]:
        return [
            onnx.helper.make_tensor_value_info(name, types.get(name, onnx.TensorProto.FLOAT), None) for name in names
        ]

    part = onnx.helper.make_graph(list(nodes), "stage", infos(reads), infos(gives), constants)
    model = onnx.helper.make_model(part, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # of many sessions, each waits for the others
    options.log_severity_level = _LOG_FATAL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return _Stage(session, reads, gives, computed)


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Yields the names of what a node reads, its subgraphs among it."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            inner = {name for each in graph.node for name in each.output}
            for each in graph.node:
                yield from (name for name in _read(each) if name not in inner)
            yield from (value.name for value in graph.output if value.name not in inner)
