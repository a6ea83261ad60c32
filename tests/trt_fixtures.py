"""Fixtures of the pretended Jetson, and small models for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeq.runtimes.cuda
from edgeq.exporting.artifact import Artifact, Preprocessing
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.runtimes.cuda import DeviceFacts, open_cuda
from edgeq.runtimes.tensorrt.build_options import BuildOptions
from edgeq.runtimes.tensorrt.builder import Plan, build_plan
from edgeq.runtimes.tensorrt.facts import BuildFacts, read_platform
from tests.fake_cuda import Board, FakeCuda
from tests.make_device_test import CHANNELS, RANGES, SIZE_PX, build
from tests.test_order import ROOT
from tests.trt_behaviour import Faults
from tests.trt_double import VERSIONS, make_tensorrt, make_tensorrt_rtx

# Everything that INT8 by tensor name needs of the three-layer net.
SCALES = {
    "image": RANGES[0] / 127,
    "sums0": RANGES[1] / 127,
    "relu0": RANGES[1] / 127,
    "sums1": RANGES[2] / 127,
    "relu1": RANGES[2] / 127,
    "result": 2 / 127,
}


_PACKAGE = """
import sys
import edgeq.runtimes.cuda
from tests.fake_cuda import Board, FakeCuda
from tests.trt_behaviour import Faults
from tests.trt_double import make_tensorrt
FakeCuda.board = Board()
edgeq.runtimes.cuda.BINDINGS = {"fake": "tests.fake_cuda:FakeCuda"}
sys.modules["tensorrt"] = make_tensorrt("10.3.0", FakeCuda.board, Faults(**FAULTS))
"""
"""What a child process imports as `tensorrt`."""


@pytest.fixture
def board(monkeypatch) -> Board:
    """A pretended device, the only one that a CUDA binding finds."""
    monkeypatch.delenv("EDGEQ_CUDA", raising=False)
    monkeypatch.delenv("EDGEQ_ZERO_COPY", raising=False)
    FakeCuda.board = Board()
    monkeypatch.setattr(edgeq.runtimes.cuda, "BINDINGS", {"fake": "tests.fake_cuda:FakeCuda"})
    return FakeCuda.board


@pytest.fixture
def faults() -> Faults:
    """What goes wrong; nothing until a test says so."""
    return Faults()


@pytest.fixture(params=VERSIONS)
def trt(request, monkeypatch, board, faults) -> Any:
    """The pretended TensorRT, as the module that `import tensorrt` finds."""
    return install(monkeypatch, request.param, board, faults)


@pytest.fixture(params=[version for version in VERSIONS if not version.startswith("11")])
def old_trt(request, monkeypatch, board, faults) -> Any:
    """The same in the versions that have implicit quantization."""
    return install(monkeypatch, request.param, board, faults)


@pytest.fixture
def trt10(monkeypatch, board, faults) -> Any:
    """The same as JetPack 6.2 has it."""
    return install(monkeypatch, "10.3.0", board, faults)


def install(monkeypatch: Any, version: str, board: Board, faults: Faults) -> Any:
    module = make_tensorrt(version, board, faults)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


@pytest.fixture
def rtx(monkeypatch, board, faults, tmp_path) -> Any:
    """The pretended TensorRT for RTX, on a PC with a GPU of compute capability 8.6 and an empty cache folder."""
    board.facts = DeviceFacts("NVIDIA GeForce RTX 3090", "8.6", "12.8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module = make_tensorrt_rtx(board, faults)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    return module


@pytest.fixture
def child(tmp_path, monkeypatch) -> Any:
    """Returns a function that gives child processes the double, with faults."""
    folder = tmp_path / "site"
    (folder / "tensorrt").mkdir(parents=True)
    path = os.pathsep.join([str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.delenv("EDGEQ_CUDA", raising=False)

    def give(**faults: Any) -> None:
        (folder / "tensorrt" / "__init__.py").write_text(_PACKAGE.replace("**FAULTS", f"**{faults!r}"))

    return give


def save_net(path: Path, *, qdq: bool, target: str = "jetson-orin", **changes: Any) -> Artifact:
    """Writes the three-layer net as an ONNX file and returns its artifact."""
    batch = changes.get("batch", 1)
    path.write_bytes(build(qdq=qdq, **changes).SerializeToString())
    shape = (batch, CHANNELS, SIZE_PX, SIZE_PX)
    return Artifact(
        path=path,
        format="onnx",
        precision="int8" if qdq else "fp16",
        target=target,
        inputs=(TensorSpec("image", "float32", shape),),
        outputs=(TensorSpec("result", "float32", shape),),
        preprocessing=Preprocessing(height_px=SIZE_PX, width_px=SIZE_PX),
        source_digest="of the net",
    ).save()


def make_engine(trt: Any, artifact: Artifact, options: BuildOptions | None = None) -> tuple[Artifact, Plan]:
    """Builds an artifact's engine beside it, and returns both."""
    import dataclasses

    options = options or BuildOptions(int8=artifact.precision == "int8", fp16=True)
    cuda = open_cuda()
    plan = build_plan(trt, cuda, artifact.path, artifact.inputs, options)
    path = artifact.path.with_suffix(".engine")
    path.write_bytes(plan.content)
    facts = BuildFacts(read_platform(trt, cuda), "explicit", plan.strongly_typed, dla_core=options.dla_core)
    engine = dataclasses.replace(artifact, path=path, format="engine", quantization=facts.to_json())
    return engine.save(), plan


def image(seed: int = 0, batch: int = 1) -> dict[str, np.ndarray]:
    """Returns an input of the net."""
    rng = np.random.default_rng(seed)
    return {"image": rng.uniform(-1, 1, (batch, CHANNELS, SIZE_PX, SIZE_PX)).astype(np.float32)}


def reference(artifact: Artifact, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns what ONNX Runtime makes of it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(artifact.path), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(["result"], dict(inputs))[0]
    return result
