"""Weights of an engine that are exchanged on the GPU. Without a driver the library builds no such engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.runtimes.cuda import Buffer, open_cuda
from edgeq.runtimes.observer import ExactObserver
from edgeq.runtimes.runner import make_inputs
from edgeq.runtimes.tensorrt.gpus import set_gpus
from edgeq.runtimes.tensorrt.library import TENSORRT_RTX, Messages, make_logger
from tests.gpu.small import gpu, relative_error, small_net
from tests.gpu.table import Row, judged

_CLOSE = 1e-2


def refit(folder: Path) -> list[Row]:
    """Gives an engine the weights of another model of the same shape."""
    trt, messages = TENSORRT_RTX.load(), Messages()
    logger = make_logger(trt, messages)
    first, second = (small_net(folder / "refit" / name, seed) for name, seed in (("first", 0), ("second", 1)))
    plan = _refittable(trt, logger, messages, first)
    if plan is None:
        return [judged("refit", "build", False, messages.said())]
    runtime = trt.Runtime(logger)  # which has to outlive the engine
    engine = runtime.deserialize_cuda_engine(serialized_engine=bytes(plan))
    if engine is None:
        return [judged("refit", "load", False, messages.said())]
    refitter = trt.Refitter(engine=engine, logger=logger)
    reader = trt.OnnxParserRefitter(refitter=refitter, logger=logger)
    read = reader.refit_from_bytes(model=second.path.read_bytes(), path=str(second.path))
    if not (read and refitter.refit_cuda_engine()):
        return [judged("refit", "weights", False, messages.said())]
    inputs = make_inputs(second)
    found = _run(engine, inputs, second)
    wanted, before = (ExactObserver(read_onnx(net.path), ["y"], 1).observe(inputs)["y"] for net in (second, first))
    new, old = relative_error(found, wanted), relative_error(found, before)
    return [judged("refit", "weights", new < _CLOSE < old, f"{new:.2e} from the new model, {old:.2e} from the old")]


def _refittable(trt: Any, logger: Any, messages: Messages, net: Artifact) -> Any:
    """Returns the serialized engine, or `None`."""
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model=net.path.read_bytes(), path=str(net.path)):
        return None
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.REFIT)
    config.clear_flag(trt.BuilderFlag.TF32)
    set_gpus(trt, config, [gpu()], messages)
    return builder.build_serialized_network(network=network, config=config)


def _run(engine: Any, inputs: dict[str, np.ndarray], net: Artifact) -> np.ndarray:
    """Returns the output of an engine that no file holds."""
    cuda, context = open_cuda(), engine.create_execution_context()
    stream = cuda.create_stream()
    held = {name: Buffer(cuda, array.shape, array.dtype) for name, array in inputs.items()}
    (output,) = net.outputs
    held[output.name] = Buffer(cuda, [length or 1 for length in output.shape], output.dtype)
    for name, array in inputs.items():
        np.copyto(held[name].host, array)
        context.set_input_shape(name, array.shape)
        held[name].upload(stream)
    for name, buffer in held.items():
        context.set_tensor_address(name, buffer.pointer)
    context.execute_async_v3(stream_handle=stream)
    held[output.name].download(stream)
    cuda.synchronize(stream)
    result: np.ndarray = held[output.name].host.copy()
    for buffer in held.values():
        buffer.free()
    cuda.destroy_stream(stream)
    return result
