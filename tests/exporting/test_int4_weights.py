"""W4A8 files: half of INT8's bytes for weights, the same integers in both x86 engines' INT8 kernels."""

from __future__ import annotations

import dataclasses
from typing import get_args

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from edgeq.calibration.reconstruction import reconstruct as module
from edgeq.calibration.reconstruction.learning import Settings
from edgeq.calibration.source import CalibrationSource
from edgeq.errors import InputError
from edgeq.exporting.onnx.int4_weights import store_in_four_bits
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.options import ExportOptions, Rounding
from edgeq.exporting.passes.opset import raise_opset
from edgeq.exporting.planning.plan import QuantPlan, make_plan
from edgeq.exporting.planning.selection import select_layers
from edgeq.exporting.planning.wide_ends import with_wide_ends
from edgeq.inputs import items_of
from edgeq.quantizers import LEAST_SQUARE
from edgeq.sources.model import ModelRequest
from edgeq.targets import get_target
from edgeq.verbs.export import export_model
from edgeq.verbs.export_options import check_options
from tests.exporting import nets
from tests.exporting.test_qdq import ranges_for

pytestmark = pytest.mark.kernels

NET = """g (float[1,3,12,12] x) => (float[1,5] y) {
    a = Conv<pads=[1,1,1,1]>(x, w0, b0) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, w1, b0) d = Relu(c)
    e = ConvTranspose<strides=[2,2]>(d, w2, b2) f = Relu(e) p = GlobalAveragePool(f) q = Flatten(p) r = Gemm(q, w3, b3)
    s = Relu(r) y = Gemm(s, w4, b4) }"""
SHAPES = {
    "w0": (32, 3, 3, 3),
    "w1": (32, 32, 3, 3),
    "w2": (32, 6, 2, 2),
    "w3": (6, 7),
    "w4": (7, 5),
    **{"b0": (32,), "b2": (6,), "b3": (7,), "b4": (5,)},
}


def net() -> ir.Model:
    return nets.graph(NET, {name: nets.normal(seed, *shape) / 3 for seed, (name, shape) in enumerate(SHAPES.items())})


def plan_of(model: ir.Model, image: np.ndarray) -> QuantPlan:
    rules = dataclasses.replace(get_target("x86-openvino").rules.in_w4a8, isa="vnni")
    selection = with_wide_ends(model, select_layers(model, rules))
    return make_plan(model, selection, ranges_for(model, image, selection.tensors), rules, LEAST_SQUARE)


def in_openvino(model: ir.Model, image: np.ndarray) -> np.ndarray:
    import openvino

    core = openvino.Core()
    read = core.read_model(ir.to_proto(model).SerializeToString())
    found: np.ndarray = core.compile_model(read, "CPU", {"INFERENCE_NUM_THREADS": 1})(image)[0]
    return found


def test_both_engines_compute_as_if_the_integers_were_stored_in_eight_bits(tmp_path) -> None:
    image, rules = nets.normal(5, 1, 3, 12, 12), get_target("x86-openvino").rules
    model = net()
    plan = plan_of(model, image)
    raise_opset(model, 21)
    insert_qdq(model, plan, rules)
    narrow = nets.copy(model)
    assert store_in_four_bits(narrow, plan) == 3
    np.testing.assert_array_equal(in_openvino(narrow, image), in_openvino(model, image))
    for one, other in zip(nets.run(narrow, image, optimize=True), nets.run(model, image, optimize=True), strict=True):
        np.testing.assert_array_equal(one, other)
    operators = nets.operators_in_onnxruntime(narrow, tmp_path)
    assert operators == nets.operators_in_onnxruntime(model, tmp_path)
    assert operators["QLinearConv"] and not operators["Cast"]


