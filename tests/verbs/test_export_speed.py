from __future__ import annotations

import dataclasses
import logging

import pytest

from edgeq.calibration.source import CalibrationSource
from edgeq.cli.export_console import describe_export
from edgeq.errors import EngineError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.quantization_facts import SpeedFacts
from edgeq.machine import read_machine
from edgeq.sources.model import ModelRequest
from edgeq.verbs import export_speed
from edgeq.verbs.export import ExportResult, export_model

SLOW = SpeedFacts(
    runtime="openvino", engine="openvino 1", cpu="a CPU", threads=2, ratio=1.31, low=1.2, high=1.4, rounds=40,
    recommended="fp32", bf16_ratio=1.1,
)  # fmt: skip


@pytest.fixture
def on_x86(monkeypatch):
    """A machine that runs every engine and times what it is told; the calls are kept."""
    calls = []

    def measured(int8, fp32, runtime, machine, threads):
        assert fp32.path.is_file()
        calls.append((int8.precision, fp32.precision, runtime, threads))
        return SLOW

    machine = dataclasses.replace(read_machine(), architecture="x86_64", emulated=False)
    monkeypatch.setattr(export_speed, "read_machine", lambda: machine)
    monkeypatch.setattr(export_speed, "is_installed", lambda runtime: True)
    monkeypatch.setattr(export_speed, "measure_speed", measured)
    return calls


@pytest.fixture
def export(small_onnx, drawn, tmp_path):
    def write(*precisions: str, target: str = "x86", measure_speed: bool = True) -> ExportResult:
        return export_model(
            ModelRequest(str(small_onnx), preset="centernet"),
            target,
            precisions,
            tmp_path,
            calibration=CalibrationSource(drawn.annotations, drawn.folder, method="minmax", num=2),
            formats=["onnx"],
            threads=1,
            measure_speed=measure_speed,
        )

    return write


def test_the_manifest_says_which_file_to_take(on_x86, export):
    result = export("fp32", "int8")
    assert on_x86 == [("int8", "fp32", "openvino", 1)]
    fp32, int8 = (Artifact.load(path) for path in result.paths)
    assert int8.quantization_facts.speed == SLOW
    assert fp32.quantization_facts.speed is None
    lines = describe_export(result)
    (line,) = (line for line in lines if "than FP32" in line)
    assert (
        "int8 is 1.3x slower than FP32 (1.20x to 1.40x); FP32 computed in bf16 is 1.1x slower than FP32 (measured"
        in line
    )
    assert line.endswith("openvino 1, 2 threads, a CPU): int8 is not the fastest here, take fp32")
    assert "int8 is planned for openvino (target x86-openvino); for onnxruntime: --runtime onnxruntime" in lines


def test_the_float_file_to_compare_with_does_not_stay(on_x86, export, tmp_path):
    result = export("int8", target="x86-ort")
    assert on_x86 == [("int8", "fp32", "onnxruntime", 1)]
    assert [path.name for path in tmp_path.glob("*.onnx")] == [result.paths[0].name]


@pytest.mark.parametrize(("target", "measured"), [("x86", False), ("arm", True)])
def test_nothing_is_timed_unasked_or_for_another_machine(on_x86, export, target, measured):
    result = export("int8", target=target, measure_speed=measured)
    assert on_x86 == []
    assert result.files[0].artifact.quantization_facts.speed is None


def test_a_file_whose_timing_fails_is_written_all_the_same(on_x86, export, monkeypatch, caplog):
    def died(*_):
        raise EngineError("its process died")

    monkeypatch.setattr(export_speed, "measure_speed", died)
    with caplog.at_level(logging.WARNING):
        result = export("int8")
    assert "its speed was not measured (its process died)" in caplog.text
    assert Artifact.load(result.paths[0]).quantization_facts.speed is None
