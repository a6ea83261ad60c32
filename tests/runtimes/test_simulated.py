"""The simulation of TensorRT's explicit route: exact integer sums, labels that say so, and no speed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.json_results import evaluate_artifacts
from edgeq.calibration.source import CalibrationSource
from edgeq.errors import EngineError, InputError
from edgeq.exporting.artifact import Artifact
from edgeq.runtimes import RUNTIMES, SIMULATED, default_runtime, is_installed, open_session, simulation_of
from edgeq.sources.artifact_file import open_artifact
from edgeq.sources.model import ModelRequest
from edgeq.targets import TARGETS, get_target
from edgeq.verbs.export import export_model

S_X, S_R, S_OUT = np.float32(0.05), np.float32(0.11), np.float32(0.07)


def residual_block(path: Path, weight: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> Artifact:
    """Writes `y = DQ(Q(relu(conv(DQ(Q(x))) + DQ(Q(identity)))))`, and returns it as an artifact."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,4,6,6] x, float[1,5,6,6] identity) => (float[1,5,6,6] y) {
        xq = QuantizeLinear(x, sx, z) xd = DequantizeLinear(xq, sx, z)
        wq = QuantizeLinear<axis=0>(w, sw, zw) wd = DequantizeLinear<axis=0>(wq, sw, zw)
        c = Conv<pads=[1,1,1,1]>(xd, wd, b)
        iq = QuantizeLinear(identity, sr, z) id = DequantizeLinear(iq, sr, z)
        s = Add(c, id) r = Relu(s) rq = QuantizeLinear(r, so, z) y = DequantizeLinear(rq, so, z) }"""
    proto = onnx.parser.parse_model(text)
    arrays = {
        "sx": S_X, "sr": S_R, "so": S_OUT, "z": np.int8(0), "w": weight, "sw": scale,
        "zw": np.zeros(len(scale), np.int8), "b": bias,
    }  # fmt: skip
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()
    )
    onnx.save(proto, path)
    return open_artifact(path)


def to_int8(values: np.ndarray, scale: np.ndarray | np.float32) -> np.ndarray:
    """Rounds half to even and cuts off at -128 and 127; int64."""
    return np.clip(np.rint(values.astype(np.float32) / scale), -128, 127).astype(np.int64)


def integer_reference(
    x: np.ndarray, identity: np.ndarray, weight: np.ndarray, scale: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """Returns the block's output before it is rounded, in steps of the last grid: int64 sums, float64 around them."""
    xq, wq = to_int8(x, S_X)[0], to_int8(weight, scale[:, None, None, None])
    padded = np.pad(xq, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    sums = np.einsum("chwij,ocij->ohw", windows, wq)
    assert sums.dtype == np.int64
    real = sums * (np.float64(S_X) * scale.astype(np.float64))[:, None, None] + bias.astype(np.float64)[:, None, None]
    real += to_int8(identity, S_R)[0] * np.float64(S_R)
    return np.asarray(np.maximum(real, 0) / np.float64(S_OUT))[None]


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.5, 2.0, 20.0]))
def test_a_residual_block_computes_what_exact_integers_give(tmp_path_factory, seed, spread):
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((5, 4, 3, 3)) * np.geomspace(0.01, 1, 5)[:, None, None, None]).astype(np.float32)
    scale = (np.abs(weight).reshape(5, -1).max(axis=1) / 127).astype(np.float32)
    bias = rng.standard_normal(5).astype(np.float32)
    x = (spread * rng.standard_normal((1, 4, 6, 6))).astype(np.float32)
    identity = (spread * rng.standard_normal((1, 5, 6, 6))).astype(np.float32)
    artifact = residual_block(tmp_path_factory.mktemp("block") / "block.onnx", weight, scale, bias)
    with open_session(artifact, "simulated-tensorrt", 1) as session:
        found = session.run({"x": x, "identity": identity})["y"] / S_OUT
    exact = integer_reference(x, identity, weight, scale, bias)
    wanted = np.clip(np.rint(exact), -128, 127)
    # Where the exact value lies halfway between two steps, FP32 may fall on the other side of it.
    clear = np.abs(np.abs(exact - np.floor(exact)) - 0.5) > 1e-4
    assert clear.mean() > 0.9
    np.testing.assert_allclose(found[clear], wanted[clear], atol=1e-5)


