"""`edgeq build` for named RTX GPUs: on the pretended TensorRT for RTX, and with the real one where it is installed."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest

from edgeq.errors import EngineError, InputError, MismatchError
from edgeq.exporting.artifact import Artifact
from edgeq.runtimes import choose_runtimes, open_session
from edgeq.runtimes.cuda import DeviceFacts
from edgeq.verbs.build import BuildRequest, build_engines
from edgeq.verbs.inspect import inspect_engine
from tests.trt_fixtures import board, faults, image, reference, rtx, save_net, trt10

__all__ = ["board", "faults", "rtx", "trt10"]


@pytest.fixture
def source(tmp_path):
    return save_net(tmp_path / "net.rtx.int8.onnx", qdq=True, target="rtx")


@pytest.fixture
def engine(rtx, source):
    return build_engines([source.path], BuildRequest())[0].artifact


def test_the_engine_is_for_the_gpus_that_were_named_and_says_so(rtx, source, tmp_path, edgeq):
    outcome = edgeq("build", source.path, "--sm", "sm86,8.9,86", "--out", tmp_path / "engines")
    assert outcome.code == 0, outcome
    path = tmp_path / "engines" / "net.rtx.int8.sm86-sm89.engine"
    assert "for SM86, SM89, not opened" in outcome.out
    engine = Artifact.load(path)
    assert (engine.precision, engine.target, engine.format) == ("int8", "rtx", "rtx-engine")
    assert engine.tools["tensorrt-rtx"] == rtx.__version__
    assert engine.quantization["build"]["gpus"] == ["SM86", "SM89"]
    assert engine.quantization["build"]["library"] == "tensorrt_rtx"
    assert choose_runtimes(engine) == ["tensorrt-rtx"]


def test_without_a_name_the_engine_is_for_the_gpu_of_this_machine(engine, source):
    assert engine.path.name == "net.rtx.int8.sm86.engine"
    with open_session(engine, "tensorrt-rtx") as session:
        np.testing.assert_array_equal(session.run(image())["result"], reference(source, image()))
        environment = session.environment()
    assert environment["engine"].startswith("tensorrt-rtx 1.7")
    assert environment["gpu"] == "NVIDIA GeForce RTX 3090"


def test_kernels_are_compiled_once(engine, board, faults):
    for compiled, state in ((1, "new"), (1, "loaded")):
        with open_session(engine, "tensorrt-rtx") as session:
            assert session.environment()["compiled_kernels"] == state
        assert board.compiled == compiled
    faults.refuse_kernels = True  # after an update of the driver
    with open_session(engine, "tensorrt-rtx") as session:
        assert session.environment()["compiled_kernels"] == "new"
    assert board.compiled == 2


def test_a_folder_that_cannot_be_written_costs_the_cache_alone(engine, board, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for compiled in (1, 2):
        with open_session(engine, "tensorrt-rtx") as session:
            session.run(image())
        assert board.compiled == compiled


def test_the_library_captures_the_cuda_graph_itself(engine, source, board, monkeypatch):
    monkeypatch.setenv("EDGEQ_CUDA_GRAPH", "1")
    with open_session(engine, "tensorrt-rtx") as session:
        for seed in range(3):
            np.testing.assert_array_equal(session.run(image(seed))["result"], reference(source, image(seed)))
        assert session.environment()["cuda_graph"] is True
    assert board.launches == 3
    assert (board.device_bytes, board.streams) == (0, {})


def test_an_engine_is_inspected_with_its_own_library(engine):
    assert inspect_engine(engine.path).inspection.counts["int8"] == 3


# -- What is refused


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            BuildRequest(sm=("sm87",)),
            r"TensorRT for RTX 1\.7.* builds for sm75, .*Orin are built on the board",
        ),
        (BuildRequest(sm=("ada",)), r"`sm` ada: .* builds for sm75"),
        (BuildRequest(route="implicit"), r"`route` implicit: .*Q/DQ nodes of a file alone.*omit `route`"),
        (BuildRequest(dla_core=0), "`dla` 0: .*omit `dla`"),
        (BuildRequest(runtime="tensorrt", sm=("sm86",)), "`sm` sm86: TensorRT builds .* for the GPU of this machine"),
        (BuildRequest(runtime="onnxruntime"), "`runtime` onnxruntime: engines are built for tensorrt or tensorrt-rtx"),
    ],
)
def test_options_that_the_library_does_not_know_are_refused(rtx, trt10, source, request_, message):
    with pytest.raises(InputError, match=message):
        build_engines([source.path], request_)


def test_a_gpu_that_cannot_compute_the_precision_is_named(rtx, source):
    dataclasses.replace(source, precision="fp8").save()
    with pytest.raises(InputError, match=r"written in fp8, which GPUs from sm89 on compute, and sm86 is asked for"):
        build_engines([source.path], BuildRequest(sm=("sm86", "sm120")))


def test_a_file_for_weak_typing_wants_another_target(rtx, tmp_path):
    weak = save_net(tmp_path / "net.jetson-orin.int8.onnx", qdq=True)
    with pytest.raises(MismatchError, match=r"written for TensorRT 8 to 10; TensorRT for RTX .*`target` rtx"):
        build_engines([weak.path], BuildRequest(runtime="tensorrt-rtx"))


def test_an_engine_for_another_gpu_or_version_says_what_to_build(engine, board, rtx):
    board.facts = DeviceFacts("NVIDIA GeForce RTX 4090", "8.9", "12.8")
    with pytest.raises(MismatchError, match=r"for SM86, here is SM89 \(NVIDIA GeForce RTX 4090\).*`sm` sm89"):
        open_session(engine, "tensorrt-rtx")
    rtx.__version__ = "1.8.0.1"
    with pytest.raises(MismatchError, match=r"TensorRT for RTX 1\.7\.1, here is 1\.8\.0; .*rebuild it with"):
        open_session(engine, "tensorrt-rtx")


def test_without_a_driver_it_builds_for_named_gpus_and_says_what_runs_nothing(rtx, source, monkeypatch):
    engine = build_engines([source.path], BuildRequest(sm=("sm86",)))[0].artifact
    monkeypatch.setattr("edgeq.runtimes.cuda.BINDINGS", {"cudart": "edgeq.runtimes.cuda.cudart:CudaRuntime"})
    monkeypatch.setattr("edgeq.runtimes.cuda.cudart._candidates", lambda: iter(()))
    monkeypatch.setattr("edgeq.runtimes.cuda._DRIVER", "libcuda_of_nobody.so.1")
    with pytest.raises(EngineError, match=r"NVIDIA's driver, and this machine has none .*install the driver"):
        open_session(engine, "tensorrt-rtx")
    with pytest.raises(InputError, match=r"`sm`: say which GPUs to build for \(`sm` sm89,sm120\), because .*driver"):
        build_engines([source.path], BuildRequest())


# -- The real library


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_the_real_library_builds_for_a_named_gpu(source, tmp_path):
    (built,) = build_engines([source.path], BuildRequest(sm=("sm89",), timing_cache=tmp_path / "timing"))
    assert built.artifact.size_bytes > 100_000
    assert built.facts.strongly_typed and built.facts.gpus == ("SM89",)
    assert (tmp_path / "timing").stat().st_size > 0
    text = source.path.read_bytes()
    source.path.write_bytes(text[: len(text) // 2])
    dataclasses.replace(source, precision="int8").save()
    with pytest.raises(Exception, match=r"TensorRT for RTX 1\.\S+ cannot take it"):
        build_engines([source.path], BuildRequest(sm=("sm89",)))
