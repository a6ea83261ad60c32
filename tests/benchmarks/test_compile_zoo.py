"""The table of compiled files: figures of the files that lie in the folder, reasons for what is not as planned."""

from __future__ import annotations

import dataclasses

import onnx
import pytest

import edgeq
from benchmarks import cases, compile_zoo
from benchmarks.any_graph import Subject
from edgeq.runtimes.tensorrt import compile as compiling
from edgeq.runtimes.tensorrt.library import TENSORRT_RTX
from tests.exporting.tensorrt.small_graphs import GRAPHS
from tests.runtimes.tensorrt.test_compile import needs_library


@pytest.fixture
def zoo(monkeypatch, tmp_path):
    """A folder with the files of one model for one target, of which one layer is merged with another."""
    monkeypatch.setattr(compile_zoo, "SUBJECTS", {"small": Subject("Small", "small.onnx")})
    monkeypatch.setattr(compile_zoo, "COMPILED", ("jetson-orin-trt11",))
    folder = tmp_path / "small" / "jetson-orin-trt11"
    folder.mkdir(parents=True)
    for precision, name in (("fp16", "conv in float"), ("int8", "two equal layers")):
        onnx.save(GRAPHS[name].model(), folder / f"small.jetson-orin-trt11.{precision}.onnx")
    return tmp_path


@needs_library
def test_every_file_has_a_row_and_every_difference_a_line(zoo, monkeypatch):
    written = compile_zoo.run(["small"], zoo / "out", work=zoo).read_text()
    assert "| Small | jetson-orin-trt11 | fp16 | 0, 0 | 86 | yes | 1 of 1 | 1 fp16 |" in written
    assert "| Small | jetson-orin-trt11 | int8 | 0, 1 | 86 | yes | 1 of 2 | 1 int8, 1 no kernel |" in written
    assert "2 of 2 files built; 2 of 3 layers are computed as planned, 1 of 2 of those planned in INT8." in written
    assert "- Small, jetson-orin-trt11 int8: Conv_4 (1) planned int8, compiled to nothing: no kernel" in written
    assert f"Files of edgeq {edgeq.__version__}" in written
    # A row that an earlier state has left shows.
    kept = zoo / "compiled" / "small.jetson-orin-trt11.int8.json"
    kept.write_text(kept.read_text().replace(cases.code_state(), "edgeq 0.0.1"))
    written = compile_zoo.run(["small"], zoo / "out", work=zoo).read_text()
    assert f"Files of edgeq 0.0.1; edgeq {edgeq.__version__}" in written
    monkeypatch.setattr(compile_zoo, "measure", None)  # what is kept is not compiled again
    assert compile_zoo.run(["small"], zoo / "out", work=zoo).read_text() == written


def test_without_the_compiler_the_rows_say_so(zoo, monkeypatch):
    monkeypatch.setattr(compiling, "TENSORRT_RTX", dataclasses.replace(TENSORRT_RTX, module="no_such_package"))
    written = compile_zoo.run(["small"], zoo / "out", work=zoo).read_text()
    no_file = "- no file: Small (jetson-orin-trt11 fp16), Small (jetson-orin-trt11 int8): compiling for TensorRT"
    assert f"{no_file} (`compile`) needs the package" in written and "0 of 0 files built" in written