def test_halves_are_rounded_to_even_and_outliers_cut_off(tmp_path):
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[8] x) => (float[8] y) <float s = {1}, int8 z = {0}>
        { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"""
    )
    onnx.save(proto, tmp_path / "pair.onnx")
    with open_session(open_artifact(tmp_path / "pair.onnx"), "simulated-tensorrt", 1) as session:
        x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 200, -200, 127.4], np.float32)
        assert session.run({"x": x})["y"].tolist() == [0, 2, 2, 0, -2, 127, -128, 127]


def test_it_is_chosen_only_by_name(tmp_path):
    assert not RUNTIMES.keys() & SIMULATED.keys()
    assert simulation_of("jetson-orin") == simulation_of("jetson-orin-trt11") == "simulated-tensorrt"
    assert is_installed("simulated-tensorrt")
    rng = np.random.default_rng(0)
    artifact = residual_block(
        tmp_path / "a.onnx", rng.normal(size=(5, 4, 3, 3)).astype("f4"), np.ones(5, "f4"), np.ones(5, "f4")
    )
    assert default_runtime(artifact) not in SIMULATED
    for name in TARGETS:
        assert SIMULATED.keys().isdisjoint(get_target(name).runtimes)
    with pytest.raises(InputError, match=r"`simulate` x86: its engine openvino is not simulated, only .*tensorrt"):
        simulation_of("x86")


def test_what_tensorrt_would_refuse_is_not_simulated(tmp_path):
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[8] x) => (float[8] y) <float s = {1}, uint8 z = {128}>
        { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"""
    )
    onnx.save(proto, tmp_path / "pair.onnx")
    with pytest.raises(EngineError, match=r"integers of the type UINT8; wanted INT8 and 1 more; run: edgeq check"):
        open_session(open_artifact(tmp_path / "pair.onnx"), "simulated-tensorrt")


@pytest.fixture(scope="module")
def files(small_onnx, drawn, tmp_path_factory) -> list[Path]:
    """The FP32 and the INT8 file of a small CenterNet for the board."""
    request = ModelRequest(str(small_onnx), preset="centernet", opset=17)
    exported = export_model(
        request, "jetson-orin", ["int8"], tmp_path_factory.mktemp("jetson"),
        calibration=CalibrationSource(drawn.annotations, drawn.folder),
    )  # fmt: skip
    return [file.artifact.path for file in exported.files]


def test_scores_are_labelled_wherever_they_are_printed_and_have_no_speed(edgeq, drawn, files, tmp_path):
    done = edgeq(
        "eval", *files, "--annotations", drawn.annotations, "--images", drawn.folder, "--simulate", "jetson-orin",
        "--json", tmp_path / "scores.json",
    )  # fmt: skip
    assert done.code == 1 and "are meaningless" in done.err, "its weights are random, so it finds nothing"
    results = json.loads((tmp_path / "scores.json").read_text())
    for result in results:
        assert (result["obtained"], result["runtime"]) == ("simulated", "simulated-tensorrt")
        assert result["inference_images_per_s"] is result["eval_images_per_s"] is None
        assert "without graph optimizations in place of TensorRT" in result["environment"]["engine"]
    reported = edgeq("report", tmp_path / "scores.json", "--out", tmp_path / "report.md")
    for text in (done.out, reported.out, (tmp_path / "report.md").read_text()):
        assert text.count("simulated-tensorrt") >= 2
        assert "simulated with onnxruntime" in text
        assert " ms" not in text.split("AP and AR over")[0]


def test_simulated_scores_follow_the_file(drawn, files):
    simulated = evaluate_artifacts(files, drawn.annotations, drawn.folder, simulate="jetson-orin")
    measured = evaluate_artifacts(files[:1], drawn.annotations, drawn.folder, runtimes=["onnxruntime"])
    # FP32 is computed alike with and without optimizations; the detector is untrained, INT8 only has to run.
    assert simulated[0]["AP"] == pytest.approx(measured[0]["AP"], abs=1e-3)
    assert [result["precision"] for result in simulated] == ["fp32", "int8"]


def test_a_simulation_is_neither_timed_nor_mixed(edgeq, drawn, files):
    assert "a simulation has no latency" in edgeq("bench", files[0], "--runtime", "simulated-tensorrt").error
    refused = edgeq(
        "eval", files[0], "--annotations", drawn.annotations, "--images", drawn.folder, "--simulate", "jetson-orin",
        "--runtime", "onnxruntime",
    )  # fmt: skip
    assert "cannot be combined with --runtime" in refused.error


def test_an_artifact_of_no_target_can_be_simulated(files):
    artifact = dataclasses.replace(Artifact.load(files[1]), target="")
    with open_session(artifact, "simulated-tensorrt", 1) as session:
        assert session.environment()["compute_precision"] == "f32"
