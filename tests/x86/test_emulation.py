"""The emulated CPU is another one: engines saturate there as on a real CPU without VNNI, and what is exact stays exact.

These run in the emulator; in a plain test run they are skipped, except the last.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.machine import read_machine
from edgeq.runtimes import is_installed
from edgeq.runtimes.probe import EXPECTED, INPUT, ONNX, probe
from tests import exact
from tests.exporting import nets
from tests.x86.cpu import is_emulated

pytestmark = pytest.mark.kernels
emulated = pytest.mark.skipif(not is_emulated(), reason="this CPU is not emulated; see `make test-avx2`")

# All inputs and weights at the top of their range: every pair of products is beyond 16 bits.
LAYERS = {
    "Conv 3x3": ("float[1,16,8,8] x", "float[1,16,6,6] y", "Conv(a, w)", (16, 16, 3, 3)),
    "Conv 1x1": ("float[1,16,8,8] x", "float[1,16,8,8] y", "Conv(a, w)", (16, 16, 1, 1)),
    "first Conv": ("float[1,3,8,8] x", "float[1,16,6,6] y", "Conv(a, w)", (16, 3, 3, 3)),
    "Conv in groups": ("float[1,16,8,8] x", "float[1,16,6,6] y", "Conv<group=4>(a, w)", (16, 4, 3, 3)),
    "MatMul": ("float[4,32] x", "float[4,16] y", "MatMul(a, w)", (32, 16)),
}


def layer(name: str) -> tuple[ir.Model, np.ndarray]:
    """Returns one INT8 layer between Q/DQ pairs, and its input."""
    inputs, outputs, operator, shape = LAYERS[name]
    products = float(np.prod(shape) / 16)
    model = nets.graph(
        f"""g ({inputs}) => ({outputs}) {{
        q = QuantizeLinear(x, step, zero) a = DequantizeLinear(q, step, zero) w = DequantizeLinear(wq, wstep)
        c = {operator} r = QuantizeLinear(c, cstep, zero) y = DequantizeLinear(r, cstep, zero) }}""",
        {
            "step": np.array(1 / 255, np.float32), "zero": np.array(0, np.uint8), "wq": np.full(shape, 127, np.int8),
            "wstep": np.array(1 / 127, np.float32), "cstep": np.array(products / 255, np.float32),
        },
    )  # fmt: skip
    (value,) = model.graph.inputs
    assert value.shape is not None
    return model, np.ones(value.shape.numpy(), np.float32)


@emulated
def test_edgeq_sees_the_emulated_cpu():
    assert read_machine().cpu_features == ("avx2",)


@emulated
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_engines_saturate_there(runtime):
    if not is_installed(runtime):
        pytest.skip(f"{runtime} is not installed")
    # 144 products of 1.0; each pair 255 * 127 * 2 = 64770 is cut off at 32767.
    assert probe(runtime)["relative_error"] == pytest.approx(1 - 32767 / 64770, abs=0.005)


@emulated
@pytest.mark.parametrize("name", list(LAYERS))
def test_layers_of_onnxruntime_saturate_unless_told(name):
    import onnxruntime

    model, x = layer(name)
    plain = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,), (found,) = nets.run(model, x), plain.run(None, {"x": x})
    assert found.max() < 0.8 * wanted.max()


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("name", list(LAYERS))
def test_exact_sums_are_exact_on_any_cpu(name, optimize):
    model, x = layer(name)
    products = np.prod(LAYERS[name][3]) / 16
    (found,) = nets.run(model, x, optimize=optimize)
    np.testing.assert_allclose(found, products, rtol=1e-3)


def test_the_exact_runtime_is_exact_on_any_cpu():
    np.testing.assert_allclose(exact.outputs(ONNX, INPUT)["output"], EXPECTED, rtol=1 / 200)


@emulated
def test_child_processes_are_emulated_and_say_nothing_more():
    program = "from tests.x86.cpu import is_emulated; print(is_emulated())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
