"""Both engines on small real files."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

from edgeq.errors import EngineError, InputError, MissingDependencyError
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.machine import read_machine
from edgeq.runtimes import RUNTIMES, choose_runtimes, default_runtime, get_runtime, is_installed, open_session
from edgeq.runtimes.openvino import OpenVinoSession
from tests.tiny import conv_net_outputs, save_conv_net

ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(not is_installed(name), reason=f"{name} is not installed"))
    for name in RUNTIMES
    if "onnx" in get_runtime(name).formats
]
needs_openvino = pytest.mark.skipif(not is_installed("openvino"), reason="openvino is not installed")


@pytest.fixture
def artifact(tmp_path):
    return save_conv_net(tmp_path / "net.onnx")


@pytest.fixture
def image():
    return np.random.default_rng(1).normal(size=(1, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("runtime", ENGINES)
def test_outputs_are_the_reference_in_manifest_order(artifact, image, runtime):
    wanted = conv_net_outputs(artifact.path, image)
    with open_session(artifact, runtime, threads=1) as session:
        results = session.run({"image": image})
    assert list(results) == ["last", "first"]
    for name, array in results.items():
        np.testing.assert_allclose(array, wanted[name], atol=2e-5)


@pytest.mark.parametrize("runtime", ENGINES)
def test_results_outlive_the_next_run_and_the_session(artifact, image, runtime):
    with open_session(artifact, runtime, threads=1) as session:
        kept = session.run({"image": image})
        copies = {name: array.copy() for name, array in kept.items()}
        session.run({"image": -3 * image})
    for name, array in kept.items():
        np.testing.assert_array_equal(array, copies[name])
        assert array.flags.writeable


@pytest.mark.parametrize("runtime", ENGINES)
def test_an_input_may_be_a_view_or_read_only_and_may_change_afterwards(artifact, image, runtime):
    with open_session(artifact, runtime, threads=1) as session:
        wanted = session.run({"image": image})["last"]
        channels_last = np.ascontiguousarray(image.transpose(0, 2, 3, 1))
        view = channels_last.transpose(0, 3, 1, 2)
        view.flags.writeable = False
        np.testing.assert_array_equal(session.run({"image": view})["last"], wanted)
        reused = image.copy()
        before = session.run({"image": reused})["last"]
        reused[:] = 0
        np.testing.assert_array_equal(before, wanted)
        assert not np.array_equal(session.run({"image": reused})["last"], wanted)


@pytest.mark.parametrize("runtime", ENGINES)
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"got inputs \[\], wanted \['image'\]"),
        ({"picture": np.zeros((1, 3, 16, 16), np.float32)}, "got inputs"),
        ({"image": np.zeros((1, 3, 16, 16), np.float64)}, "is float64, wanted float32"),
        ({"image": np.zeros((1, 3, 16, 8), np.float32)}, r"has shape \(1, 3, 16, 8\), wanted"),
    ],
)
def test_wrong_inputs_are_named(artifact, runtime, inputs, message):
    with open_session(artifact, runtime, threads=1) as session, pytest.raises(InputError, match=message):
        session.run(inputs)


@pytest.mark.parametrize("runtime", ENGINES)
def test_a_truncated_file_is_one_clear_line(artifact, runtime):
    artifact.path.write_bytes(artifact.path.read_bytes()[:1500])
    with pytest.raises(EngineError) as caught:
        open_session(artifact, runtime)
    message = str(caught.value)
    assert message.startswith(f"{artifact.path}: {runtime} cannot load it (")
    assert "\n" not in message
    assert "Exception from" not in message


@pytest.mark.parametrize("runtime", ENGINES)
def test_a_manifest_of_another_file_is_refused(artifact, runtime):
    foreign = dataclasses.replace(artifact, outputs=(TensorSpec("heatmap", "float32", (1, 8, 16, 16)),))
    with pytest.raises(EngineError, match=r"finds no output 'heatmap' in it, only \['first', 'last'"):
        open_session(foreign, runtime)


@pytest.mark.parametrize("runtime", ENGINES)
def test_a_failing_run_is_one_clear_line(artifact, runtime, image):
    """The manifest states a shape that the file cannot take: what the base class lets through, the engine refuses."""
    wrong = dataclasses.replace(artifact, inputs=(TensorSpec("image", "float32", (1, 3, 8, 8)),))
    with open_session(wrong, runtime, threads=1) as session, pytest.raises(EngineError) as caught:
        session.run({"image": np.ascontiguousarray(image[:, :, :8, :8])})
    assert f"{runtime} failed while running it (" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runtime", ENGINES)
def test_environment_states_what_decides_speed(artifact, runtime):
    with open_session(artifact, runtime, threads=2) as session:
        environment = session.environment()
    assert environment["engine"].startswith(f"{runtime} 2" if runtime == "openvino" else f"{runtime} 1")
    assert environment["threads"] == 2
    assert environment["compute_precision"] == "f32"
    assert environment["cpu"] == read_machine().cpu
    assert json.loads(json.dumps(environment)) == environment


@needs_openvino
def test_fp32_files_are_computed_in_f32_and_others_as_openvino_likes(tmp_path, image):
    import openvino

    likes = openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    for precision, wanted in (("fp32", "f32"), ("int8", likes)):
        artifact = save_conv_net(tmp_path / f"{precision}.onnx", precision=precision)
        with open_session(artifact, "openvino", threads=1) as session:
            assert session.environment()["compute_precision"] == wanted


@needs_openvino
def test_compute_precision_can_be_asked_for(artifact, image):
    with open_session(artifact, "openvino", threads=1, compute_precision="bf16") as session:
        used = session.environment()["compute_precision"]
        result = session.run({"image": image})["last"]
    wanted = conv_net_outputs(artifact.path, image)["last"]
    error = float(np.abs(result - wanted).max() / np.abs(wanted).max())
    if "amx_bf16" in read_machine().cpu_features:
        assert used == "bf16"
        assert 1e-5 < error < 2e-2  # bf16 keeps 8 bits of the significand
    else:
        assert error < 2e-2


def test_joined_tensors_of_fp16_scales_load_in_onnxruntime(tmp_path):
    """Version 1.32 fuses them to an operator that does not take FP16."""
    text = """<ir_version: 9, opset_import: ["" : 19]>
    g (float16[1,2,4,4] image) => (float16[1,4,4,4] y) <float16 s = {10000}, int8 z = {0}> {
        a = QuantizeLinear(image, s, z) b = DequantizeLinear(a, s, z) negative = Neg(image)
        c = QuantizeLinear(negative, s, z) d = DequantizeLinear(c, s, z) joined = Concat<axis = 1>(b, d)
        q = QuantizeLinear(joined, s, z) y = DequantizeLinear(q, s, z)
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")
    specs = TensorSpec("image", "float16", (1, 2, 4, 4)), TensorSpec("y", "float16", (1, 4, 4, 4))
    other = save_conv_net(tmp_path / "other.onnx")
    artifact = dataclasses.replace(other, path=tmp_path / "net.onnx", inputs=specs[:1], outputs=specs[1:]).save()
    image = np.random.default_rng(1).uniform(-1, 1, (1, 2, 4, 4)).astype(np.float16)
    with open_session(artifact, "onnxruntime", threads=1) as session:
        found = session.run({"image": image})["y"]
    np.testing.assert_allclose(found, np.concatenate([image, -image], axis=1), atol=0.0139)


@needs_openvino
def test_tuned_for_throughput_all_requests_of_a_run_are_answered(artifact, image):
    with open_session(artifact, "openvino", threads=2, hint="throughput") as session:
        environment = session.environment()
        outputs = session.run({"image": image})
        session.run({"image": 0 * image})
    assert environment["hint"] == "throughput"
    assert environment["streams"] >= 1 and environment["requests"] >= 1
    wanted = conv_net_outputs(artifact.path, image)
    for name, array in outputs.items():  # also behind the next run, whose outputs are others
        np.testing.assert_allclose(array, wanted[name], rtol=1e-4, atol=1e-4)


def test_an_engine_that_runs_one_request_at_a_time_is_not_tuned_for_throughput(artifact):
    with pytest.raises(InputError, match="`hint` throughput: onnxruntime can be tuned for latency only"):
        open_session(artifact, "onnxruntime", hint="throughput")


@pytest.mark.parametrize("runtime", ENGINES)
def test_an_unknown_compute_precision_is_refused(artifact, runtime):
    with pytest.raises(InputError, match="'f8'"):
        open_session(artifact, runtime, compute_precision="f8")


def test_default_runtime_is_the_first_installed_of_the_target(artifact, monkeypatch):
    assert default_runtime(artifact) == ("openvino" if is_installed("openvino") else "onnxruntime")
    monkeypatch.setattr(OpenVinoSession, "package", "no_such_engine")
    assert default_runtime(artifact) == "onnxruntime"


def test_a_missing_engine_is_named_with_its_pip_line(artifact, monkeypatch):
    monkeypatch.setattr(OpenVinoSession, "package", "no_such_engine")
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeq\[openvino\]'"):
        open_session(artifact, "openvino")


def test_an_unknown_runtime_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"unknown runtime 'tensorflow'; .*known: .*onnxruntime"):
        get_runtime("tensorflow")


@needs_openvino
def test_importing_openvino_sends_no_telemetry():
    """OpenVINO's import makes a Telemetry object of the package openvino_telemetry and sends an event with it."""
    script = (
        "import sys; from edgeq.runtimes.openvino import OpenVinoSession as S; S.import_engine();"
        "assert 'openvino_telemetry' not in sys.modules;"
        "import openvino.tools.ovc as ovc; print(type(ovc.telemetry).__module__)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"


@pytest.mark.parametrize("wished", [(), ("openvino",), ("onnxruntime", "litert")])
def test_a_format_that_no_runtime_reads_is_refused_by_its_name(artifact, wished):
    foreign = dataclasses.replace(artifact, format="coreml")
    known = "engine, onnx, openvino, rtx-engine, tflite"
    with pytest.raises(InputError, match=f"the format 'coreml', which no runtime reads; wanted {known}"):
        choose_runtimes(foreign, wished)


def test_a_runtime_for_another_format_is_refused_with_those_that_read_it(artifact):
    with pytest.raises(InputError, match=r"litert does not read onnx files; add `runtime` onnxruntime or openvino$"):
        choose_runtimes(artifact, ("litert",))
