from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgeq.calibration.finetuning.fake_quantize import fake_quantize
from edgeq.calibration.finetuning.torch_graph import TorchGraph
from edgeq.calibrators.grid import Grid
from edgeq.errors import ModelError
from edgeq.exporting.onnx.writer import FloatModel, engine_graph
from edgeq.runtimes.observer import ActivationObserver
from edgeq.schemes import Scheme
from edgeq.sources.model import ModelRequest, open_float_model
from edgeq.targets import get_target
from tests.exporting import nets

WHOLE_IMAGE_NET = (
    "g (float[1,3,12,12] x) => (float[1,5] y) { c = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w, b) r = HardSwish(c) "
    "p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) f = Reshape(p, shape) n = LayerNormalization(f, gain) "
    "m = MatMul(n, v) s = Softmax(m) z = Concat<axis=0>(token, s) y = ReduceSum<keepdims=1>(z, axes) }"
)
WEIGHTS = {
    "w": nets.normal(1, 8, 3, 3, 3), "b": nets.normal(2, 8), "shape": np.array([1, 72], np.int64),
    "gain": nets.normal(3, 72), "v": nets.normal(4, 72, 5), "token": nets.normal(5, 1, 5),
    "axes": np.array([0], np.int64),
}  # fmt: skip


def assert_same_as_onnxruntime(graph: ir.Model, inputs: np.ndarray) -> None:
    """Outputs of several images at once, against those of each alone; `inputs` has an axis in front."""
    found = TorchGraph(graph)
    (name,) = found.inputs
    with torch.no_grad():
        outputs = found.run_batch({name: torch.from_numpy(inputs)}, {}, {})
    observer = ActivationObserver(graph, found.outputs, 1)
    for index, image in enumerate(inputs):
        for output, expected in observer.observe({name: image}).items():
            tolerance = 1e-4 * np.abs(expected).max()
            np.testing.assert_allclose(outputs[output][index].numpy(), expected, atol=tolerance, rtol=0, err_msg=output)


def test_images_of_a_batch_are_computed_as_each_alone() -> None:
    assert_same_as_onnxruntime(nets.graph(WHOLE_IMAGE_NET, WEIGHTS), nets.normal(6, 3, 1, 3, 12, 12))


@pytest.mark.parametrize(
    "file", ["models/yunet_n_320.onnx", "models/ultraface_rfb320.onnx",
             "weights/yolox_nano_coco_416.onnx", "weights/fastestdet_coco_352.onnx"]
)  # fmt: skip
def test_real_models_compute_what_onnxruntime_does(shared_data: Path, file: str) -> None:
    model = open_float_model(ModelRequest(str(shared_data / file)))
    assert isinstance(model, FloatModel)
    graph = engine_graph(model, get_target("x86"))
    image = np.random.default_rng(7).random((1, 1, *model.preprocessing.input_shape), np.float32)
    low, high = model.preprocessing.value_range
    scaled = image * (high - low) + low if np.isfinite([low, high]).all() else image
    assert_same_as_onnxruntime(graph, scaled.astype(np.float32))


def test_an_operator_without_gradient_is_named() -> None:
    model = nets.graph("g (float[1,4] x) => (float[1,4] y) { i, j = TopK(x, k) y = Hardmax(i) }", {"k": np.array([4])})
    with pytest.raises(ModelError, match="Hardmax, TopK"):
        TorchGraph(model)


def test_rounding_is_the_grids_and_gradients_are_those_of_learned_steps() -> None:
    x = torch.tensor([-3.0, -0.26, 0.25, 0.35, 1.9, 9.0], requires_grad=True)
    step = torch.tensor(0.5, requires_grad=True)
    found = fake_quantize(x, step, (-2.0, 5.0))
    grid = Grid(0.5, 2, Scheme(bits=3, signed=False, symmetric=False))
    np.testing.assert_array_equal(found.detach().numpy(), grid.quantize(x.detach().numpy().astype(np.float64)))
    found.sum().backward()
    assert x.grad is not None and step.grad is not None
    np.testing.assert_array_equal(x.grad, [0.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    rounding = [-2.0, -1 + 0.52, 0 - 0.5, 1 - 0.7, 4 - 3.8, 5.0]
    np.testing.assert_allclose(step.grad.numpy(), np.sum(rounding), rtol=1e-5)
