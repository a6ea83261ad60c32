"""The rules of `edgeq check`, each broken once; our own files break none, and those of ONNX Runtime several."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.tensorrt.check import Checked, check_graph, parse_version
from edgeq.exporting.tensorrt.strong_typing import to_fp16
from edgeq.targets import get_target
from tests.exporting import nets
from tests.exporting.tensorrt.test_explicit import CONCAT, CONCAT_WEIGHTS, PROJECTED
from tests.exporting.test_qdq import quantized
from tests.exporting.test_topology import RESIDUAL_DETECTOR, WEIGHTS

JETSON = get_target("jetson-orin").rules
TRT11 = get_target("jetson-orin-trt11").rules

CONSTANTS: dict[str, np.ndarray] = {
    "s": np.array(0.1, np.float32), "t": np.array(0.3, np.float32), "coarse": np.array(3, np.float32),
    "z": np.array(0, np.int8), "w": nets.normal(1, 8, 8, 3, 3), "b": nets.normal(2, 8),
    "ws": np.full(8, 0.01, np.float32), "wz": np.zeros(8, np.int8), "ones": np.ones(8, np.float32),
}  # fmt: skip
X = "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)"
W = "wq = QuantizeLinear<axis=0>(w, ws, wz) wd = DequantizeLinear<axis=0>(wq, ws, wz)"
CONV = "c = Conv<pads=[1,1,1,1]>(xd, wd, b)"


def check(body: str, version: str = "10.3", opset: int = 17, **constants: np.ndarray) -> list[tuple[str, str]]:
    """Returns rule and severity of what is found in a graph from `x` to `y`, both `(1, 8, 8, 8)`."""
    text = f"""<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>
        g (float[1,8,8,8] x) => (float[1,8,8,8] y) {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    arrays = {**CONSTANTS, **constants}
    used = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(arrays[name], name) for name in sorted(used & set(arrays))
    )
    return rules(check_graph(ir.from_proto(proto), parse_version(version)))


def rules(checked: Checked) -> list[tuple[str, str]]:
    assert all(finding.sentence and finding.node in finding.sentence for finding in checked.findings)
    return [(finding.rule, finding.severity) for finding in checked.findings]


def test_residual_pairs_are_for_int8_alone():
    """FP8 has none in our plans, and no engine that was seen fuses such a sum."""
    zeros = {name: np.zeros(shape, ml_dtypes.float8_e4m3fn) for name, shape in (("z", ()), ("wz", (8,)))}
    body = f"{X} {W} {CONV} i = Sigmoid(x) y = Add(c, i)"
    assert "T9" in {rule for rule, _ in check(body, version="11.0", opset=19)}
    assert "T9" not in {rule for rule, _ in check(body, version="11.0", opset=19, **zeros)}


def test_a_graph_by_the_rules_is_clean():
    assert check(f"{X} {W} {CONV} y = Relu(c)") == []
    assert check(f"{X} {W} {CONV} y = Relu(c)", version="8.6.1") == []


@pytest.mark.parametrize(
    ("version", "opset", "clean"),
    [
        ("8.6.1", 17, True), ("8.6.1", 18, False), ("10.3", 20, True), ("10.3", 21, False), ("10.9.0", 21, True),
        ("10.13", 23, True), ("10.12.1", 23, False), ("11.4", 23, True),
    ],
)  # fmt: skip
def test_opset(version, opset, clean):
    assert check("y = Relu(x)", version, opset) == ([] if clean else [("T1", "error")])


T7_TOO = ("T7", "error")


