"""Files in OpenVINO's own format (IR) with weights of 4 and 8 bits, and NF4.

A layer reads Constant -> Convert -> Subtract -> Multiply -> Reshape: what OpenVINO calls compressed weights. Its CPU
plugin keeps the integers of linear layers, and computes the chain of convolutions when it loads the file. The integers
are edgeq's own: OpenVINO reads the float graph and writes the file, and compresses nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import edgeq
from edgeq.errors import EngineError, InputError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.file_pair import pair_written
from edgeq.exporting.graphs.graph import first_line, save_onnx
from edgeq.exporting.onnx.low_bit import GROUP_SIZE, WHOLE_GROUPS, bits_of, quantized_graph
from edgeq.exporting.onnx.low_bit_nodes import insert_low_bit_weights, packed
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.openvino.package import import_openvino
from edgeq.exporting.passes.order import for_loading, run_passes
from edgeq.files import atomic_path, sha256_file
from edgeq.quantizers.recipes import WITHOUT_INPUTS
from edgeq.schemes import PerGroup, Scheme

if TYPE_CHECKING:
    from edgeq.exporting.jobs import FileJob
    from edgeq.quantizers import QuantizedWeight

FORMAT, SUFFIX = "openvino", ".xml"
FORM = "decompression"
"""How linear layers hold their weights, as manifests have it."""


def write_file(job: FileJob) -> Artifact:
    """Returns the artifact of a float graph in `w4`, `w8` or `nf4`: an `.xml` file, and its weights in a `.bin` file.

    Raises:
        InputError: NF4 by a method that places integers.
        ModelError: no layer takes such weights.
        MissingDependencyError: OpenVINO is not installed.
        EngineError: OpenVINO does not read the graph.
    """
    model, options = job.model, job.options
    assert isinstance(model, FloatModel)  # noqa: S101 - files of this format are made from the graph
    engine = import_openvino("the format openvino")
    size = options.group_size or GROUP_SIZE
    scheme = _scheme(job.precision, size)
    quantize = job.quantize_layers
    if scheme.codebook is not None:
        if options.weight_method not in (None, WITHOUT_INPUTS):
            raise InputError(
                f"`weight_method` {options.weight_method}: numbers of nf4 are rounded to nearest; omit it, or choose w4"
            )
        quantize = None
    found = quantized_graph(
        model, job.target, FORM, scheme, job.kept, options.vit_plan, quantize, WHOLE_GROUPS["dequantize_linear"]
    )
    insert_low_bit_weights(found.graph, found.weights, "float")
    run_passes(found.graph, for_loading(job.target.rules))
    constants = {
        str(node.inputs[1].name): found.weights[str(node.name)]
        for node in found.graph.graph
        if str(node.name) in found.weights and node.inputs[1] is not None
    }
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "float.onnx"
        save_onnx(found.graph, source)
        try:
            read = engine.Core().read_model(str(source))
        except RuntimeError as error:
            raise EngineError(
                f"{model.name}: openvino does not read its graph ({first_line(error)}); choose `format` onnx"
            ) from error
        _compress(read, constants, engine)
        path = job.folder / f"{model.name}.{job.target.name}.{job.precision}{SUFFIX}"
        with pair_written(path):
            weights = _save(engine, read, path)
            (inputs, outputs), beside = model.ends, {"file": weights.name, "digest": sha256_file(weights)}
            return Artifact(
                path=path,
                format=FORMAT,
                precision=job.precision,
                target=job.target.name,
                inputs=inputs,
                outputs=outputs,
                preprocessing=model.preprocessing.declared,
                postprocessing=model.postprocessing,
                labels=model.labels,
                source_digest=model.digest,
                quantization={**found.facts, "weights_file": beside},
                tools={"edgeq": edgeq.__version__, "openvino": engine.__version__},
            ).save()


def _scheme(precision: str, size: int) -> Scheme:
    if precision == "nf4":
        return Scheme(bits=4, signed=False, codebook="nf4", granularity=PerGroup(size))
    return Scheme(bits=bits_of(precision), signed=False, symmetric=False, granularity=PerGroup(size))


def _save(engine: Any, model: Any, path: Path) -> Path:
    """Writes both files of a model, and returns that of its weights."""
    weights = path.with_suffix(".bin")
    with atomic_path(weights) as content, atomic_path(path) as network:
        engine.serialize(model, str(network), str(content))
    return weights


def _compress(model: Any, weights: dict[str, QuantizedWeight], engine: Any) -> None:
    """Gives the layers of a model compressed weights, in place; `weights` are named as the constants that they replace.

    The integers of a product lie as its outputs do, which is what the kernels take: it reads them transposed.
    """
    operators = engine.opset13
    for constant in [each for each in model.get_ordered_ops() if each.get_friendly_name() in weights]:
        quantized = weights[constant.get_friendly_name()]
        shape = list(constant.get_output_shape(0))
        for reader in constant.output(0).get_target_inputs():
            node = reader.get_node()
            # A Gemm reads `(out, in)` already.
            transposes = node.get_type_name() == "MatMul" and not node.get_attributes()["transpose_b"]
            numbers = _decompressed(quantized, shape[::-1] if transposes else shape, operators, engine)
            numbers.set_friendly_name(constant.get_friendly_name())
            if not transposes:
                reader.replace_source_output(numbers.output(0))
                continue
            first = node.input_value(0)
            product = operators.matmul(first, numbers, node.get_attributes()["transpose_a"], True)
            product.set_friendly_name(node.get_friendly_name())
            product.output(0).set_names(node.output(0).get_names())
            node.output(0).replace(product.output(0))
    model.validate_nodes_and_infer_types()


def _decompressed(quantized: QuantizedWeight, shape: list[int], operators: Any, engine: Any) -> Any:
    """Returns the node that gives a weight in FP32, of a shape whose first axis is that of the outputs."""
    outputs, inputs = quantized.integers.shape
    groups = quantized.scale.shape[1]
    kind = _type(quantized.scheme, engine)
    grouped = quantized.integers.reshape(outputs, groups, inputs // groups)
    numbers = operators.convert(_constant(grouped, quantized.scheme.bits, kind, engine), "f32")
    if quantized.scheme.codebook is None:
        zero = _constant(quantized.zero_point[..., None], quantized.scheme.bits, kind, engine)
        numbers = operators.subtract(numbers, operators.convert(zero, "f32"))
    scaled = operators.multiply(numbers, operators.constant(quantized.scale[..., None].astype(np.float32)))
    return operators.reshape(scaled, operators.constant(np.array(shape, np.int64)), False)


def _type(scheme: Scheme, engine: Any) -> Any:
    if scheme.codebook is not None:
        return engine.Type.nf4
    return engine.Type.u4 if scheme.bits == 4 else engine.Type.u8


def _constant(integers: np.ndarray, bits: int, kind: Any, engine: Any) -> Any:
    tensor = engine.Tensor(kind, engine.Shape(integers.shape))
    tensor.data.reshape(-1).view(np.uint8)[:] = packed(integers.reshape(-1), bits)
    return engine.op.Constant(tensor)
