"""The simulation of x86 CPUs without VNNI equals the engines on such a CPU, bit by bit, for every kind of kernel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.calibrators.grid import Grid
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.graph import infer_shapes, read_onnx, save_onnx, weight_of
from edgeq.exporting.saturation.kernels import paired_weight
from edgeq.inputs.images import read_image
from edgeq.machine import read_machine
from edgeq.quantizers.pair_sums import PairedWeight
from edgeq.quantizers.round_nearest import round_nearest
from edgeq.runtimes import is_installed, open_session, simulation_of
from edgeq.runtimes.observer import ActivationObserver
from edgeq.schemes import INT8_WEIGHT, PerAxis
from edgeq.sources.artifact_file import open_artifact
from tests.exact import saturates
from tests.exporting import nets

pytestmark = pytest.mark.kernels
without_vnni = pytest.mark.skipif(not saturates(read_machine()), reason="this CPU has VNNI; see `make test-avx2`")

STEP = 2048.0
"""A power of two: what is rounded to it is the same in every order of the multiplications."""


@dataclass(frozen=True)
class Kernel:
    """A layer: its operator, and the shapes of its input and weight.

    Attributes:
        operator: As ONNX text has it.
        x: Shape of the input.
        weight: Shape of the weight.
        zero: Zero point of the input.
        dtype: Type of the input.
        exact: The engines whose kernel for it does not saturate.
    """

    operator: str
    x: tuple[int, ...]
    weight: tuple[int, ...]
    zero: int = 0
    dtype: str = "uint8"
    exact: tuple[str, ...] = ()


BOTH = ("onnxruntime", "openvino")
KERNELS = {
    "3x3": Kernel("Conv<pads=[1,1,1,1]>", (2, 16, 7, 7), (32, 16, 3, 3)),
    "3x3, zero point": Kernel("Conv<pads=[1,1,1,1]>", (1, 16, 7, 7), (32, 16, 3, 3), 128),
    "3x3, high zero point": Kernel("Conv<pads=[1,1,1,1]>", (1, 16, 7, 7), (32, 16, 3, 3), 213),
    "3x3, signed": Kernel("Conv<pads=[1,1,1,1]>", (1, 16, 7, 7), (32, 16, 3, 3), 0, "int8"),
    "many channels": Kernel("Conv<pads=[1,1,1,1]>", (1, 70, 5, 5), (24, 70, 3, 3), 37),
    "stride and dilation": Kernel("Conv<strides=[2,2],dilations=[2,2],pads=[2,2,2,2]>", (1, 16, 9, 9), (8, 16, 3, 3)),
    "1-D": Kernel("Conv<pads=[1,1]>", (1, 16, 12), (24, 16, 3), 3),
    "1x1": Kernel("Conv", (1, 32, 6, 6), (48, 32, 1, 1), 17),
    "1x1, odd channels": Kernel("Conv", (1, 17, 6, 6), (24, 17, 1, 1), 17),
    "1x1, stride": Kernel("Conv<strides=[2,2]>", (1, 32, 6, 6), (48, 32, 1, 1), 17, exact=("openvino",)),
    "3x3, odd channels": Kernel("Conv<pads=[1,1,1,1]>", (1, 9, 6, 6), (24, 9, 3, 3), 17),
    "first": Kernel("Conv<strides=[2,2],pads=[1,1,1,1]>", (1, 3, 12, 12), (16, 3, 3, 3)),
    "first 7x7": Kernel("Conv<strides=[2,2],pads=[3,3,3,3]>", (1, 3, 14, 14), (24, 3, 7, 7), 114),
    "one channel": Kernel("Conv<pads=[1,1,1,1]>", (1, 1, 9, 9), (16, 1, 3, 3), 0, exact=("openvino",)),
    "depthwise": Kernel("Conv<group=16,pads=[1,1,1,1]>", (1, 16, 7, 7), (16, 1, 3, 3), exact=BOTH),
    "depthwise, multiplier 2": Kernel("Conv<group=16,pads=[1,1,1,1]>", (1, 16, 7, 7), (32, 1, 3, 3)),
    "groups": Kernel("Conv<group=4,pads=[1,1,1,1]>", (1, 16, 7, 7), (32, 4, 3, 3)),
    "groups, odd channels": Kernel("Conv<group=5,pads=[1,1,1,1]>", (1, 15, 7, 7), (30, 3, 3, 3), 128),
    "transposed": Kernel(
        "ConvTranspose<strides=[2,2],pads=[1,1,1,1]>", (1, 16, 6, 6), (16, 24, 4, 4), exact=("onnxruntime",)
    ),
    "transposed, signed": Kernel(
        "ConvTranspose<strides=[2,2],pads=[1,1,1,1]>", (1, 16, 6, 6), (16, 24, 4, 4), 0, "int8", ("onnxruntime",)
    ),
    "transposed, zero point": Kernel(
        "ConvTranspose<strides=[2,2],pads=[1,1,1,1]>", (1, 16, 6, 6), (16, 24, 4, 4), 9, exact=BOTH
    ),
    "Gemm": Kernel("Gemm", (5, 64), (64, 32), 5),
    "Gemm, odd": Kernel("Gemm<transB=1>", (5, 65), (17, 65), 128),
    "MatMul": Kernel("MatMul", (2, 7, 64), (64, 48)),
}  # fmt: skip


def made(kernel: Kernel, engine: str, folder: Path, seed: int) -> tuple[Artifact, np.ndarray]:
    """Returns a layer of random integers, and an input."""
    random = np.random.default_rng(seed)
    low = 0 if kernel.dtype == "uint8" else -128
    raw = random.integers(low, low + 256, kernel.x)
    raw[random.random(raw.shape) < 0.4] = low + 255
    weight = random.integers(-128, 128, kernel.weight)
    high = random.random(weight.shape) < 0.3
    weight[high] = random.choice([-128, 127], high.sum())
    artifact = written(kernel, weight.astype(np.int8), engine, folder)
    return artifact, (raw - kernel.zero).astype(np.float32)


def written(kernel: Kernel, weight: np.ndarray, engine: str, folder: Path) -> Artifact:
    """Writes a layer with all scales 1 but that of the output, and returns it.

    ONNX Runtime gets the pair behind it that its kernels want; OpenVINO gives the sums.
    """
    channels = kernel.weight[1 if "Transpose" in kernel.operator or kernel.operator in ("Gemm", "MatMul") else 0]
    free = ",".join("jklm"[: len(kernel.x)])
    ends = f"(float[{','.join(map(str, kernel.x))}] x) => (float[{free}] y)"
    bias = "" if kernel.operator == "MatMul" else ", b"
    paired = engine == "onnxruntime"
    tail = "r = QuantizeLinear(c, step, middle) y = DequantizeLinear(r, step, middle)" if paired else ""
    text = f"""g {ends} {{
        q = QuantizeLinear(x, one, zero) a = DequantizeLinear(q, one, zero) w = DequantizeLinear(wq, one, wzero)
        b = DequantizeLinear(bq, one, bzero) {"c" if paired else "y"} = {kernel.operator}(a, w{bias}) {tail} }}"""
    numbers = {
        "one": np.array(1, np.float32), "zero": np.array(kernel.zero, kernel.dtype), "wq": weight,
        "wzero": np.array(0, np.int8), "bzero": np.array(0, np.int32), "step": np.array(STEP, np.float32),
        "bq": np.random.default_rng(0).integers(-5000, 5000, channels).astype(np.int32),
        "middle": np.array(128, np.uint8),
    }  # fmt: skip
    model = nets.parse(text, numbers)
    path = folder / f"{engine}.onnx"
    infer_shapes(model)
    save_onnx(model, path)
    return open_artifact(path)


def answer(artifact: Artifact, runtime: str, x: np.ndarray) -> np.ndarray:
    """Returns the output of a file."""
    with open_session(artifact, runtime, 1) as session:
        (found,) = session.run({"x": x}).values()
    return found


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize("name", list(KERNELS))
def test_a_layer_saturates_where_the_engine_does(name, engine, tmp_path):
    kernel = KERNELS[name]
    artifact, x = made(kernel, engine, tmp_path, 1)
    simulated = answer(artifact, f"simulated-avx2-{engine}", x)
    lost = np.count_nonzero(simulated != answer(artifact, "simulated-narrow", x))
    assert bool(lost) is (engine not in kernel.exact)


@without_vnni
@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize("name", list(KERNELS))
def test_a_layer_is_what_the_engine_computes(name, engine, tmp_path):
    if not is_installed(engine):
        pytest.skip(f"{engine} is not installed")
    for seed in (1, 2):
        artifact, x = made(KERNELS[name], engine, tmp_path, seed)
        simulated, real = answer(artifact, f"simulated-avx2-{engine}", x), answer(artifact, engine, x)
        np.testing.assert_array_equal(simulated, np.rint(real))


@without_vnni
@pytest.mark.parametrize("engine", BOTH)
def test_layers_of_a_trained_detector_are_what_the_engine_computes(engine, shared_data, tmp_path):
    if not is_installed(engine):
        pytest.skip(f"{engine} is not installed")
    graph = read_onnx(shared_data / "weights" / "fastestdet_coco_352.onnx")
    layers = [node for node in graph.graph if paired_of(node) is not None][:14:2]
    image = read_image(sorted((shared_data / "coco" / "val2017").iterdir())[0])[:352, :352, ::-1] / 255
    x = np.zeros((1, 3, 352, 352), np.float32)
    x[0, :, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
    names = [str(value.name) for node in layers for value in node.inputs[:1] if value is not None]
    seen = ActivationObserver(graph, names, 1).observe({str(graph.graph.inputs[0].name): x})
    lost = 0
    for node, name in zip(layers, names, strict=True):
        held = weight_of(node)
        assert held is not None
        weight = round_nearest(held, INT8_WEIGHT.along(PerAxis(0)), {}).integers
        grid = Grid.asymmetric(min(0.0, float(seen[name].min())), float(seen[name].max()))
        values = np.rint(grid.quantize(seen[name].astype(np.float64)) / grid.scale).astype(np.float32)
        settings = ", ".join(
            f"{each}={list(node.attributes[each].as_ints())}" for each in ("pads", "strides") if each in node.attributes
        )
        kernel = Kernel(f"Conv<{settings}>", values.shape, weight.shape, grid.zero_point)
        artifact = written(kernel, weight, engine, tmp_path)
        simulated = answer(artifact, f"simulated-avx2-{engine}", values)
        np.testing.assert_array_equal(simulated, np.rint(answer(artifact, engine, values)))
        lost += int(np.count_nonzero(simulated != answer(artifact, "simulated-narrow", values)))
    assert lost > 1000


def paired_of(node: ir.Node) -> PairedWeight | None:
    """Returns how kernels pair a convolution's products."""
    weight = weight_of(node)
    return None if weight is None or node.op_type != "Conv" else paired_weight(node, weight.shape)


def test_a_target_names_its_simulation():
    assert simulation_of("x86-avx2") == "simulated-avx2-openvino"
    assert simulation_of("x86-ort-avx2") == "simulated-avx2-onnxruntime"
    with pytest.raises(InputError, match="`simulate` arm-avx2: its engine avx2-litert is not simulated"):
        simulation_of("arm-avx2")