@pytest.mark.parametrize(
    ("body", "constants", "found"),
    [
        ("q, u, v = DynamicQuantizeLinear(x) y = DequantizeLinear(q, u, v)", {},
         {("T2", "error"), ("T3", "error"), ("T4", "error")}),
        ("y = com.microsoft.Gelu(x)", {}, {("T2", "error")}),
        ("xq = QuantizeLinear(x, s) y = DequantizeLinear(xq, s)", {}, {("T3", "advice")}),
        (f"{X} {W} {CONV} y = Relu(c)", {"z": np.array(0, np.uint8)}, {("T3", "error")}),
        (f"{X} {W} {CONV} y = Relu(c)", {"z": np.array(-3, np.int8)}, {("T3", "error")}),
        (f"{X} {W} {CONV} y = Relu(c)", {"s": np.array(0, np.float32)}, {("T4", "error")}),
        (f"{X} {W} {CONV} y = Relu(c)", {"s": np.array(np.inf, np.float32)}, {("T4", "error")}),
        (f"r = Abs(s) xq = QuantizeLinear(x, r, z) xd = DequantizeLinear(xq, r, z) {W} {CONV} y = Relu(c)", {},
         {("T4", "error")}),
        (f"xq = QuantizeLinear<axis=1>(x, ws, wz) xd = DequantizeLinear<axis=1>(xq, ws, wz) {W} {CONV} y = Relu(c)", {},
         {("T5", "error")}),
        (f"{X} {W.replace('axis=0', 'axis=1')} {CONV} y = Relu(c)", {}, {("T5", "error")}),
        (f"{X} {W} {CONV} y = Relu(c)", {"ws": np.full(4, 0.1, np.float32), "wz": np.zeros(4, np.int8)},
         {("T5", "error")}),
        (f"{X} {W} bd = DequantizeLinear(b, s) y = Conv<pads=[1,1,1,1]>(xd, wd, bd)", {"b": np.arange(8, dtype="i4")},
         {("T6", "error")}),
        (f"{X} y = Conv<pads=[1,1,1,1]>(xd, w)", {}, {T7_TOO}),
        (f"{W} y = Conv<pads=[1,1,1,1]>(x, wd)", {}, {T7_TOO}),
        (f"{X} {W} {CONV} cq = QuantizeLinear(c, t, z) cd = DequantizeLinear(cq, t, z) y = Relu(cd)", {},
         {("T8", "advice")}),
        (f"{X} {W} {CONV} i = Sigmoid(x) y = Add(c, i)", {}, {("T9", "advice")}),
        (f"{X} {W} {CONV} i = Sigmoid(c) y = Add(c, i)", {}, set()),  # the sum is not the only one that reads the layer
        (f"{X} {W} {CONV} cq = QuantizeLinear(c, t, z) cd = DequantizeLinear(cq, t, z) y = Add(cd, xd)", {},
         {("T9", "advice")}),
        (f"{X} xt = DequantizeLinear(xq, t, z) {W} {CONV} y = Add(c, xd) n = Relu(xt)", {}, {("T11", "error")}),
        (f"{X} v = QuantizeLinear(x, s, z) vd = DequantizeLinear(v, s, z) y = Add(xd, vd)", {}, {("T11", "advice")}),
        (f"{X} v = QuantizeLinear(xd, s, z) y = DequantizeLinear(v, s, z)", {}, {("T11", "advice")}),
        (f"{X} {W} y = ConvTranspose<pads=[1,1,1,1]>(xd, wd)", {}, {("T12", "error")}),
    ],
)  # fmt: skip
def test_each_rule_broken_once(body, constants, found):
    assert set(check(body, **constants)) == found


def joined(first: str, second: str, output: str) -> str:
    return f"""xq = QuantizeLinear(x, {first}, z) xd = DequantizeLinear(xq, {first}, z)
        p = Relu(x) pq = QuantizeLinear(p, {second}, z) pd = DequantizeLinear(pq, {second}, z)
        j = Concat<axis=1>(xd, pd) jq = QuantizeLinear(j, {output}, z) jd = DequantizeLinear(jq, {output}, z)
        vq = QuantizeLinear<axis=0>(v, ws, wz) vd = DequantizeLinear<axis=0>(vq, ws, wz) y = Conv(jd, vd)"""


def test_concat_wants_one_scale_and_no_mixed_ranges():
    wide = nets.normal(3, 8, 16, 1, 1)
    assert check(joined("s", "s", "s"), v=wide) == []
    assert check(joined("s", "t", "t"), v=wide) == [("T10", "advice")]
    assert check(joined("s", "coarse", "coarse"), v=wide) == [("T10", "advice"), ("T13", "advice")]


def test_a_zero_point_is_needed_by_tensorrt_8():
    assert check("xq = QuantizeLinear(x, s, z) y = DequantizeLinear(xq, s)", "8.6.1") == [("T3", "error")]


def test_fp32_scales_are_wrong_under_strong_typing_but_between_convolutions():
    assert set(check(f"{X} {W} {CONV} y = Relu(c)", "11.4", 19)) == {("T14", "advice")}
    assert ("T14", "error") in check(f"{X} {W} {CONV} g = Relu(c) r = Relu(xd) y = Add(g, r)", "11.4", 19)


