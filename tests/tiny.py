"""Small real models for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeq.exporting.artifact import Artifact, Preprocessing
from edgeq.exporting.tensor_spec import TensorSpec


def save_conv_net(
    path: Path, *, precision: str = "fp32", size_px: int = 16, channels: int = 8, depth: int = 2
) -> Artifact:
    """Writes Conv + ReLU `depth` times, with the outputs `last` and `first`, in this order; returns its artifact."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for index in range(depth):
        inputs = channels if index else 3
        weight = rng.normal(0, (2 / (9 * inputs)) ** 0.5, (channels, inputs, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"weight{index}"))
        source = f"relu{index - 1}" if index else "image"
        nodes.append(helper.make_node("Conv", [source, f"weight{index}"], [f"conv{index}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"conv{index}"], [f"relu{index}"]))
    nodes.append(helper.make_node("Identity", ["relu0"], ["first"]))
    nodes.append(helper.make_node("Identity", [f"relu{depth - 1}"], ["last"]))
    image, result = [1, 3, size_px, size_px], [1, channels, size_px, size_px]
    graph = helper.make_graph(
        nodes,
        "conv_net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, result) for name in ("first", "last")],
        weights,
    )
    # Newer onnx writes an IR version that released engines do not read.
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return Artifact(
        path=path,
        format="onnx",
        precision=precision,
        target="x86",
        inputs=(TensorSpec("image", "float32", tuple(image)),),
        outputs=(TensorSpec("last", "float32", tuple(result)), TensorSpec("first", "float32", tuple(result))),
        preprocessing=Preprocessing(
            height_px=size_px, width_px=size_px, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        ),
    ).save()


def conv_net_outputs(path: Path, image: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what the net of `save_conv_net` makes of an image, by onnx's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    names = ["last", "first"]
    return dict(zip(names, ReferenceEvaluator(str(path)).run(names, {"image": image}), strict=True))
