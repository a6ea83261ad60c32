"""Computes the tensors of a graph over many inputs step by step, as far as they are asked for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import EngineError
from edgeq.exporting.graphs.graph import opset_of
from edgeq.exporting.graphs.subgraphs import captures

if TYPE_CHECKING:
    import onnx_ir as ir

_LOG_FATAL = 4


class Walk:
    """A graph on its way through all inputs: each node runs once.

    Tensors are kept while a later node reads them, or until they were asked for as often as they will be.
    Constants may change on the way: a node reads what they are when it runs.

    Args:
        model: The graph; it is not changed.
        feeds: Inputs of the graph, each by name, all of one shape.
        asked: Names of the tensors that `reach` will be asked for, each as often as it will be.
        threads: CPU threads of ONNX Runtime.
    """

    def __init__(
        self,
        model: ir.Model,
        feeds: Sequence[Mapping[str, np.ndarray]],
        asked: Iterable[str],
        threads: int | None = None,
    ) -> None:
        import onnx_ir as ir

        self._proto = ir.to_proto(model)
        self._opset = opset_of(model)
        self._threads = threads
        self._reads = [
            {str(value.name) for value in node.inputs if value is not None and value.name}
            | {str(each.value.name) for each in captures(node, model.graph)}
            for node in model.graph
        ]
        self._makes = {name: index for index, node in enumerate(self._proto.graph.node) for name in node.output if name}
        self._types = {
            str(value.name): int(value.dtype)
            for node in model.graph
            for value in node.outputs
            if value.dtype is not None
        }
        self._constants = {each.name: each for each in self._proto.graph.initializer}
        self._waiting = set(range(len(self._reads)))
        self._live: dict[str, list[np.ndarray]] = {name: [feed[name] for feed in feeds] for name in feeds[0]}
        self._count = len(feeds)
        self._asked = Counter(asked)

    def replace(self, constant: str, array: np.ndarray) -> None:
        """Sets a constant for the nodes that have not run yet."""
        from onnx import numpy_helper

        self._constants[constant] = numpy_helper.from_array(np.ascontiguousarray(array), constant)

    def reach(self, names: Collection[str]) -> dict[str, list[np.ndarray]]:
        """Returns tensor name -> its values for each input.

        Raises:
            EngineError: ONNX Runtime cannot run the nodes.
        """
        self._asked.subtract(names)
        nodes = self._needed(names)
        self._waiting -= nodes
        made = {name for index in nodes for name in self._proto.graph.node[index].output if name}
        kept = set[str]().union(*(self._reads[index] for index in self._waiting))
        kept |= {name for name, count in self._asked.items() if count > 0}
        wanted = sorted(made & (kept | set(names)))
        if wanted:
            self._live |= self._run(sorted(nodes), wanted)
        found = {name: self._live[name] for name in names}
        self._live = {name: arrays for name, arrays in self._live.items() if name in kept}
        return found

    def _needed(self, names: Collection[str]) -> set[int]:
        found: set[int] = set()
        waiting = [name for name in names if name not in self._live]
        while waiting:
            name = waiting.pop()
            index = self._makes.get(name)
            if name in self._live or index is None or index in found:
                continue
            found.add(index)
            waiting += self._reads[index]
        return found

    def _run(self, nodes: Sequence[int], wanted: Sequence[str]) -> dict[str, list[np.ndarray]]:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime
        from onnx import helper

        reads = set[str]().union(*(self._reads[index] for index in nodes))
        fed = sorted(name for name in reads if name in self._live)
        graph = helper.make_graph(
            [self._proto.graph.node[index] for index in nodes],
            "part",
            [helper.make_tensor_value_info(name, _element(self._live[name][0]), None) for name in fed],
            [helper.make_tensor_value_info(name, self._types[name], None) for name in wanted],
            [self._constants[name] for name in sorted(reads & self._constants.keys())],
        )
        part = helper.make_model(graph, opset_imports=self._proto.opset_import, ir_version=self._proto.ir_version)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads or 0
        options.log_severity_level = _LOG_FATAL
        # Pairs are computed as they are written: integer kernels round sums of integers otherwise.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(
                part.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            runs = [
                session.run(list(wanted), {name: self._live[name][index] for name in fed})
                for index in range(self._count)
            ]
        except Exception as error:
            raise EngineError(f"a part of the graph cannot be run: {error}") from error
        return {name: [run[position] for run in runs] for position, name in enumerate(wanted)}


def _element(array: np.ndarray) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(array.dtype))
