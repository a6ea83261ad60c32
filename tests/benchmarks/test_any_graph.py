"""The table of models and targets: figures of what works, words for what does not."""

from __future__ import annotations

import dataclasses
import importlib.util
import re

import pytest

from benchmarks import any_graph
from edgeq.runtimes.tensorrt import compile as compiling
from edgeq.runtimes.tensorrt.library import TENSORRT_RTX


@pytest.fixture
def data(drawn, tmp_path):
    """A folder like that of the real data, with drawn images."""
    folder = tmp_path / "data"
    (folder / "coco").mkdir(parents=True)
    (folder / "coco" / "instances_train.json").symlink_to(drawn.annotations)
    (folder / "coco" / "train2017").symlink_to(drawn.folder)
    return folder


def test_every_target_has_a_row(small_onnx, data, tmp_path, monkeypatch):
    subjects = {
        "small": any_graph.Subject("Small", str(small_onnx), "centernet"),
        "gone": any_graph.Subject("Gone", "gone.onnx", "centernet"),
    }
    monkeypatch.setattr(any_graph, "SUBJECTS", subjects)
    monkeypatch.setattr(any_graph, "TARGETS", ("x86-ort", "jetson-orin"))
    path = any_graph.run(["small", "gone"], tmp_path, data=data, images=2, work=tmp_path / "work")
    written = path.read_text()
    figures = r"\| \d\.\de[+-]\d+ \| \d+\.\d \| \d+\.\d \(onnxruntime\) \| \d+ of \d+ \| \d+\.\d\d \| \d+ \|"
    assert re.search(rf"^\| Small \| x86-ort {figures}  \|$", written, re.MULTILINE)
    assert re.search(r"^\| Small \| jetson-orin \| \d\.\de[+-]\d+ \| \d+\.\d \| ", written, re.MULTILINE)
    assert re.search(r"^\| Gone \| jetson-orin \| .*gone.onnx: no such file.* \|$", written, re.MULTILINE)
    monkeypatch.setattr(any_graph, "measure", None)
    assert any_graph.run(["small", "gone"], tmp_path, data=data, images=2, work=tmp_path / "work") == path


@pytest.mark.skipif(
    importlib.util.find_spec(TENSORRT_RTX.module) is None, reason=f"{TENSORRT_RTX.title} is not installed"
)
def test_nvidias_compiler_has_its_say(small_onnx, tmp_path):
    assert any_graph.compiled_verdict(small_onnx) == "built"
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    assert any_graph.compiled_verdict(tmp_path / "broken.onnx").startswith("parser: ")


def test_without_nvidias_compiler_nothing_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(compiling, "TENSORRT_RTX", dataclasses.replace(TENSORRT_RTX, module="no_such_package"))
    assert any_graph.compiled_verdict(tmp_path / "model.onnx") == ""
