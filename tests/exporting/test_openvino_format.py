"""Files in OpenVINO's own format: the integers are ours, and the engine computes what they stand for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeq.errors import EngineError, InputError, MismatchError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.jobs import FileJob, PlannedWeight, QuantizedLayers
from edgeq.exporting.openvino.writer import write_file
from edgeq.exporting.options import ExportOptions
from edgeq.quantizers.round_nearest import round_nearest
from edgeq.runtimes import choose_runtimes, open_session
from edgeq.schemes import PerGroup, Scheme
from edgeq.sources.engine_specs import read_openvino_specs
from edgeq.sources.model import ModelRequest
from edgeq.targets import get_target
from edgeq.verbs.export_options import check_options
from tests.exporting import nets
from tests.exporting.test_low_bit import model_of

openvino = pytest.importorskip("openvino")

TARGET = get_target("x86-openvino")
NET = """g (float[2,3,8,8] x) => (float[2,16] y) {
    a = Conv<pads=[1,1,1,1]>(x, w0, b0) r = Relu(a) b = Conv(r, w1, b1) f = Flatten(b)
    c = Gemm<transB=1>(f, wc, bc) s = Relu(c) t = MatMul(s, wt) y = Gemm(t, wy, by) }"""
SHAPES = {
    "w0": (16, 3, 3, 3), "b0": (16,), "w1": (2, 16, 1, 1), "b1": (2,), "wc": (64, 128), "bc": (64,), "wt": (64, 32),
    "wy": (32, 16), "by": (16,),
}  # fmt: skip
QUANTIZED = ("w1", "wc", "wt", "wy")
X = nets.normal(99, 2, 3, 8, 8)


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> FileJob:
    folder = tmp_path_factory.mktemp("openvino")
    return FileJob(model_of(NET, SHAPES), TARGET, folder, ExportOptions(group_size=16))


@pytest.fixture(scope="module", params=["w4", "w8", "nf4"])
def written(request, job) -> Artifact:
    return write_file(dataclasses.replace(job, precision=request.param))


def scheme_of(precision: str) -> Scheme:
    if precision == "nf4":
        return Scheme(bits=4, signed=False, codebook="nf4", granularity=PerGroup(16, 1))
    return Scheme(bits=int(precision[1]), signed=False, symmetric=False, granularity=PerGroup(16, 1))


def by_hand(precision: str) -> np.ndarray:
    """Returns what the net computes with weights rounded to nearest, in float64."""
    weights = {name: nets.normal(seed, *shape) / 8 for seed, (name, shape) in enumerate(SHAPES.items())}
    for name in QUANTIZED:
        weight = weights[name]
        matrix = weight.T if name in ("wt", "wy") else weight.reshape(len(weight), -1)
        rounded = round_nearest(np.ascontiguousarray(matrix), scheme_of(precision), {}).dequantize()
        weights[name] = rounded.T if name in ("wt", "wy") else rounded.reshape(weight.shape)
    padded = np.pad(X.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    a = np.maximum(np.einsum("nchwij,ocij->nohw", windows, weights["w0"]) + weights["b0"][:, None, None], 0)
    b = np.einsum("nchw,oc->nohw", a, weights["w1"][:, :, 0, 0]) + weights["b1"][:, None, None]
    s = np.maximum(b.reshape(2, -1) @ weights["wc"].T + weights["bc"], 0)
    return np.asarray(s @ weights["wt"] @ weights["wy"] + weights["by"])


def test_the_engine_computes_what_the_integers_stand_for(written):
    settings = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    compiled = openvino.Core().compile_model(str(written.path), "CPU", settings)
    hand = by_hand(written.precision)
    np.testing.assert_allclose(compiled(X)["y"], hand, atol=2e-5 * np.abs(hand).max())
    # By default the plugin multiplies integers of 8 bits, or in BF16.
    assert choose_runtimes(written) == ["openvino"]
    with open_session(written, "openvino", threads=1) as session:
        assert np.abs(session.run({"x": X})["y"] - hand).max() < 0.03 * np.abs(hand).max()


def test_linear_layers_keep_their_numbers_in_the_engine(written):
    compiled = openvino.Core().compile_model(str(written.path), "CPU")
    kinds = [
        node.input(1).get_element_type().to_string()
        for node in compiled.get_runtime_model().get_ordered_ops()
        if node.get_input_size() > 1 and node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
    ]
    assert kinds == [{"w4": "u4", "w8": "u8", "nf4": "nf4"}[written.precision]] * 3


def test_a_manifest_knows_both_files_and_ends_are_read_without_it(written):
    loaded = Artifact.load(written.path)
    assert loaded.weights_path == written.path.with_suffix(".bin") and loaded.format == "openvino"
    assert loaded.size_bytes == sum(file.stat().st_size for file in (written.path, written.path.with_suffix(".bin")))
    facts = loaded.quantization_facts.low_bit
    assert facts is not None and (facts.form, facts.nodes, facts.convolutions) == ("decompression", 4, 1)
    assert list(loaded.quantization_facts.float_nodes.values()) == ["its 27 inputs are no multiple of groups of 16"]
    inputs, outputs = read_openvino_specs(written.path)
    assert [(each.name, each.shape, each.dtype) for each in (*inputs, *outputs)] == [
        ("x", (2, 3, 8, 8), "float32"), ("y", (2, 16), "float32"),
    ]  # fmt: skip


def test_weights_of_another_file_are_refused(job, tmp_path):
    written = write_file(dataclasses.replace(job, folder=tmp_path, precision="w4"))
    weights = written.path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[::-1])
    with pytest.raises(MismatchError):
        Artifact.load(written.path)
    weights.unlink()
    with pytest.raises(EngineError, match=r"its \.bin file has to lie next to it"):
        read_openvino_specs(written.path)


def test_methods_place_integers_and_leave_nf4_alone(job, tmp_path):
    seen: list[str] = []

    def quantize(_, planned: dict[str, PlannedWeight]) -> QuantizedLayers:
        seen.extend(planned)
        return QuantizedLayers({name: round_nearest(*each, {}) for name, each in planned.items()})

    given = dataclasses.replace(job, folder=tmp_path, quantize_layers=quantize)
    write_file(dataclasses.replace(given, precision="nf4"))
    assert not seen
    write_file(dataclasses.replace(given, precision="w4"))
    assert len(seen) == 4
    by_gptq = dataclasses.replace(given, precision="nf4", options=ExportOptions(weight_method="gptq"))
    with pytest.raises(InputError, match="numbers of nf4 are rounded to nearest"):
        write_file(by_gptq)


def test_the_format_is_written_for_openvino_alone_and_with_kernels_alone():
    request = ModelRequest("net.onnx")
    for target, form, precision, said in (
        ("x86-ort", "openvino", "w4", "`format` openvino: the target x86-ort takes onnx"),
        ("x86-openvino", "openvino", "w3", r"`precision` w3: known are w4, w8, nf4 \(openvino\)$"),
        ("x86-openvino", "onnx", "nf4", r"`precision` nf4: known are .*; choose `format` openvino$"),
    ):
        with pytest.raises(InputError, match=said):
            check_options(request, get_target(target), [form], [precision], None, ExportOptions())
