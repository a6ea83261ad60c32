"""No option of `edgeq export` is accepted and has no effect: it changes files or manifests, or is refused by name.

Every option of the command has an entry in `CASES` for each model, or is one of `ELSEWHERE`; a new one without an entry
fails here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer.main
from PIL import Image

from edgeq.cli import app
from edgeq.exporting.tflite.writer import TfliteModel
from edgeq.files import sha256_file
from edgeq.sources import tflite
from edgeq.sources.model import ModelRequest, OpenedModel
from edgeq.sources.tflite import convert
from tests import tflite_nets
from tests.conftest import Outcome

Edgeq = Callable[..., Outcome]

PRESET = """[preprocessing]
height_px = 16
width_px = 16
resize = "stretch"
[postprocessing]
decoder = "classification"
[postprocessing.outputs]
scores = "scores"
"""

CNN = """cnn (float[N,3,16,16] image) => (float[N,5] scores) {
    a = Conv<pads=[1,1,1,1]>(image, w0)  b = Relu(a)
    c = Conv<pads=[1,1,1,1]>(b, w1)  d = Relu(c)
    e = ConvTranspose<strides=[2,2]>(d, w2)  f = Relu(e)
    g = GlobalAveragePool(f)  h = Flatten(g)  scores = MatMul(h, w3)
}"""

VIT = """vit (float[1,3,16,16] image) => (float[1,5] scores) {
    p = Conv<kernel_shape=[4,4], strides=[4,4]>(image, patch)  r = Reshape(p, flat)  x = Transpose<perm=[0,2,1]>(r)
    n = LayerNormalization(x, gamma, beta)
    q = MatMul(n, wq)  k = MatMul(n, wk)  v = MatMul(n, wv)
    kt = Transpose<perm=[0,2,1]>(k)  logits = MatMul(q, kt)  weights = Softmax(logits)  context = MatMul(weights, v)
    o = MatMul(context, wo)  y = Add(x, o)
    m = LayerNormalization(y, gamma2, beta2)
    u = MatMul(m, w1)  s = Sigmoid(u)  g = Mul(u, s)  z = MatMul(g, w2)  out = Add(y, z)
    mean = ReduceMean<keepdims=0>(out, tokens)  scores = MatMul(mean, head)
}"""

TARGETS = {"onnx": "x86", "tflite": "arm", "jetson": "jetson-orin"}

QUANTIZED = frozenset({"int8", "int16x8", "dynamic"})

ELSEWHERE = {
    "model": "the argument, not an option", "download": "where the folder comes from, in test_hub",
    "out": "where files go", "target": "which files these are", "formats": "which files these are",
    "precision": "which files these are", "json_file": "writes a file of its own", "threads": "speed alone",
    "calib": "every case has one", "preset": "every case has one",
    "weights": "refused for files that hold theirs, in test_cli",
    "size": "refused where it contradicts the model, in test_cli",
    "take_scales": "for files that are quantized already, in test_dequantize",
    "data": "takes the place of calib, in test_data_set", "split": "of data", "allow_outside": "of data",
    "pick": "which images calibrate, in test_coverage", "runtime": "names the target, in tests/targets",
    "measure_speed": "changes no file, in test_export_speed", "progress": "changes no file, in tests/cli/test_events",
    "verify": "changes no file, in test_export_jetson",
    "rounding": "learns for seconds, in tests/exporting/test_int4_weights",
    "finetune": "trains on more images, in test_export_finetune",
    "weight_method": "of w2 to w8 alone, in test_export_low_bit", "group_size": "of w2 to w8 alone, in test_low_bit",
    "part": "of models in parts, refused for others in tests/bundles", "tokenizer": "of models in parts, as part is",
    "skip": "of checkpoints, in test_export_checkpoint",
    "plan": "of x86 alone, in test_export_costs", "isa": "of x86 alone, in test_check_saturation",
}  # fmt: skip
"""Options that this walk does not turn, with the reason."""


def effective(option: str, model: str, kind: str, precision: str) -> bool:
    """Returns whether an option changes what is written, as its help promises; otherwise it has to be refused."""
    static = precision in ("int8", "int16x8")
    takes_ranges = static or (precision == "fp16" and kind == "jetson")
    return {
        "keep": precision in QUANTIZED,
        "vit_plan": model == "vit" and precision in QUANTIZED,
        "rescale": model == "vit" and kind != "tflite",
        "int8_deconv": model == "cnn" and kind == "jetson" and precision == "int8",
        "integer_io": kind == "tflite" and static,
        "compat": kind == "tflite" and precision in QUANTIZED,
        "labels": True,
        "opset": kind != "tflite",
        "dynamic_batch": kind != "tflite" and model == "cnn",  # the other file is fixed to a batch of one
        "images": False,  # `calib` is a folder here; a COCO file is read with it in test_cli
        "method": takes_ranges,
        "num": takes_ranges,
    }[option]


VALUES: Mapping[str, Callable[[str], list[str]]] = {
    "keep": lambda model: ["--keep", "Conv" if model == "cnn" else "vit.fc2"],
    "vit_plan": lambda model: ["--vit-plan", "safe"],
    "rescale": lambda model: ["--rescale", "smooth"],
    "int8_deconv": lambda model: ["--int8-deconv"],
    "integer_io": lambda model: ["--int8-io"],
    "compat": lambda model: ["--compat", "tflite-runtime"],
    "labels": lambda model: ["--labels", "a,b,c,d,e"],
    "opset": lambda model: ["--opset", "20"],
    "dynamic_batch": lambda model: ["--dynamic-batch"],
    "images": lambda model: ["--images", "images"],
    "method": lambda model: ["--method", "mse"],
    "num": lambda model: ["--num", "1"],
}


def options() -> list[str]:
    command = typer.main.get_command(app.app).commands["export"]  # type: ignore[attr-defined]
    return [parameter.name for parameter in command.params if parameter.name != "help"]


def test_every_option_has_an_entry() -> None:
    assert set(options()) == set(ELSEWHERE) | set(VALUES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("walk")
    (folder / "preset.toml").write_text(PRESET)
    (folder / "images").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    rng = np.random.default_rng(0)

    def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
        return {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}

    save(folder / "cnn.onnx", CNN, weights(w0=(8, 3, 3, 3), w1=(8, 8, 3, 3), w2=(8, 6, 2, 2), w3=(6, 5)))
    square, channels = (16, 16), (16,)  # fewer stay in float on Jetson
    vit = weights(
        patch=(16, 3, 4, 4), gamma=channels, beta=channels, gamma2=channels, beta2=channels, wq=square, wk=square,
        wv=square, wo=square, w1=(16, 32), w2=(32, 16), head=(16, 5),
    )  # fmt: skip
    save(folder / "vit.onnx", VIT, {**vit, "flat": np.array([1, 16, 16]), "tokens": np.array([1])})
    return folder


def save(path: Path, text: str, weights: Mapping[str, np.ndarray]) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}')
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(model, path)


_CONVERTED: dict[str, TfliteModel] = {}


def convert_once(request: ModelRequest, opened: OpenedModel) -> TfliteModel:
    """Returns the TFLite form of a model; the converter takes its time, and no option of the walk changes its input."""
    if request.reference not in _CONVERTED:
        _CONVERTED[request.reference] = convert(request, opened)
    return dataclasses.replace(_CONVERTED[request.reference], labels=opened.model.labels)


def written(folder: Path) -> dict[str, str]:
    """Returns file name -> digest of all files: models, manifests, ranges and caches."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int16x8", "dynamic"])