def test_weights_are_stored_in_half_a_byte_on_their_grid_but_for_the_ends() -> None:
    image = nets.normal(5, 1, 3, 12, 12)
    model = net()
    plan = plan_of(model, image)
    raise_opset(model, 21)
    insert_qdq(model, plan, get_target("x86-openvino").rules)
    store_in_four_bits(model, plan)
    stored = {each.name: each for each in ir.to_proto(model).graph.initializer}
    four = {name: each for name, each in stored.items() if each.data_type == onnx.TensorProto.INT4}
    assert {name[:2] for name in four} == {"w1", "w2", "w3"}
    for name, each in four.items():
        integers = numpy_helper.to_array(each).astype(ml_dtypes.int4).astype(np.int8)
        assert len(each.raw_data) == (integers.size + 1) // 2
        assert integers.min() == -8 and integers.max() == 7
        real = nets.normal(list(SHAPES).index(name[:2]), *SHAPES[name[:2]]) / 3
        scale = numpy_helper.to_array(stored[f"{name[:2]}_scale"])
        axis = {"w1": 0, "w2": 1, "w3": 1}[name[:2]]
        spread = scale.reshape([-1 if each == axis else 1 for each in range(real.ndim)])
        np.testing.assert_array_equal(integers, np.clip(np.rint(real / spread), -8, 7))
    ends = [each.data_type for name, each in stored.items() if name in ("w0_quantized", "w4_quantized")]
    assert ends == [onnx.TensorProto.INT8] * 2


def test_targets_without_such_files_and_options_without_effect_are_refused() -> None:
    request = ModelRequest("m.onnx")
    with pytest.raises(InputError, match="`precision` w4a8: edgeq writes no such files for the engines of jetson-orin"):
        check_options(request, get_target("jetson-orin"), ("onnx",), ("w4a8",), None, ExportOptions())
    with pytest.raises(InputError, match="w4a8 needs ranges"):
        check_options(request, get_target("x86"), ("onnx",), ("w4a8",), None, ExportOptions())
    with pytest.raises(InputError, match="`rounding`: changes int8, w4a8 onnx files, and fp32 is asked for"):
        check_options(request, get_target("x86"), ("onnx",), ("fp32",), None, ExportOptions(rounding="reconstruct"))
    with pytest.raises(InputError, match="`rounding` up: wanted one of nearest, reconstruct"):
        check_options(
            request,
            get_target("x86"),
            ("onnx",),
            ("int8",),
            None,
            ExportOptions(rounding="up"),  # type: ignore[arg-type]
        )


def test_an_export_learns_on_its_images_and_says_what_it_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "Settings", lambda: Settings(iterations=60, positions=128))
    path = tmp_path / "net.onnx"
    onnx.save(ir.to_proto(net()), path)
    images = [nets.normal(seed, 3, 12, 12) for seed in range(12)]
    files = {}
    calibration = CalibrationSource(list(items_of(images, len(images))))
    for rounding in get_args(Rounding):
        request = ModelRequest(str(path))
        options = ExportOptions(rounding=rounding, isa="vnni")
        exported = export_model(
            request, "x86", ("int8", "w4a8"), tmp_path / rounding, calibration=calibration, options=options, threads=1
        )
        files[rounding] = {each.artifact.precision: each.artifact for each in exported.files}
    nearest, learned = files["nearest"]["w4a8"], files["reconstruct"]["w4a8"]
    assert nearest.path.stat().st_size < 0.75 * files["nearest"]["int8"].path.stat().st_size
    assert nearest.quantization["w4a8_nodes"] == 3 and "reconstruction" not in nearest.quantization
    for precision in ("int8", "w4a8"):
        facts = files["reconstruct"][precision].quantization["reconstruction"]
        assert (facts["images"], facts["held_out"], len(facts["units"])) == (12, 3, 5)
        assert facts["kept"] == (facts["output_error_learned"] < facts["output_error_nearest"])
        assert (files["reconstruct"][precision].digest != files["nearest"][precision].digest) == facts["kept"]
        # Learned weights make up for what layers before them give too much; biases must not do so again.
        assert ("corrected_biases" in files["reconstruct"][precision].quantization) != facts["kept"]
        assert files["nearest"][precision].quantization["corrected_biases"]
    assert learned.quantization["reconstruction"]["kept"]
