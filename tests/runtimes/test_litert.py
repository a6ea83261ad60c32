"""LiteRT sessions on real small files."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from edgeq.errors import EngineError, InputError, MissingDependencyError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.exporting.tflite.writer import TfliteOptions, write
from edgeq.runtimes import litert, open_session
from edgeq.runtimes.litert import xnnpack_coverage
from tests import tflite_nets
from tests.exporting import nets
from tests.small import SIZE, small_centernet


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Artifact:
    return write(tflite_nets.centernet(), "arm", "fp32", tmp_path_factory.mktemp("litert"), TfliteOptions())


@torch.no_grad()
def test_outputs_are_those_of_torch_in_manifest_order(artifact: Artifact) -> None:
    x = nets.normal(1, 1, 3, *SIZE)
    wanted = dict(zip(("hm", "wh", "reg"), small_centernet(0)(torch.from_numpy(x)), strict=True))
    turned = dataclasses.replace(artifact, outputs=artifact.outputs[::-1])
    with open_session(turned, "litert", threads=1) as session:
        found = session.run({"image": artifact.inputs[0].encode(x)})
    assert list(found) == ["reg", "wh", "hm"]
    for spec in artifact.outputs:
        np.testing.assert_allclose(spec.decode(found[spec.name]), wanted[spec.name].numpy(), atol=1e-5)


def test_a_small_cnn_runs_in_xnnpack_as_a_whole(artifact: Artifact) -> None:
    with open_session(artifact, "litert", threads=2) as session:
        environment = session.environment()
    count = len(tflite_nets.centernet().graph.operators)
    assert environment["xnnpack"] == {"operators": count, "delegated": count, "partitions": 1}
    assert environment["engine"].startswith("ai-edge-litert ")
    assert (environment["threads"], environment["compute_precision"]) == (2, "f32")


def test_coverage_counts_what_stays_outside() -> None:
    def operator(index: int, name: str, inputs: list[int], outputs: list[int]) -> dict[str, Any]:
        return {"index": index, "op_name": name, "inputs": inputs, "outputs": outputs}

    own = [operator(0, "CONV_2D", [0], [1]), operator(1, "GATHER", [1], [2]), operator(2, "ADD", [1, 2], [3])]
    parts = [operator(3, "DELEGATE", [0], [1]), operator(4, "DELEGATE", [1, 2], [3])]
    assert xnnpack_coverage(own) == {"operators": 3, "delegated": 0, "partitions": 0}
    assert xnnpack_coverage(own + parts) == {"operators": 3, "delegated": 2, "partitions": 2}


def test_another_compute_precision_is_refused(artifact: Artifact) -> None:
    with pytest.raises(InputError, match="litert computes float layers in f32 only, not in 'f16'"):
        open_session(artifact, "litert", compute_precision="f16")


def test_a_missing_engine_is_named_with_its_pip_line(artifact: Artifact, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeq\[litert\]'"):
        litert.LiteRtSession(artifact)


@pytest.mark.parametrize("length", [0, 7, 1500, -1000])
def test_a_damaged_file_is_one_clear_line(artifact: Artifact, tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.tflite"
    path.write_bytes(artifact.path.read_bytes()[:length])
    with pytest.raises(EngineError) as caught:
        open_session(dataclasses.replace(artifact, path=path), "litert")
    assert str(caught.value).startswith(f"{path}: litert cannot load it (") and "\n" not in str(caught.value)


def test_a_manifest_of_another_file_is_refused(artifact: Artifact) -> None:
    foreign = dataclasses.replace(artifact, outputs=(TensorSpec("heatmap", "float32", (1, 16, 24, 6), "NHWC"),))
    with pytest.raises(EngineError, match="finds no output 'heatmap' in it"):
        open_session(foreign, "litert")


@pytest.mark.parametrize(("compat", "refused"), [(None, True), ("tflite-runtime", False)])
def test_what_tflite_runtime_computes_wrongly_is_refused(tmp_path: Path, monkeypatch, compat, refused: bool) -> None:
    """That engine needs numpy 1, so the details that it is asked for come from a double, recorded from a real file."""
    written = write(tflite_nets.mobile(), "arm", "dynamic", tmp_path, TfliteOptions(compat=compat))
    real = importlib.import_module("ai_edge_litert.interpreter")

    class Recorded(real.Interpreter):  # type: ignore[misc,name-defined]
        """Tells the tensors as the file holds them: ai-edge-litert spreads a single scale over the channels."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.recorded = super().get_tensor_details()

        def get_tensor_details(self) -> Any:
            return self.recorded

    double = SimpleNamespace(__name__="tflite_runtime.interpreter", Interpreter=Recorded)
    monkeypatch.setattr(litert.LiteRtSession, "import_engine", classmethod(lambda _: double))
    if refused:
        with pytest.raises(EngineError, match=r"tflite-runtime computes dynamic INT8 .* `compat` tflite-runtime"):
            open_session(written, "litert")
    else:
        open_session(written, "litert").close()
