"""Files of other tools: what is read from them, and what is said of those that cannot be used."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from benchmarks.json_results import bench_artifacts
from edgeq.errors import EdgeqError, EngineError, InputError
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.files import sha256_file
from edgeq.measurement.timed_file import Sampling
from edgeq.runtimes import default_runtime, open_session
from edgeq.sources.artifact_file import open_artifact
from tests.tiny import save_conv_net

QUICK = Sampling(warmup_runs=1, warmup_s=0, min_runs=3, min_s=0, max_s=20, round_runs=1, round_s=0, timeout_s=60)
RESNET8 = "mlperftiny_resnet8_cifar10_int8.tflite"


@pytest.fixture
def lonely(tmp_path) -> Path:
    """An ONNX file without a manifest."""
    artifact = save_conv_net(tmp_path / "net.onnx")
    artifact.manifest_path.unlink()
    return artifact.path


@pytest.fixture
def resnet8(shared_data) -> Path:
    pytest.importorskip("ai_edge_litert")
    return Path(shared_data / "weights" / RESNET8)


def test_an_onnx_file_tells_its_tensors(lonely):
    artifact = open_artifact(lonely)
    assert artifact.inputs == (TensorSpec("image", "float32", (1, 3, 16, 16)),)
    assert {(spec.name, spec.shape) for spec in artifact.outputs} == {
        ("first", (1, 8, 16, 16)),
        ("last", (1, 8, 16, 16)),
    }
    assert (artifact.format, artifact.precision, artifact.target, artifact.source_digest) == ("onnx", "", "", "")
    assert (artifact.preprocessing, artifact.postprocessing, artifact.labels) == (None, None, ())
    assert artifact.digest == sha256_file(lonely)
    assert default_runtime(artifact) == "onnxruntime"


def test_free_dimensions_other_types_and_the_layout_are_read(tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (uint8[N,24,H,3] image, double[2] d) => (float16[N,24,H,3] y, '
        "double[2] e) { y = Cast<to = 10>(image) e = Identity(d) }"
    )
    onnx.save(model, tmp_path / "net.onnx")
    artifact = open_artifact(tmp_path / "net.onnx")
    assert artifact.inputs == (
        TensorSpec("image", "uint8", (None, 24, None, 3), "NHWC"),
        TensorSpec("d", "float64", (2,), "NHWC"),
    )
    assert artifact.outputs[0] == TensorSpec("y", "float16", (None, 24, None, 3), "NHWC")
    with pytest.raises(InputError, match=r"has the inputs image .* d .*; wanted a single image"):
        open_artifact(tmp_path / "net.onnx", "imagenet")


@pytest.mark.parametrize("shape", ["1,1,28,28", "N,28,28,1"])
def test_a_gray_file_takes_a_gray_preset_and_no_other(tmp_path, shape):
    onnx = pytest.importorskip("onnx")
    text = f"net (float[{shape}] image) => (float[{shape}] y) {{ y = Relu(image) }}"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'), tmp_path / "net.onnx")
    preprocessing = open_artifact(tmp_path / "net.onnx", "fashionmnist").preprocessing
    assert preprocessing == Preprocessing(28, 28, "stretch", "gray", mean=(0.5,), std=(0.5,))
    with pytest.raises(InputError, match=r"net\.onnx: takes images of 1 channel, and preset imagenet makes 3"):
        open_artifact(tmp_path / "net.onnx", "imagenet")


def test_a_tflite_file_tells_its_tensors_and_what_its_integers_mean(resnet8):
    artifact = open_artifact(resnet8)
    assert artifact.inputs == (TensorSpec("input_1_int8", "int8", (1, 32, 32, 3), "NHWC", 1.0, -128),)
    assert artifact.outputs == (TensorSpec("Identity_int8", "int8", (1, 10), "NHWC", 1 / 256, -128),)
    assert (artifact.format, default_runtime(artifact)) == ("tflite", "litert")
    with open_session(artifact, "litert", threads=1) as session:
        pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32))
        outputs = session.run({"input_1_int8": artifact.inputs[0].encode(pixels)})
    assert artifact.outputs[0].decode(outputs["Identity_int8"]).sum() == pytest.approx(1, abs=10 / 256)


def test_a_preset_declares_the_rest_and_takes_the_files_size(lonely, tmp_path):
    artifact = open_artifact(lonely, "yolox", "cat, dog")
    assert artifact.preprocessing == Preprocessing(16, 16, "letterbox", "bgr", scale=1.0, fill=114.0)
    assert artifact.postprocessing is not None and artifact.postprocessing.decoder == "yolox"
    assert artifact.labels == ("cat", "dog")
    assert len(open_artifact(lonely, "yolox").labels) == 80


def test_bytes_of_pixels_are_handed_out_as_they_are_whatever_the_preset_normalises(shared_data):
    pytest.importorskip("ai_edge_litert")
    movenet = shared_data / "weights" / "coral_movenet_single_pose_lightning_ptq.tflite"
    for preset in ("imagenet", "yolox"):
        artifact = open_artifact(movenet, preset)
        assert artifact.inputs[0].scale == 1
        assert artifact.preprocessing is not None and artifact.preprocessing.value_range == (0, 255)


def test_a_manifest_says_all_and_takes_no_preset(tmp_path):
    artifact = save_conv_net(tmp_path / "net.onnx")
    assert open_artifact(artifact.path) == open_artifact(artifact.manifest_path) == artifact
    for declared in ({"preset": "imagenet"}, {"labels": "cat"}):
        with pytest.raises(InputError, match=r"has a manifest that says how .* omit `preset` and `labels`"):
            open_artifact(artifact.path, **declared)


@pytest.mark.parametrize("suffix", [".onnx", ".bin", ".onnx.json"])
def test_files_that_are_missing_or_of_no_known_format(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    with pytest.raises(InputError, match=r"no such file|has no manifest next to it"):
        open_artifact(path)
    if suffix == ".bin":
        path.touch()
        with pytest.raises(InputError, match=r"its format does not say enough without one \(\.onnx, \.xml, \.tflite\)"):
            open_artifact(path)


@pytest.mark.parametrize("content", ["empty", "text", "cut short", "other"])
def test_an_onnx_file_that_is_none_is_one_clear_line(lonely, content):
    whole = lonely.read_bytes()
    damaged = {
        "empty": b"",
        "text": b"hello",
        "cut short": whole[: len(whole) // 2],
        "other": b"\x20\0\0\0TFL3" + b"\0" * 99,
    }
    lonely.write_bytes(damaged[content])
    with pytest.raises(EdgeqError, match=r"net\.onnx: is not a valid ONNX model") as caught:
        open_artifact(lonely)
    assert "\n" not in str(caught.value)


def _with_schema(content: bytes, version: int) -> bytes:
    """Returns a TFLite file with another schema version, the first field of its root table."""
    root = struct.unpack_from("<I", content)[0]
    fields = root - struct.unpack_from("<i", content, root)[0]
    changed = bytearray(content)
    struct.pack_into("<I", changed, root + struct.unpack_from("<H", content, fields + 4)[0], version)
    return bytes(changed)


def _with_operator(content: bytes, name: str) -> bytes:
    """Returns a TFLite file whose first kind of operator is a custom one."""
    flatbuffers = pytest.importorskip("flatbuffers")
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = name.encode()
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda content: b"", InputError, "is not a TFLite file"),
        (lambda content: b"hello world, hello", InputError, r"is not a TFLite file \(it begins with b'o wo'"),
        (lambda content: content[:100], EngineError, "cut short or damaged; copy or download it again"),
        (lambda content: content[:-1], EngineError, "cut short or damaged"),
        (
            lambda content: _with_schema(content, 4),
            EngineError,
            "is of schema version 4, and .* reads version 3; update",
        ),
        (lambda content: _with_operator(content, "MyOp"), EngineError, "needs the custom operator MyOp, which LiteRT"),
        (lambda content: _with_operator(content, "FlexErf"), EngineError, "needs TensorFlow's own operator FlexErf"),
    ],
    ids=["empty", "text", "head only", "last byte missing", "newer schema", "custom operator", "TensorFlow operator"],
)
def test_a_tflite_file_that_cannot_be_used_is_one_clear_line(resnet8, tmp_path, capfd, change, error, message):
    path = tmp_path / "net.tflite"
    path.write_bytes(change(resnet8.read_bytes()))
    with pytest.raises(error, match=message) as caught:
        open_artifact(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_bench_runs_a_file_without_a_manifest(lonely):
    (result,) = bench_artifacts([lonely], threads=1, sampling=QUICK)
    assert (result["artifact"], result["runtime"], result["target"], result["precision"]) == (
        "net.onnx", "onnxruntime", "", "",
    )  # fmt: skip
    assert result["latency_ms"]["p50"] > 0
    assert result["ratio_to_fp32"] is None
    assert result["baseline_rss_bytes"] < result["peak_rss_bytes"]
    assert not (lonely.parent / "net.onnx.json").exists()


@pytest.mark.usefixtures("warm_runners")
def test_bench_runs_tflite_files_of_other_tools(shared_data, tmp_path):
    pytest.importorskip("ai_edge_litert")
    names = ("coral_movenet_single_pose_lightning_ptq.tflite", "coral_tf2_mobilenet_v2_1.0_224_ptq.tflite", RESNET8)
    for name in names:
        shutil.copy(shared_data / "weights" / name, tmp_path)
    results = bench_artifacts([tmp_path / name for name in names], threads=1, sampling=QUICK)
    assert [(result["artifact"], result["runtime"]) for result in results] == [(name, "litert") for name in names]
    assert all(result["runs"] >= QUICK.min_runs for result in results)