@pytest.mark.parametrize("kind", list(TARGETS))
@pytest.mark.parametrize("model", ["cnn", "vit"])
def test_options_act_or_are_refused(
    edgeq: Edgeq, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, kind: str, precision: str
) -> None:
    if (precision == "int16x8" and kind != "tflite") or (precision == "dynamic" and kind == "jetson"):
        pytest.skip("the target has no such files")
    if kind == "tflite":
        tflite_nets.require_converter()
        monkeypatch.setattr(tflite, "convert", convert_once)
    monkeypatch.chdir(folder)
    command = ["export", f"{model}.onnx", "--preset", "preset.toml", "--target", TARGETS[kind], "--precision"]
    command += [precision, "--calib", "images", *(["--format", "tflite"] if kind == "tflite" else [])]
    plain = edgeq(*command, "--out", tmp_path / "plain")
    assert plain.code == 0, plain
    before = written(tmp_path / "plain")
    faults = []
    for option, arguments in VALUES.items():
        out = tmp_path / option
        outcome = edgeq(*command, *arguments(model), "--out", out)
        if effective(option, model, kind, precision):
            if outcome.code or written(out) == before:
                faults.append(f"{option} changed nothing: {outcome}")
        elif outcome.code != 1 or arguments(model)[0] not in outcome.error or (out.exists() and list(out.iterdir())):
            faults.append(f"{option} was not refused: {outcome}")
    assert not faults, "\n".join(faults)


def test_a_tflite_file_is_too_late_for_what_needs_the_graph(edgeq: Edgeq, folder: Path, tmp_path: Path) -> None:
    tflite_nets.require_converter()
    file = tmp_path / "net.tflite"
    file.write_bytes(b"never read")
    common = ["export", file, "--preset", folder / "preset.toml", "--target", "arm", "--precision", "dynamic"]
    for option in (["--vit-plan", "fast"], ["--rescale", "smooth"], ["--size", "8x8"], ["--dynamic-batch"]):
        error = edgeq(*common, *option, "--out", tmp_path / "out").error
        assert option[0] in error and "TFLite file" in error


def test_calibration_options_without_a_source_are_refused(edgeq: Edgeq, folder: Path, tmp_path: Path) -> None:
    common = ["export", folder / "cnn.onnx", "--preset", folder / "preset.toml", "--out", tmp_path / "out"]
    for option in (["--method", "mse"], ["--num", "4"], ["--images", "images"]):
        assert edgeq(*common, *option).error.startswith(f"{option[0]}: ")


def test_ranges_that_no_file_takes_are_refused(edgeq: Edgeq, folder: Path, tmp_path: Path) -> None:
    model = ["export", folder / "cnn.onnx", "--preset", folder / "preset.toml", "--out", tmp_path]
    assert edgeq(*model, "--precision", "int8", "--calib", folder / "images").code == 0
    ranges = tmp_path / "cnn.ranges.json"
    assert "files need no ranges; omit --calib" in edgeq(*model, "--precision", "fp32", "--calib", ranges).error
    assert "no image is read; omit --num" in edgeq(
        *model, "--precision", "int8", "--calib", ranges, "--num", "4"
    ).error  # fmt: skip
