"""Models whose input is not one image `(1, 3, H, W)`: exported, equal to the file they come from, or refused truly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeq.calibration.source import CalibrationSource
from edgeq.errors import EdgeqError, InputError, ModelError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.inputs import items_of
from edgeq.runtimes import open_session
from edgeq.sources.artifact_file import open_artifact
from edgeq.sources.model import ModelRequest, open_model
from edgeq.tasks.detection.shapes import draw_image
from edgeq.verbs.export import export_model
from tests.exporting import nets

PREPROCESSING = '[preprocessing]\nresize = "stretch"\n'
GRAY = PREPROCESSING + 'channel_order = "gray"\n'
ARRAYS = '[inputs.x]\ntakes = "arrays"\n'

NCHW = "c1 = Conv<pads=[1,1,1,1]>({0}, w1) r = Relu(c1) c2 = Conv<pads=[1,1,1,1]>(r, w2) q = Relu(c2)"
TAIL = " g = GlobalAveragePool(q) f = Flatten(g) y = MatMul(f, m)"
IMAGE = np.stack([draw_image(2, index).pixels[:24, :24] for index in range(3)])

# An image in every rank and layout: text, preset, and what the file takes for an image (1, C, H, W).
IMAGES = {
    "channels last": (
        "g (float[1,12,16,3] x) => (float[1,5] y) { t = Transpose<perm=[0,3,1,2]>(x) " + NCHW.format("t") + TAIL + "}",
        PREPROCESSING,
        lambda image: image.transpose(0, 2, 3, 1),
    ),
    "channels last, free sides": (
        "g (float[N,H,W,3] x) => (float[N,5] y) { t = Transpose<perm=[0,3,1,2]>(x) " + NCHW.format("t") + TAIL + "}",
        PREPROCESSING + "height_px = 12\nwidth_px = 16\n",
        lambda image: image.transpose(0, 2, 3, 1),
    ),
    "fixed batch": (
        "g (float[8,3,12,16] x) => (float[8,5] y) {" + NCHW.format("x") + TAIL + "}",
        PREPROCESSING,
        lambda image: np.repeat(image, 8, 0),
    ),
    "no batch": (
        "g (float[3,12,16] x) => (float[1,5] y) { t = Unsqueeze(x, zero)" + NCHW.format("t") + TAIL + "}",
        PREPROCESSING,
        lambda image: image[0],
    ),
    "no batch, channels last": (
        "g (float[12,16,3] x) => (float[1,5] y) { p = Transpose<perm=[2,0,1]>(x) t = Unsqueeze(p, zero)"
        + NCHW.format("t") + TAIL + "}",
        PREPROCESSING,
        lambda image: image[0].transpose(1, 2, 0),
    ),
    "one plane": (
        "g (float[12,16] x) => (float[1,5] y) { t = Reshape(x, planes)" + NCHW.format("t") + TAIL + "}",
        GRAY + '[inputs.x]\nlayout = "NCHW"\n',
        lambda image: image[0, 0],
    ),
    "five axes": (
        "g (float[1,1,3,12,16] x) => (float[1,5] y) { t = Squeeze(x, zero)" + NCHW.format("t") + TAIL + "}",
        PREPROCESSING,
        lambda image: image[None],
    ),
    "every axis free": (
        "g (float[A,B,C,D] x) => (float[A,5] y) {" + NCHW.format("x") + TAIL + "}",
        PREPROCESSING + "height_px = 12\nwidth_px = 16\n",
        lambda image: image,
    ),
    "declared layout": (
        "g (float[1,3,16,3] x) => (float[1,5] y) { t = Transpose<perm=[0,3,1,2]>(x) " + NCHW.format("t") + TAIL + "}",
        PREPROCESSING + '[inputs.x]\nlayout = "NHWC"\n',
        lambda image: image.transpose(0, 2, 3, 1),
    ),
}  # fmt: skip


def save(folder: Path, text: str, preset: str = "", *, channels: int = 3, **weights: np.ndarray) -> ModelRequest:
    """Writes an ONNX text and a preset."""
    constants = {
        "w1": nets.normal(1, 8, channels, 3, 3),
        "w2": nets.normal(2, 8, 8, 3, 3),
        "m": nets.normal(3, 8, 5),
        "zero": np.array([0], np.int64),
        "planes": np.array([1, 1, 12, 16], np.int64),
        **weights,
    }
    used = {name: array for name, array in constants.items() if name in text.replace("(", " ").replace(",", " ")}
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in used.items())
    onnx.save(proto, folder / "model.onnx")
    (folder / "preset.toml").write_text(preset)
    return ModelRequest(str(folder / "model.onnx"), preset=str(folder / "preset.toml"))


def export(request: ModelRequest, data: list[np.ndarray], folder: Path) -> dict[str, Artifact]:
    """Returns precision -> artifact for x86."""
    source = CalibrationSource(list(items_of(data, 8)), method="minmax")
    result = export_model(request, "x86", ("fp32", "int8"), folder / "out", calibration=source)
    return {each.artifact.precision: each.artifact for each in result.files}


def answers(path: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, inputs)
    return outputs


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_goes_into_an_input_of_any_rank_and_layout(tmp_path, kind):
    text, preset, as_source = IMAGES[kind]
    request = save(tmp_path, text, preset, channels=1 if GRAY in preset else 3)
    artifacts = export(request, list(IMAGE), tmp_path)
    model = open_model(request).model
    image = np.linspace(0, 1, 3 * 12 * 16, dtype=np.float32).reshape(model.preprocessing.input_shape[0], -1)
    image = np.resize(image, (1, *model.preprocessing.input_shape))
    (expected,) = answers(tmp_path / "model.onnx", x=as_source(image))
    for artifact in artifacts.values():
        (spec,) = artifact.inputs
        assert (spec.name, spec.dtype, spec.shape) == ("x", "float32", as_source(image).shape)
        np.testing.assert_array_equal(spec.encode(image), as_source(image))
    with open_session(artifacts["fp32"], "onnxruntime") as session:
        np.testing.assert_allclose(session.run({"x": spec.encode(image)})["y"], expected, rtol=1e-4, atol=1e-4)
    assert artifacts["int8"].quantization["int8_nodes"] > 0
    assert artifacts["int8"].quantization["signal"]["outputs"][0]["snr_db"] > 15


TWO_INPUTS: dict[str, tuple[str, str, dict[str, np.ndarray]]] = {
    "a scale as Paddle has it": (
        "g (float[N,3,12,16] x, float[N,2] scale_factor) => (float[N,2] y) {"
        + NCHW.format("x") + TAIL.replace("y =", "z =") + " s = Slice(z, zero, two, one) y = Div(s, scale_factor) }",
        "[inputs.scale_factor]\nvalue = [[2.0, 4.0]]\n",
        {"scale_factor": np.array([[2, 4]], np.float32)},
    ),
    "sizes as integers": (
        "g (int64[1,2] sizes, float[1,3,12,16] x) => (float[1,2] y) {"
        + NCHW.format("x") + TAIL.replace("y =", "z =") + " s = Slice(z, zero, two, one)"
        "  f2 = Cast<to=1>(sizes) y = Mul(s, f2) }",
        "[inputs.sizes]\nvalue = [[480, 640]]\n",
        {"sizes": np.array([[480, 640]], np.int64)},
    ),
    "a mask of free sides, one number for all": (
        "g (float[N,3,12,16] x, bool[N,h,w] mask) => (float[N,5] y) { u = Unsqueeze(mask, one) v = Cast<to=1>(u)"
        " k = Mul(x, v)" + NCHW.format("k") + TAIL + "}",
        "[inputs.mask]\nvalue = true\nshape = [1, 12, 16]\n",
        {"mask": np.ones((1, 12, 16), bool)},
    ),
    "a scalar": (
        "g (float[1,3,12,16] x, float threshold) => (float[1,5] y) {"
        + NCHW.format("x") + TAIL.replace("y =", "z =") + " y = Max(z, threshold) }",
        "[inputs.threshold]\nvalue = 0.25\n",
        {"threshold": np.array(0.25, np.float32)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TWO_INPUTS)
def test_an_input_with_a_value_is_a_constant_of_the_file(tmp_path, kind):
    text, preset, others = TWO_INPUTS[kind]
    request = save(tmp_path, text, PREPROCESSING + preset, two=np.array([2], np.int64), one=np.array([1], np.int64))
    artifacts = export(request, list(IMAGE), tmp_path)
    image = nets.positive(1, 1, 3, 12, 16)
    (expected,) = answers(tmp_path / "model.onnx", x=image, **others)
    for artifact in artifacts.values():
        assert [spec.name for spec in artifact.inputs] == ["x"]
    with open_session(artifacts["fp32"], "onnxruntime") as session:
        np.testing.assert_allclose(session.run({"x": image})["y"], expected, rtol=1e-4, atol=1e-4)
    assert artifacts["int8"].quantization["int8_nodes"] > 0


def test_another_value_is_another_model(tmp_path):
    text, preset, _ = TWO_INPUTS["a scalar"]
    digests = set()
    for number in ("0.25", "0.5"):
        request = save(tmp_path, text, PREPROCESSING + preset.replace("0.25", number))
        digests.add(open_model(request).model.digest)
    assert len(digests) == 2


ARRAY_MODELS = {
    "1-D": ("g (float[16] x) => (float[8] y) { y = MatMul(x, w) }", (16,), (16, 8)),
    "2-D": ("g (float[N,16] x) => (float[N,8] y) { y = MatMul(x, w) }", (16,), (16, 8)),
    "3-D": ("g (float[1,6,16] x) => (float[1,6,8] y) { y = MatMul(x, w) }", (6, 16), (16, 8)),
    "4 channels": ("g (float[1,4,6,6] x) => (float[1,8,4,4] y) { y = Conv(x, w) }", (4, 6, 6), (8, 4, 3, 3)),
    "5-D": ("g (float[1,3,4,6,6] x) => (float[1,8,2,4,4] y) { y = Conv(x, w) }", (3, 4, 6, 6), (8, 3, 3, 3, 3)),
    "a batch of 4": ("g (float[4,16] x) => (float[4,8] y) { y = MatMul(x, w) }", (4, 16), (16, 8)),
}


@pytest.mark.parametrize("kind", ARRAY_MODELS)
def test_prepared_arrays_of_any_shape(tmp_path, kind):
    text, shape, weight = ARRAY_MODELS[kind]
    request = save(tmp_path, text, ARRAYS, w=nets.normal(1, *weight))
    arrays = nets.normal(2, 4, *shape)
    for index, array in enumerate(arrays):
        np.save(tmp_path / f"{index}.npy", array if index % 2 else array[None])
    source = CalibrationSource(tmp_path, method="minmax")
    files = export_model(request, "x86", ("fp32", "int8"), tmp_path / "out", calibration=source).files
    (spec,) = files[0].artifact.inputs
    (expected,) = answers(tmp_path / "model.onnx", x=spec.encode(arrays[:1]))
    with open_session(files[0].artifact, "onnxruntime") as session:
        np.testing.assert_allclose(session.run({"x": spec.encode(arrays[:1])})["y"], expected, rtol=1e-4, atol=1e-4)
    assert files[1].comparison.cosine > 0.99
    memory = export_model(
        request, "x86", ("int8",), tmp_path / "memory",
        calibration=CalibrationSource(list(items_of(arrays, 4, len(shape))), method="minmax"),
    )  # fmt: skip
    assert memory.files[0].artifact.digest == files[1].artifact.digest


REFUSED = {
    "two images": (
        "g (float[1,3,8,8] left, float[1,3,8,8] right) => (float[1,3,8,8] y) { y = Add(left, right) }", PREPROCESSING,
        ModelError,
        r"takes 2 inputs \(left \(1, 3, 8, 8\), right \(1, 3, 8, 8\)\), and edgeq fills one of them; give each other "
        r"one a value in the preset: \[inputs\.right\] value = ",
    ),
    "a side input": (
        "g (float[1,3,8,8] x, float[1,2] im_shape) => (float[1,3,8,8] y) { y = Relu(x) z = Relu(im_shape) }",
        PREPROCESSING, ModelError, r"im_shape \(1, 2\).*: \[inputs\.im_shape\] value = ",
    ),
    "an unknown input": (
        "g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu(x) }", "[inputs.scale]\nvalue = 1\n", InputError,
        r"has no input 'scale', which the preset declares under \[inputs\]; its inputs are x \(1, 3, 8, 8\)",
    ),
    "all inputs constant": (
        "g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu(x) }", "[inputs.x]\nvalue = 1\n", InputError,
        r"gives each of its inputs a value \(x \(1, 3, 8, 8\)\); leave out that of the input that takes the images",
    ),
    "a value of another shape": (
        "g (float[1,3,8,8] x, float[1,2] s) => (float[1,3,8,8] y) { y = Relu(x) z = Relu(s) }",
        "[inputs.s]\nvalue = [1.0, 2.0]\n", InputError,
        r"\[inputs\.s\]: its value has the shape \(2,\), and the model takes s \(1, 2\)",
    ),
    "a fraction for integers": (
        "g (float[1,3,8,8] x, int64[1] s) => (float[1,3,8,8] y) { y = Relu(x) z = Abs(s) }",
        "[inputs.s]\nvalue = [1.5]\n", InputError, r"\[inputs\.s\]: \[1\.5\] does not fit int64",
    ),
    "one number for a free shape": (
        "g (float[1,3,8,8] x, float[N,H] s) => (float[1,3,8,8] y) { y = Relu(x) z = Relu(s) }",
        "[inputs.s]\nvalue = 1\n", InputError, r"one number is to fill s \(\?, \?\); write its lengths too: shape = ",
    ),
    "four channels": (
        "g (float[1,4,8,8] x) => (float[1,4,8,8] y) { y = Relu(x) }", PREPROCESSING, ModelError,
        r'the input x \(1, 4, 8, 8\) takes no image: .*write \[inputs\.x\] takes = "arrays" in the preset',
    ),
    "features": (
        "g (float[1,8] x) => (float[1,8] y) { y = Relu(x) }", PREPROCESSING, ModelError,
        r'the input x \(1, 8\) takes no image: .*\[inputs\.x\] takes = "arrays"',
    ),
    "a signal of a free size": (
        "g (float[T] x) => (float[T] y) { y = Relu(x) }", PREPROCESSING + "height_px = 8\nwidth_px = 8\n", ModelError,
        r'the input x \(1\) takes no image: .*\[inputs\.x\] takes = "arrays"',
    ),
    "a video": (
        "g (float[1,8,3,8,8] x) => (float[1,8,3,8,8] y) { y = Relu(x) }", PREPROCESSING, ModelError,
        r'the input x \(1, 8, 3, 8, 8\) takes no image: .*\[inputs\.x\] takes = "arrays"',
    ),
    "a free length of arrays": (
        "g (float[1,T,8] x) => (float[1,T,8] y) { y = Relu(x) }", ARRAYS, ModelError,
        r"input x \(1, \?, 8\) has free lengths; .*\[inputs\.x\] shape = ",
    ),
    "a declared shape that does not fit": (
        "g (float[1,T,8] x) => (float[1,T,8] y) { y = Relu(x) }", ARRAYS + "shape = [1, 4, 9]\n", InputError,
        r"\[inputs\.x\]: its shape is \[1, 4, 9\], and the model takes x \(1, \?, 8\)",
    ),
    "two inputs to fill": (
        "g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu(x) }",
        '[inputs.x]\nlayout = "NCHW"\n[inputs.z]\nlayout = "NCHW"\n', InputError, "inputs x and z have no value",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_says_what_was_found_and_what_to_do(tmp_path, kind):
    text, preset, error, message = REFUSED[kind]
    with pytest.raises(error, match=message) as raised:
        open_model(save(tmp_path, text, preset))
    assert "\n" not in str(raised.value)


def test_a_free_batch_has_no_constant_for_one_image(tmp_path):
    text, preset, _ = TWO_INPUTS["a scale as Paddle has it"]
    request = save(tmp_path, text, PREPROCESSING + preset, two=np.array([2], np.int64), one=np.array([1], np.int64))
    with pytest.raises(InputError, match="gives the input 'scale_factor' a value for one image; omit `dynamic_batch`"):
        open_model(ModelRequest(request.reference, preset=request.preset, dynamic_batch=True))


def test_arrays_that_do_not_fit_say_so(tmp_path):
    request = save(tmp_path, ARRAY_MODELS["2-D"][0], ARRAYS, w=nets.normal(1, 16, 8))
    for array, message in (
        (np.zeros((2, 9), np.float32), r"0\.npy: has shape \(2, 9\), the model takes \(16,\); give arrays of this"),
        (np.zeros(16, np.int32), r"0\.npy: is an array \(16,\) of int32"),
        (np.array([{}]), r"0\.npy: cannot be read as an array"),
    ):
        np.save(tmp_path / "0.npy", array)
        with pytest.raises(EdgeqError, match=message):
            export_model(request, "x86", ("int8",), tmp_path / "out", calibration=CalibrationSource(tmp_path))
    assert not list((tmp_path / "out").glob("*.onnx"))


def test_one_image_of_a_fixed_batch_is_decoded_once(tmp_path):
    from edgeq.evaluation.inference import _of_one

    rows = np.arange(16).reshape(8, 2)
    np.testing.assert_array_equal(_of_one(rows, 8), rows[:1])
    np.testing.assert_array_equal(_of_one(np.arange(24).reshape(24, 1), 8), np.arange(3).reshape(3, 1))
    assert _of_one(np.zeros((5, 2)), 8).shape == (5, 2)
    assert TensorSpec("x", "float32", (8, 2)).encode(np.ones((1, 2))).shape == (8, 2)


def test_a_file_of_another_tool_with_channels_last_is_described(tmp_path):
    text, preset, _ = IMAGES["channels last"]
    request = save(tmp_path, text, preset)
    (spec,) = open_artifact(Path(request.reference), request.preset).inputs
    assert (spec.shape, spec.layout) == ((1, 12, 16, 3), "NHWC")
