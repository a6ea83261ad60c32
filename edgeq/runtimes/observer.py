"""Runs a graph and hands out its activations: the float graph's, or those of a quantized one in exact arithmetic."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.errors import EngineError
from edgeq.exporting.graphs.float4 import write_out_float4
from edgeq.exporting.graphs.graph import copy_graph
from edgeq.exporting.graphs.weights import map_weights
from edgeq.exporting.signal.exact_products import spell_out_products
from edgeq.runtimes.base import Arrays

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporting.onnx.writer import FloatModel

_LOG_FATAL = 4


class ActivationObserver:
    """A float graph in ONNX Runtime with the observed tensors as outputs.

    Only tensors behind the engine's own fusions are asked for (the ReLU's output, not the Conv's), so the pass costs
    little more than a plain one.

    Args:
        graph: The float graph; it is not changed.
        names: Tensors to observe; graph inputs are allowed.
        threads: CPU threads; `None` leaves it to the engine.
    """

    _subject = "the float graph"

    def __init__(self, graph: ir.Model, names: Sequence[str], threads: int | None = None) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        inputs = {value.name for value in graph.graph.inputs}
        self._from_inputs = [name for name in names if name in inputs]
        self._computed = [name for name in names if name not in inputs]
        map_weights(graph)  # once for all observers of it
        observed = self._prepare(copy_graph(graph))
        existing = {value.name for value in observed.graph.outputs}
        values = {value.name: value for node in observed.graph for value in node.outputs}
        observed.graph.outputs.extend(values[name] for name in self._computed if name not in existing)
        options = self._options(onnxruntime)
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = _LOG_FATAL
        # Threads that spin between two runs would take the cores that count the last run's activations.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        proto, folder = map_weights(observed)
        if folder is not None:
            # Of a large model no second copy: it reads the weights where they are, and makes none in its own layout.
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
            options.add_session_config_entry("session.disable_prepacking", "1")
            # Both keep what they have once taken.
            options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        try:
            self._session = onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise EngineError(f"{self._subject} cannot be run: {error}") from error

    def _prepare(self, graph: ir.Model) -> ir.Model:
        """Returns what is run for a copy of the graph."""
        return graph

    def _options(self, engine: Any) -> Any:
        """Returns the engine's options, as far as they decide what is computed."""
        return engine.SessionOptions()

    def observe(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Returns tensor name -> float32 activations for one set of inputs.

        Raises:
            EngineError: the engine failed.
        """
        try:
            arrays = self._session.run(self._computed, inputs) if self._computed else []
        except Exception as error:
            raise EngineError(f"{self._subject} failed: {error}") from error
        return {name: inputs[name] for name in self._from_inputs} | dict(zip(self._computed, arrays, strict=True))


class ExactObserver(ActivationObserver):
    """As `ActivationObserver`, for a quantized graph as the ONNX specification has it computed.

    Without graph optimizations ONNX Runtime computes node by node: integers are dequantized, sums are those of float32
    (exact below 2**24 steps), and no kernel saturates. Its integer product of matrices does on some CPUs, so those
    products are spelled out.
    """

    _subject = "the quantized graph"

    def _prepare(self, graph: ir.Model) -> ir.Model:
        write_out_float4(graph)
        spell_out_products(graph)
        return graph

    def _options(self, engine: Any) -> Any:
        options = engine.SessionOptions()
        options.graph_optimization_level = engine.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options


def observe_graph(
    model: FloatModel, tensors: Sequence[str], threads: int | None = None
) -> Callable[[np.ndarray], Arrays]:
    """Returns what runs a float graph on an input `(1, C, H, W)` and hands out activations by tensor name.

    Raises:
        EngineError: ONNX Runtime cannot run the graph.
    """
    observer, image = ActivationObserver(model.graph, tensors, threads), model.input
    return lambda array: observer.observe({image.name: image.encode(array)})
