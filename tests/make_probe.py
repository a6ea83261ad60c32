"""Builds `edgeq/data/probe.onnx`, the file that `edgeq doctor` runs: `python -m tests.make_probe`.

One INT8 convolution whose sums are as large as U8S8 sums can be: 255 times 127, over and over. A CPU without VNNI adds
two such products in 16 bits, where they saturate, and the result shows it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeq.runtimes.probe import ARTIFACT, EXPECTED, INPUT

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


if __name__ == "__main__":
    ARTIFACT.path.write_bytes(build().SerializeToString())
