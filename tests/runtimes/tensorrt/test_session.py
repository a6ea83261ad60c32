"""Running engines over the double of four versions of TensorRT; "kernels" are ONNX Runtime."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest

from edgeq.boundary import convert
from edgeq.errors import EngineError, InputError, MismatchError
from edgeq.exporting.artifact import Artifact
from edgeq.runtimes import choose_runtimes, open_session
from edgeq.runtimes.cuda import DeviceFacts
from edgeq.runtimes.tensorrt.build_options import BuildOptions
from edgeq.runtimes.tensorrt.inspector import inspect_session, profile_session
from edgeq.runtimes.tensorrt.session import TensorRtSession
from tests.trt_fixtures import image, install, make_engine, reference, save_net


@pytest.fixture
def source(tmp_path):
    return save_net(tmp_path / "net.int8.onnx", qdq=True)


@pytest.fixture
def engine(trt, source):
    return make_engine(trt, source)[0]


def test_an_engine_gives_what_its_file_means_run_after_run(engine, source, board):
    with open_session(engine, "tensorrt") as session:
        first = session.run(image(0))
        kept = first["result"].copy()
        second = session.run(image(1))
        np.testing.assert_array_equal(kept, reference(source, image(0)))
        np.testing.assert_array_equal(second["result"], reference(source, image(1)))
        np.testing.assert_array_equal(first["result"], kept)
    assert board.device_bytes == 0
    assert board.streams == {}


def test_the_gpus_own_time_is_told_beside_the_cpus(engine):
    with open_session(engine, "tensorrt") as session:
        assert session.device_times is None
        session.run(image())
        assert session.device_times is not None
        # Three INT8 convolutions, two float functions and one Reformat, by the double's clock.
        compute_ms = session.device_times.compute_ms
        session.run(image())
        assert session.device_times.compute_ms == pytest.approx(compute_ms)
        assert compute_ms > 1.5
        assert session.device_times.enqueue_ms >= 0


def test_zero_copy_copies_nothing(engine, source, board, monkeypatch):
    monkeypatch.setenv("EDGEQ_ZERO_COPY", "1")
    with open_session(engine, "tensorrt") as session:
        assert board.device_bytes == 0
        np.testing.assert_array_equal(session.run(image())["result"], reference(source, image()))
        assert session.environment()["zero_copy"] is True


def test_a_cuda_graph_is_launched_from_the_second_run_on(engine, source, board, monkeypatch):
    monkeypatch.setenv("EDGEQ_CUDA_GRAPH", "1")
    with open_session(engine, "tensorrt") as session:
        for seed in range(3):
            np.testing.assert_array_equal(session.run(image(seed))["result"], reference(source, image(seed)))
        assert session.device_times is not None and session.device_times.compute_ms > 1.5
        assert session.environment()["cuda_graph"] is True
    assert board.launches == 2
    assert board.streams == {}


def test_the_environment_says_what_decides_speed(engine, trt):
    with open_session(engine, "tensorrt") as session:
        environment = session.environment()
    assert environment["engine"] == f"tensorrt {trt.__version__}"
    assert environment["compute_precision"] == "f16"
    assert (environment["gpu"], environment["compute_capability"]) == ("Orin", "8.7")
    assert environment["cuda"] == "12.6 through fake"
    assert environment["device_memory_bytes"] == 123_456


def test_a_free_batch_is_run_as_it_was_built(trt, tmp_path):
    source = save_net(tmp_path / "net.onnx", qdq=True, batch=None)
    engine, plan = make_engine(trt, source, BuildOptions(int8=True, fp16=True, batch=2))
    assert plan.inputs[0].shape[0] == 2
    with open_session(engine, "tensorrt") as session:
        np.testing.assert_array_equal(session.run(image(batch=2))["result"], reference(source, image(batch=2)))
        with pytest.raises(EngineError, match=r"'image' does not take the shape \(1, 32.*`batch`"):
            session.run(image(batch=1))
        np.testing.assert_array_equal(session.run(image(3, batch=2))["result"], reference(source, image(3, batch=2)))


def test_a_dla_engine_is_loaded_for_its_core(trt10, faults, tmp_path):
    from edgeq.runtimes.tensorrt.build_options import FromScales
    from tests.trt_fixtures import SCALES

    faults.dla_cores = 2
    source = save_net(tmp_path / "net.onnx", qdq=False)
    options = BuildOptions(int8=True, fp16=True, calibration=FromScales(SCALES), dla_core=1)
    engine, _ = make_engine(trt10, source, options)
    with open_session(engine, "tensorrt") as session:
        assert session.environment()["dla_core"] == 1


def test_engines_are_chosen_by_their_format(engine):
    assert engine.format == "engine"
    assert choose_runtimes(engine, ["onnxruntime", "tensorrt"]) == ["tensorrt"]


# -- What goes wrong


def test_an_engine_of_another_version_is_told_before_it_is_loaded(trt10, monkeypatch, board, faults, source):
    engine, _ = make_engine(trt10, source)
    install(monkeypatch, "10.16.1.11", board, faults)
    with pytest.raises(MismatchError, match=r"TensorRT 10\.3\.0, here is 10\.16\.1; rebuild on this device"):
        open_session(engine, "tensorrt")


def test_an_engine_for_another_gpu_is_told(trt10, board, source):
    engine, _ = make_engine(trt10, source)
    board.facts = DeviceFacts("NVIDIA Thor", "11.0", "13.0")
    with pytest.raises(MismatchError, match=r"compute capability 8\.7, here is 11\.0; the GPU Orin.*rebuild"):
        open_session(engine, "tensorrt")


def test_an_engine_whose_manifest_lies_about_the_version_is_told(trt10, monkeypatch, board, faults, source):
    engine, _ = make_engine(trt10, source)
    install(monkeypatch, "10.16.1.11", board, faults)
    build = dict(engine.quantization["build"])
    build["platform"] = {**build["platform"], "tensorrt": "10.16.1.11"}
    with pytest.raises(EngineError, match=r"not compatible with this version.*rebuild on this device"):
        open_session(dataclasses.replace(engine, quantization={"build": build}), "tensorrt")


def test_a_plan_cut_short_is_told(trt, engine):
    engine.path.write_bytes(engine.path.read_bytes()[:-100])
    with pytest.raises(MismatchError, match="cut short or changed"):
        Artifact.load(engine.path)
    with pytest.raises(EngineError, match="rebuild on this device with `edgeq build`"):
        open_session(engine, "tensorrt")


def test_a_manifest_without_a_build_is_told(trt, engine):
    with pytest.raises(InputError, match=r"quantization\.build is .*, which says what it was built by; build it"):
        open_session(dataclasses.replace(engine, quantization={}), "tensorrt")


def test_too_little_memory_is_told(trt, engine, faults):
    faults.context_memory = True
    with pytest.raises(EngineError, match=r"no execution context.*out of memory; free memory"):
        open_session(engine, "tensorrt")


def test_no_memory_for_buffers_is_told(trt, engine, board):
    board.capacity_bytes = 400_000  # three of the four arrays of 128 KiB
    with pytest.raises(EngineError, match="out of memory"):
        open_session(engine, "tensorrt")
    assert board.device_bytes == 0
    assert board.streams == {}


def test_a_run_that_fails_is_told_with_what_tensorrt_said(trt, engine, faults):
    with open_session(engine, "tensorrt") as session:
        faults.execution_error = "CUDA error 700 launching kernel"
        with pytest.raises(EngineError, match="CUDA error 700"):
            session.run(image())


def test_outputs_whose_shape_depends_on_the_data_are_refused(trt, engine, faults):
    faults.free_outputs = True
    with pytest.raises(EngineError, match="'result' depends on the data"):
        open_session(engine, "tensorrt")


def test_a_driver_that_does_not_start_is_told(trt, engine, faults):
    faults.no_driver = True
    with pytest.raises(EngineError, match=r"made no runtime.*failure with error: 35.*--device-test"):
        open_session(engine, "tensorrt")


def test_tensors_that_the_manifest_does_not_know_are_told(trt, engine):
    other = dataclasses.replace(engine.outputs[0], name="other")
    with pytest.raises(EngineError, match="no output 'other'"):
        open_session(dataclasses.replace(engine, outputs=(other,)), "tensorrt")
    half = dataclasses.replace(engine.outputs[0], dtype="float16")
    with pytest.raises(EngineError, match="'result' is float32, its manifest says float16"):
        open_session(dataclasses.replace(engine, outputs=(half,)), "tensorrt")


def test_a_compute_precision_is_refused(trt, engine):
    with pytest.raises(InputError, match="when an engine is built"):
        open_session(engine, "tensorrt", compute_precision="f16")


def test_no_tensorrt_is_told(board, monkeypatch, trt10, source):
    engine, _ = make_engine(trt10, source)
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"cannot be imported.*JetPack.*--system-site-packages"):
        open_session(engine, "tensorrt")


# -- Inspector and profiler


def test_the_inspector_counts_layers_by_precision(trt, engine):
    with contextlib.closing(TensorRtSession(engine)) as session:
        found = inspect_session(session)
    assert found.counts["int8"] == 3
    assert found.counts["reformat"] == 1
    assert found.share("int8") is None
    assert {layer.name for layer in found.layers} >= {"conv0", "conv1", "conv2", "activation0", "activation1"}


def test_the_profiler_tells_the_share_of_reformats(trt, engine, source, monkeypatch):
    monkeypatch.setenv("EDGEQ_CUDA_GRAPH", "1")  # a graph has no single kernels to time
    with contextlib.closing(TensorRtSession(engine)) as session:
        found = profile_session(session, image(), runs=3)
        np.testing.assert_array_equal(session.run(image())["result"], reference(source, image()))
    by_name = {layer.name: layer.ms for layer in found.layers}
    assert by_name["conv0"] == 0.5
    assert found.share("reformat") == pytest.approx(0.25 / found.total_ms)
    assert found.share("int8") == pytest.approx(1.5 / found.total_ms)
    assert found.profiled_runs == 3


def test_free_shapes_are_inspected_with_their_context(trt, tmp_path):
    source = save_net(tmp_path / "net.onnx", qdq=True, batch=None)
    engine, _ = make_engine(trt, source)
    with contextlib.closing(TensorRtSession(engine)) as session:
        session.run(image())
        assert inspect_session(session).counts["int8"] == 3


def test_engines_of_little_verbosity_have_names_only(trt, engine, monkeypatch):
    from tests import trt_behaviour

    real = trt_behaviour.BEHAVIOUR["EngineInspector.get_engine_information"]

    def terse(g, this, format):
        this.state["engine"].state["header"]["detailed"] = False
        return real(g, this, format)

    monkeypatch.setitem(trt_behaviour.BEHAVIOUR, "EngineInspector.get_engine_information", terse)
    with contextlib.closing(TensorRtSession(engine)) as session:
        counts = inspect_session(session).counts
    assert counts["reformat"] == 1
    assert set(counts) == {"reformat", "unknown"}


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Row major linear FP32", "fp32"),
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("BFloat16", "bf16"),
        ("FP8E4M3", "fp8"),
        ("Int32", "int32"),
        ("N/A due to dynamic shapes", "unknown"),
    ],
)
def test_formats_are_free_text(text, precision):
    from edgeq.runtimes.tensorrt.inspector import _Information, _layer

    tensor = {"Name": "x", "Dimensions": [1], "Format/Datatype": text}
    entry = {"Name": "layer", "LayerType": "kgen", "Inputs": [tensor], "Outputs": [tensor]}
    (layer,) = convert({"Layers": [entry]}, _Information, source="engine", kind="layers").layers
    assert _layer(layer).precision == precision
