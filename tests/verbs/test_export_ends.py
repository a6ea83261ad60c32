"""Whatever the types and names of a model's inputs and outputs: every file of every target has the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeq.calibration.source import CalibrationSource
from edgeq.errors import ModelError
from edgeq.exporting.ends import require_same_ends
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.inputs import items_of
from edgeq.runtimes import open_session
from edgeq.sources.artifact_file import open_artifact
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import get_target
from edgeq.tasks.detection.shapes import draw_image
from edgeq.verbs.export import export_model
from tests.exporting import nets

BODY = """
    c = Conv<pads=[1,1,1,1]>(i, w, b)  r = Relu(c)  e = Conv<pads=[1,1,1,1]>(r, v)  s = Relu(e)  h = Conv(s, u)
"""
WEIGHTS = {
    "w": nets.normal(0, 8, 3, 3, 3) / 5,
    "b": nets.normal(1, 8),
    "v": nets.normal(2, 8, 8, 3, 3) / 8,
    "u": nets.normal(3, 4, 8, 1, 1) / 3,
}
SOURCES = {
    "half": ("g (float16[1,3,16,16] i) => (float16[1,4,16,16] h) {" + BODY + "}", np.float16),
    "double": ("g (double[1,3,16,16] i) => (double[1,4,16,16] h) {" + BODY + "}", np.float64),
    "half inside": (
        "g (float[1,3,16,16] x) => (float[1,4,16,16] y) { i = Cast<to=10>(x)" + BODY + "y = Cast<to=1>(h) }",
        np.float16,
    ),
    "bytes": (
        "g (uint8[1,3,16,16] x) => (float[1,4,16,16] y) { f = Cast<to=1>(x)  i = Div(f, m)"
        + BODY
        + "y = Identity(h) }",
        np.float32,
    ),
    "cast, repeated, passed on": (
        "g (float[1,3,16,16] i) => (double[1,4,16,16] d, float[1,4,16,16] o, float[1,4,16,16] h, float[1,3,16,16] p) {"
        + BODY
        + "d = Cast<to=11>(h)  o = Dropout(h)  p = Identity(i) }",
        np.float32,
    ),
}


def _save(name: str, folder: Path) -> Path:
    text, dtype = SOURCES[name]
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    weights = {key: array.astype(dtype) for key, array in WEIGHTS.items()}
    if name == "bytes":
        weights["m"] = np.array(255, np.float32)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, key) for key, array in weights.items())
    for node in proto.graph.node:
        node.name = "/net/odd name:0 [é]" if name == "cast, repeated, passed on" else ""
    path = folder / "a model: é.onnx"
    onnx.save(proto, path)
    return path


def _request(source: Path, opset: int = 18) -> ModelRequest:
    return ModelRequest(str(source), preset=str(_preset(source.parent)), opset=opset)


def _preset(folder: Path) -> Path:
    path = folder / "preset.toml"
    path.write_text('[preprocessing]\nresize = "stretch"\nmean = [0.5, 0.4, 0.3]\nstd = [0.2, 0.3, 0.4]\n')
    return path


def _ends(path: Path) -> list[tuple[str, int]]:
    graph = onnx.load(path).graph
    return [(value.name, value.type.tensor_type.elem_type) for value in (*graph.input, *graph.output)]


def _calibration() -> CalibrationSource:
    return CalibrationSource(list(items_of([draw_image(1, index).pixels for index in range(3)], 3)), num=3)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *((name, "x86") for name in SOURCES),
        ("half", "jetson-orin-trt11"),
        ("cast, repeated, passed on", "jetson-orin-trt11"),
    ],
)
def test_files_take_and_give_what_the_model_does(name, target, tmp_path):
    source = _save(name, tmp_path)
    precisions = ["int8", "dynamic"] if target == "x86" else ["fp16", "int8"]
    request = _request(source, opset=get_target(target).rules.opset)
    result = export_model(request, target, precisions, tmp_path / "out", calibration=_calibration())
    assert [file.artifact.precision for file in result.files] == precisions
    for file in result.files:
        artifact = file.artifact
        assert _ends(artifact.path) == _ends(source)
        specs = (*artifact.inputs, *artifact.outputs)
        types = [(spec.name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))) for spec in specs]
        assert types == _ends(source)
        if artifact.precision == "int8" and name != "cast, repeated, passed on":
            assert artifact.quantization["int8_nodes"] == 2
            signal = file.comparison.signal
            assert signal is not None and min(output.snr_db for output in signal.outputs) > 28


def test_bytes_are_handed_out_as_they_are(tmp_path):
    source = _save("bytes", tmp_path)
    (file,) = export_model(_request(source), "x86", ["fp32"], tmp_path / "out").files
    assert file.artifact.preprocessing is not None and file.artifact.preprocessing.value_range == (0, 255)
    given = open_artifact(source, str(_preset(tmp_path)))
    assert given.preprocessing == file.artifact.preprocessing and given.inputs == file.artifact.inputs
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16)).astype(np.float32)
    encoded = given.inputs[0].encode(pixels)
    assert encoded.dtype == np.uint8 and (encoded == pixels).all()
    for artifact in (given, file.artifact):
        with open_session(artifact, "onnxruntime") as session:
            assert session.run({"x": encoded})["y"].shape == (1, 4, 16, 16)


def test_a_model_that_onnxruntime_cannot_run_is_compared_in_float32(tmp_path):
    (file,) = export_model(_request(_save("double", tmp_path)), "x86", ["fp32"], tmp_path / "out").files
    assert file.comparison.reference == "the float32 graph of a model: é.onnx"


def test_a_file_of_ours_is_the_same_model(tmp_path):
    for name in ("half", "bytes", "cast, repeated, passed on"):
        request = _request(_save(name, tmp_path))
        (file,) = export_model(request, "x86", ["fp32"], tmp_path / "out").files
        again = open_model(_request(file.artifact.path))
        assert again.model.digest == open_model(request).model.digest


X = TensorSpec("x", "float32", (None, 3, 8, 8))
Y = TensorSpec("y", "float16", (1, 4))


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([X], [Y, Y], "net: has 2 outputs and the model 1 "),
        ([], [Y], "net: has 0 inputs and the model 1 .x.; nothing was written"),
        ([X], [TensorSpec("z", "float16", (1, 4))], r"net: output 0 is 'z', float16 \(1, 4\), and .* 'y', float16"),
        ([X], [TensorSpec("y", "float32", (1, 4))], "output 0 is 'y', float32"),
        ([X], [TensorSpec("y", "int8", (1, 4))], "output 0 is 'y', int8"),
        ([X], [TensorSpec("y", "float16", (1, None))], r"output 0 is 'y', float16 \(1, \?\)"),
        ([X], [TensorSpec("y", "float16", (4,))], r"output 0 is 'y', float16 \(4\)"),
    ],
)
def test_other_ends_are_refused(inputs, outputs, message):
    with pytest.raises(ModelError, match=message):
        require_same_ends("net", (inputs, outputs), ([X], [Y]))


def test_what_was_asked_for_is_no_difference():
    require_same_ends("net", ([TensorSpec("x", "float32", (2, 3, 8, 8))], [Y]), ([X], [Y]))
    integers = [TensorSpec("y", "int8", (1, 4), scale=0.5)]
    require_same_ends("net", ([X], integers), ([X], [Y]), integers=True)
    with pytest.raises(ModelError, match="int8"):
        require_same_ends("net", ([X], integers), ([X], [Y]))
