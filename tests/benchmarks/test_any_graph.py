"""The table of models and targets: figures of what works, words for what does not."""

from __future__ import annotations

import dataclasses
import importlib.util
import re

import pytest

from benchmarks import any_graph
from benchmarks.cases import code_state, commit_of
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
    commit = re.escape(commit_of(code_state()))
    assert re.search(rf"^\| Small \| x86-ort {figures}  \| {commit} \|$", written, re.MULTILINE)
    assert re.search(r"^\| Small \| jetson-orin \| \d\.\de[+-]\d+ \| \d+\.\d \| ", written, re.MULTILINE)
    assert re.search(rf"^\| Gone \| jetson-orin \| .*gone.onnx: no such file.* {commit} \|$", written, re.MULTILINE)
    monkeypatch.setattr(any_graph, "measure", None)
    assert any_graph.run(["small", "gone"], tmp_path, data=data, images=2, work=tmp_path / "work") == path


def test_what_is_not_measured_keeps_its_rows(monkeypatch, tmp_path):
    subjects = {name: any_graph.Subject(name.title(), f"{name}.onnx") for name in ("small", "large")}
    monkeypatch.setattr(any_graph, "SUBJECTS", subjects)
    monkeypatch.setattr(any_graph, "TARGETS", ("x86", "arm"))
    old = ["| Small | x86 | old |", "| Small | arm | old |", "| Large | arm | old |", "| Gone | arm | old |"]
    page = [any_graph.HEADING, "|---|", *old, "", "| Small | x86 | another table |"]
    (tmp_path / any_graph.PAGE).write_text("\n".join(page))
    monkeypatch.setattr(any_graph, "measure", lambda *_: {"error": "measured", "state": "edgeq 1, commit abc"})
    for _ in range(2):  # the page that it writes is one that it reads
        path = any_graph.run(["small"], tmp_path, targets=["arm"], work=tmp_path / "work")
        rows = [line for line in path.read_text().splitlines() if line.startswith(("| Small", "| Large", "| Gone"))]
        assert rows == [old[0], "| Small | arm | measured | | | | | | | abc |", old[2]]


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
