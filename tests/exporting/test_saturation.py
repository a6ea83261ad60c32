"""Files for x86 CPUs without VNNI: their sums stay within 16 bits on what calibration saw, in both engines."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.calibrators.ranges import Ranges
from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import constant, infer_shapes, read_onnx, save_onnx
from edgeq.exporting.onnx.dynamic import insert_dynamic
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.planning.plan import QuantPlan, make_dynamic_plan, make_plan
from edgeq.exporting.planning.selection import select_named
from edgeq.exporting.saturation.integer_layers import integer_layers
from edgeq.machine import read_machine
from edgeq.runtimes import open_session
from edgeq.schemes import INT8_WEIGHT, INT32, UINT8, LayerScheme
from edgeq.sources.artifact_file import open_artifact
from edgeq.targets import Rules, get_target
from edgeq.targets.isa import machine_isa, with_isa
from tests.exporting import nets
from tests.exporting.test_qdq import ranges_for

INT8 = LayerScheme(INT8_WEIGHT, UINT8, INT32)
NET = """g (float[1,3,16,16] image) => (float[1,10] y, float[1,6,16,16] z) {
    c0 = Conv<pads=[1,1,1,1]>(image, w0, b0) r0 = Relu(c0)
    c1 = Conv<pads=[1,1,1,1]>(r0, w1, b1) r1 = Relu(c1)
    p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(r1)
    z = ConvTranspose<strides=[2,2],pads=[1,1,1,1]>(p, wt, bt)
    m = GlobalAveragePool(r1) f = Flatten(m) y = Gemm(f, wg, bg) }"""
TENSORS = ("image", "r0", "r1", "m", "p", "y", "z")


def weights() -> dict[str, np.ndarray]:
    """Returns weights many of whose neighbours are large and of one sign."""
    random = np.random.default_rng(5)

    def draw(*shape: int) -> np.ndarray:
        signs = random.choice([-1, 1], (shape[0], *[1] * (len(shape) - 1)))
        return np.asarray(random.uniform(0.3, 1, shape) * signs, np.float32)

    return {
        "w0": draw(9, 3, 3, 3), "b0": draw(9), "w1": draw(12, 9, 3, 3) * 0.1, "b1": draw(12),
        "wt": np.abs(draw(12, 6, 4, 4)) * 0.1, "bt": draw(6), "wg": np.abs(draw(12, 10)), "bg": draw(10),
    }  # fmt: skip


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 1, (1, 3, 16, 16)).astype(np.float32)


def rules_for(isa: str) -> Rules:
    return with_isa(get_target("x86"), isa, read_machine()).rules


def net() -> ir.Model:
    return nets.graph(NET, weights())


def seen(model: ir.Model, image: np.ndarray) -> Ranges:
    """Returns ranges and the maxima of channels over one image."""
    observed = nets.copy(model)
    values = {str(value.name): value for node in observed.graph for value in node.outputs}
    observed.graph.outputs.extend(values[name] for name in ("r0", "p", "f"))
    *_, first, pooled, flat = nets.run(observed, image)
    maxima = {
        "image": image.max(axis=(0, 2, 3)), "r0": first.max(axis=(0, 2, 3)), "p": pooled.max(axis=(0, 2, 3)),
        "f": flat.max(axis=0),
    }  # fmt: skip
    ranges = ranges_for(model, image, TENSORS)
    return dataclasses.replace(ranges, channel_maxima={name: tuple(each.tolist()) for name, each in maxima.items()})


def written(isa: str, image: np.ndarray, folder: Path, *, known: bool = True) -> tuple[Path, QuantPlan]:
    """Writes the net with all layers in INT8."""
    model, rules = net(), rules_for(isa)
    layers = {str(node.name): INT8 for node in model.graph if node.op_type in ("Conv", "ConvTranspose", "Gemm")}
    ranges = seen(model, image)
    ranges = ranges if known else dataclasses.replace(ranges, channel_maxima={})
    plan = make_plan(model, select_named(model, rules, layers), ranges, rules)
    insert_qdq(model, plan, rules)
    infer_shapes(model)
    path = folder / f"{isa}.onnx"
    save_onnx(model, path)
    return path, plan


def answer(path: Path, runtime: str, image: np.ndarray) -> list[np.ndarray]:
    with open_session(open_artifact(path), runtime, 1) as session:
        return list(session.run({"image": image}).values())


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_file_for_any_cpu_is_exact_on_avx2_and_one_for_vnni_is_not(engine, image, tmp_path):
    for isa, is_exact in (("any", True), ("avx2", True), ("vnni", False), ("amx", False)):
        path, plan = written(isa, image, tmp_path)
        assert plan.saturation["isa"] == isa
        pairs = zip(
            answer(path, f"simulated-avx2-{engine}", image), answer(path, "simulated-narrow", image), strict=True
        )
        same = [np.allclose(found, wanted, rtol=1e-4, atol=1e-4) for found, wanted in pairs]
        assert all(same) is is_exact


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_without_maxima_every_channel_is_taken_to_reach_the_end(engine, image, tmp_path):
    path, plan = written("any", image, tmp_path, known=False)
    first, *others = integer_layers(read_onnx(path), engine)
    # The image's grid goes to twice its range.
    assert not first.can_saturate(128).any()
    assert not any(layer.can_saturate().any() for layer in others)
    assert plan.saturation["fitted_layers"] > 0


def test_the_first_convolution_keeps_its_weights_and_the_image_gets_half_the_levels(image, tmp_path):
    (_, plain), (_, safe) = (written(isa, image, tmp_path) for isa in ("vnni", "any"))
    first = next(iter(plain.weights))
    np.testing.assert_array_equal(safe.weights[first].integers, plain.weights[first].integers)
    assert safe.tensors["image"].scale == pytest.approx(2 * plain.tensors["image"].scale)
    assert safe.saturation["wide_grids"] == ["image"] and plain.saturation == {"isa": "vnni"}
    changed = [name for name in plain.weights if (safe.weights[name].scale > plain.weights[name].scale).any()]
    assert len(changed) == safe.saturation["fitted_layers"] == 3
    for name in changed:
        weight = constant(next(node for node in net().graph if node.name == name).inputs[1])
        assert np.abs(safe.weights[name].dequantize() - weight).max() <= safe.weights[name].scale.max() * 0.5001


def test_dynamic_products_are_exact_too(tmp_path):
    text = "g (float[5,64] x) => (float[5,16] y) { y = MatMul(x, w) }"
    random = np.random.default_rng(2)
    x, weight = (random.uniform(low, 1, shape).astype(np.float32) for low, shape in ((0, (5, 64)), (0.5, (64, 16))))
    found = {}
    for isa in ("any", "vnni"):
        rules = rules_for(isa)
        model = nets.graph(text, {"w": weight})
        layers = {str(node.name): INT8 for node in model.graph}
        insert_dynamic(model, make_dynamic_plan(model, select_named(model, rules, layers), rules))
        save_onnx(model, tmp_path / f"{isa}.onnx")
        artifact = open_artifact(tmp_path / f"{isa}.onnx")
        with open_session(artifact, "simulated-avx2-onnxruntime", 1) as session:
            (found[isa],) = session.run({"x": x}).values()
    wanted = x @ weight
    assert np.abs(found["any"] - wanted).max() < 0.02 * wanted.max()
    assert np.abs(found["vnni"] - wanted).max() > 0.05 * wanted.max()


@pytest.mark.parametrize(
    ("architecture", "features", "isa"),
    [
        ("x86_64", ("avx2",), "avx2"),
        ("x86_64", ("avx2", "avx512f"), "avx2"),
        ("x86_64", ("avx2", "avx_vnni"), "vnni"),
        ("x86_64", ("avx512_vnni",), "vnni"),
        ("x86_64", ("avx512_vnni", "amx_int8"), "amx"),
        ("aarch64", ("asimd",), None),
    ],
)
def test_files_are_for_this_machine_unless_told(architecture, features, isa):
    machine = dataclasses.replace(read_machine(), architecture=architecture, cpu_features=features)
    assert machine_isa(machine) == isa
    assert with_isa(get_target("x86"), None, machine).rules.isa == (isa or "any")
    assert with_isa(get_target("x86-ort"), "avx2", machine).rules.isa == "avx2"
    assert with_isa(get_target("arm"), None, machine) == get_target("arm")


def test_an_isa_that_means_nothing_is_refused():
    with pytest.raises(InputError, match="`isa` sse2: known are avx2, vnni, amx, any"):
        with_isa(get_target("x86"), "sse2", read_machine())
    with pytest.raises(InputError, match="`isa` avx2: jetson-orin has no x86 engines; omit `isa`"):
        with_isa(get_target("jetson-orin"), "avx2", read_machine())
