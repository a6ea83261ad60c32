"""Builds `edgeq/data/device_test.onnx`, which `edgeq doctor --device-test` builds an engine of.

Run: `python -m tests.make_device_test`. Three convolutions of 32 channels, wide enough for INT8 kernels, by the rules
of TensorRT's parser: opset 17, int8 zero points of zero, float weights behind Q and DQ, a float bias.
"""

from __future__ import annotations

from typing import Any

import numpy as np

CHANNELS = 32
KERNELS = (3, 1, 3)
SIZE_PX = 32
# Measured ranges of the drawn weights on uniform inputs in -1..1, rounded up.
RANGES = (1.0, 2.6, 2.2)


def build(*, qdq: bool = True, batch: int | None = 1, opset: int = 17, extra: str | None = None) -> Any:
    """Returns the model, with the input `image` and the output `result`.

    Args:
        qdq: Whether it has Q/DQ nodes.
        batch: Size of the batch; `None` leaves it free.
        opset: Its opset.
        extra: Operator type of one more node at the end, in a domain that no engine knows.
    """
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(5)
    nodes, constants = [], {}

    def pair(source: str, scale: Any, axis: int | None = None) -> str:
        constants[f"{source}_scale"] = np.asarray(scale, np.float32)
        constants[f"{source}_zero"] = np.zeros(np.shape(scale), np.int8)
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        steps, values = f"{source}_steps", f"{source}_values"
        parameters = [f"{source}_scale", f"{source}_zero"]
        nodes.append(
            helper.make_node("QuantizeLinear", [source, *parameters], [steps], name=f"{source}_q", **attributes)
        )
        nodes.append(
            helper.make_node("DequantizeLinear", [steps, *parameters], [values], name=f"{source}_dq", **attributes)
        )
        return values

    source = "image"
    for index, kernel in enumerate(KERNELS):
        weight = rng.normal(0, (1 / (CHANNELS * kernel**2)) ** 0.5, (CHANNELS, CHANNELS, kernel, kernel))
        constants[f"weight{index}"] = weight.astype(np.float32)
        constants[f"bias{index}"] = rng.normal(0, 0.1, CHANNELS).astype(np.float32)
        inputs = [source, f"weight{index}"]
        if qdq:
            inputs = [
                pair(source, RANGES[index] / 127),
                pair(f"weight{index}", np.abs(weight).max(axis=(1, 2, 3)) / 127, axis=0),
            ]
        last = index == len(KERNELS) - 1
        sums = "result" if last and extra is None else f"sums{index}"
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", [*inputs, f"bias{index}"], [sums], name=f"conv{index}", pads=pads))
        source = sums
        if not last:
            source = f"relu{index}"
            nodes.append(helper.make_node("Relu", [sums], [source], name=f"activation{index}"))
    if extra is not None:
        nodes.append(helper.make_node(extra, [source], ["result"], name="strange", domain="nobody.knows"))
    shape = [batch or "batch", CHANNELS, SIZE_PX, SIZE_PX]
    graph = helper.make_graph(
        nodes,
        "device_test",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid("nobody.knows", 1)] if extra else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


if __name__ == "__main__":
    from edgeq.runtimes.tensorrt.selftest import MODEL

    MODEL.write_bytes(build().SerializeToString())