@pytest.mark.parametrize(
    ("body", "constants", "rule"),
    [
        (f"{X} i = Identity(xd) {W} {CONV.replace('xd', 'i')} y = Relu(c)", {}, None),
        (f"{X} r = Relu(xd) {W} {CONV.replace('xd', 'r')} y = Relu(c)", {}, "T7"),
        (f"{X} {W.replace('axis=0', 'axis=1')} {CONV} y = Relu(c)", {}, "T5"),
        (f"{X} {W} y = ConvTranspose<pads=[1,1,1,1]>(xd, wd)", {}, "T12"),
        (f"{X} {W} {CONV} y = Relu(c)", {"z": np.array(0, np.uint8), "wz": np.zeros(8, np.int8)}, "T3"),
    ],
)
def test_weak_typing_refuses_what_strong_typing_computes_in_float(body, constants, rule):
    halves = {name: array.astype(np.float16) for name, array in CONSTANTS.items() if array.dtype == np.float32}
    strong = check(body, "11.0", 19, **(halves | constants))
    assert {found for found, _ in strong} == ({rule} if rule else set()) and "error" not in dict(strong).values()
    weak = check(body, "10.3", **constants)
    assert weak == [] if rule is None else (rule, "error") in weak


def test_the_sentence_says_what_was_found_and_what_is_wanted():
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[1,8,8,8] x, float s, int8 z) => (float[1,8,8,8] y)
        <float s = {0.5}, int8 z = {4}> { [q] a = QuantizeLinear(x, s, z) [d] y = DequantizeLinear(a, s, z) }"""
    )
    checked = check_graph(ir.from_proto(proto), (10, 3))
    assert [finding.sentence for finding in checked.findings] == [
        "QuantizeLinear q has the zero point 4; wanted zero, a symmetric grid",
        "DequantizeLinear d has the zero point 4; wanted zero, a symmetric grid",
    ]


@pytest.mark.parametrize(
    ("text", "weights", "shape"),
    [
        (RESIDUAL_DETECTOR, WEIGHTS, (1, 3, 16, 16)),
        (PROJECTED, WEIGHTS, (1, 8, 8, 8)),
        (CONCAT, CONCAT_WEIGHTS, (1, 3, 8, 8)),
    ],
)
def test_our_graphs_are_clean_in_both_typings(text, weights, shape):
    model, x = nets.graph(text, weights), nets.normal(9, *shape)
    result, plan = quantized(nets.in_opset(model, JETSON.opset), x, JETSON)
    checked = check_graph(nets.copy(result), (8, 6))
    assert checked.findings == ()
    kept = {decision.name for decision in plan.decisions if decision.is_float}
    assert set(checked.float_layers) == kept
    strong, _ = quantized(nets.in_opset(model, TRT11.opset), x, TRT11)
    to_fp16(strong)
    assert check_graph(strong, (11, 0)).findings == ()


def test_files_for_other_engines_are_not_for_tensorrt():
    model, x = nets.graph(RESIDUAL_DETECTOR, WEIGHTS | {}), nets.normal(9, 1, 3, 16, 16)
    result, _ = quantized(model, x, dataclasses.replace(get_target("x86").rules, output_pairs="none"))
    assert {finding.rule for finding in check_graph(result, (10, 3)).errors} == {"T3"}


def test_default_files_of_onnxruntime_break_rules(tmp_path: Path):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    biased = RESIDUAL_DETECTOR.replace("w0)", "w0, bias)")
    model = nets.graph(biased, WEIGHTS | {"bias": nets.normal(6, 8)})
    onnx.save(ir.to_proto(model), tmp_path / "float.onnx")

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"image": nets.normal(seed, 1, 3, 16, 16)} for seed in range(2)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    quantize_static(
        tmp_path / "float.onnx", tmp_path / "int8.onnx", Reader(),
        quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    found = {finding.rule for finding in check_graph(read_onnx(tmp_path / "int8.onnx"), (10, 3)).errors}
    assert {"T3", "T6"} <= found


@pytest.mark.parametrize("version", ["", "10", "ten", "10.3.0.26.1"])
def test_a_version_that_is_none(version):
    with pytest.raises(InputError, match=r"wanted a version such as 10\.3 or 8\.6\.1"):
        parse_version(version)
