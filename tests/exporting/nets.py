"""Small ONNX graphs, written as ONNX text, and a way to run them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from edgeq.exporting.passes.cleaning import clean
from edgeq.exporting.passes.opset import lower_opset, raise_opset
from tests import exact


def graph(text: str, weights: dict[str, np.ndarray] | None = None) -> ir.Model:
    """Returns the cleaned model of an ONNX text; `weights` become initializers."""
    model = parse(text, weights)
    clean(model)
    return model


def parse(text: str, weights: dict[str, np.ndarray] | None = None, *, opset: int = 18) -> ir.Model:
    """Returns the model of an ONNX text as it is written; `weights` become initializers."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in (weights or {}).items())
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


def run(model: ir.Model, *inputs: np.ndarray, optimize: bool = False) -> list[np.ndarray]:
    """Returns the outputs of a model in ONNX Runtime, in exact sums; without optimizations, which would do our work."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    exact.configure(options)
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    outputs: list[np.ndarray] = session.run(None, dict(zip(names, inputs, strict=True)))
    return outputs


def operators_in_onnxruntime(model: ir.Model, folder: Path) -> Counter[str]:
    """Returns how many operators of each type are left of a graph after ONNX Runtime's optimizations."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def copy(model: ir.Model) -> ir.Model:
    """Returns a deep copy."""
    return ir.from_proto(ir.to_proto(model))


def in_opset(model: ir.Model, opset: int) -> ir.Model:
    """Returns a cleaned copy in another opset."""
    result = copy(model)
    raise_opset(result, opset)
    clean(result)
    lower_opset(result, opset)
    clean(result)
    return result


def ops(model: ir.Model) -> list[str]:
    """Returns the operator types in graph order."""
    return [node.op_type for node in model.graph]


def normal(seed: int, *shape: int) -> np.ndarray:
    """Returns standard normal float32 values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def positive(seed: int, *shape: int) -> np.ndarray:
    """Returns float32 values in 0.5..2."""
    return np.random.default_rng(seed).uniform(0.5, 2, shape).astype(np.float32)
