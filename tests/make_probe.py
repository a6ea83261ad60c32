"""Builds `edgeq/data/probe.onnx` and `.tflite`, the files that `edgeq doctor` runs: `python -m tests.make_probe`.

One INT8 convolution whose sums are as large as U8S8 sums can be: 255 times 127, over and over. A CPU without VNNI adds
two such products in 16 bits, where they saturate, and the result shows it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeq.runtimes.probe import EXPECTED, INPUT, ONNX, TFLITE

CHANNELS = INPUT.shape[1]
STEPS_OF_INPUT = 255
STEPS_OF_WEIGHT = 127
STEPS_OF_OUTPUT = 200


def build() -> Any:
    """Returns the ONNX model: QuantizeLinear, Conv 3x3 between Q/DQ pairs, DequantizeLinear."""
    from onnx import TensorProto, helper, numpy_helper

    # Input 1.0 is step 255, weight 1.0 is step 127, and the output, the number of products, is step 200.
    constants = {
        "input_scale": np.float32(1 / STEPS_OF_INPUT),
        "zero": np.uint8(0),
        "weight": np.full((CHANNELS, CHANNELS, 3, 3), STEPS_OF_WEIGHT, np.int8),
        "weight_scale": np.float32(1 / STEPS_OF_WEIGHT),
        "weight_zero": np.int8(0),
        "output_scale": np.float32(CHANNELS * 9 / STEPS_OF_OUTPUT),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "input_scale", "zero"], ["input_steps"]),
        helper.make_node("DequantizeLinear", ["input_steps", "input_scale", "zero"], ["input_values"]),
        helper.make_node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["weight_values"]),
        helper.make_node("Conv", ["input_values", "weight_values"], ["sums"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("QuantizeLinear", ["sums", "output_scale", "zero"], ["output_steps"]),
        helper.make_node("DequantizeLinear", ["output_steps", "output_scale", "zero"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, INPUT.shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, EXPECTED.shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def build_tflite() -> bytes:
    """Returns the same as a TFLite file: QUANTIZE, CONV_2D, DEQUANTIZE, channel-last."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    kinds = ("QUANTIZE", "CONV_2D", "DEQUANTIZE")
    numbers = [getattr(schema.BuiltinOperator, kind) for kind in kinds]
    codes = [schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code, version=1) for code in numbers]
    codes[1].version = 3  # signed weights with a scale for each channel
    weight = np.full((CHANNELS, 3, 3, CHANNELS), STEPS_OF_WEIGHT, np.int8)
    bias = np.zeros(CHANNELS, np.int32)
    _, channels, height, width = INPUT.shape
    steps = {"input": 1 / STEPS_OF_INPUT, "weight": 1 / STEPS_OF_WEIGHT, "output": CHANNELS * 9 / STEPS_OF_OUTPUT}
    image, sums = (1, height, width, channels), (1, height - 2, width - 2, channels)
    tensors = [
        _tensor("input", image, "FLOAT32", 0, None),
        _tensor("input_steps", image, "INT8", 0, [steps["input"]], -128),
        _tensor("weight", weight.shape, "INT8", 1, [steps["weight"]] * CHANNELS),
        _tensor("bias", bias.shape, "INT32", 2, [steps["input"] * steps["weight"]] * CHANNELS),
        _tensor("output_steps", sums, "INT8", 0, [steps["output"]], -128),
        _tensor("output", sums, "FLOAT32", 0, None),
    ]
    convolution = schema.Conv2DOptionsT(padding=schema.Padding.VALID, strideW=1, strideH=1)
    operators = [
        schema.OperatorT(opcodeIndex=0, inputs=[0], outputs=[1]),
        schema.OperatorT(
            opcodeIndex=1, inputs=[1, 2, 3], outputs=[4],
            builtinOptionsType=schema.BuiltinOptions.Conv2DOptions, builtinOptions=convolution,
        ),
        schema.OperatorT(opcodeIndex=2, inputs=[4], outputs=[5]),
    ]  # fmt: skip
    graph = schema.SubGraphT(tensors=tensors, inputs=[0], outputs=[5], operators=operators)
    buffers = [schema.BufferT(), schema.BufferT(data=weight.view(np.uint8).ravel()),
               schema.BufferT(data=bias.view(np.uint8).ravel())]  # fmt: skip
    model = schema.ModelT(version=3, operatorCodes=codes, subgraphs=[graph], buffers=buffers)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _tensor(name: str, shape: Any, kind: str, buffer: int, scales: list[float] | None, zero_point: int = 0) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    quantization = None
    if scales is not None:
        quantization = schema.QuantizationParametersT(scale=scales, zeroPoint=[zero_point] * len(scales))
    return schema.TensorT(
        name=name.encode(), shape=list(shape), type=getattr(schema.TensorType, kind), buffer=buffer,
        quantization=quantization,
    )  # fmt: skip


if __name__ == "__main__":
    ONNX.path.write_bytes(build().SerializeToString())
    TFLITE.path.write_bytes(build_tflite())
