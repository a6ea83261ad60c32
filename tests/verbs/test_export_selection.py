"""Where the whole INT8 file is not faster than FP32, export looks for a selection of its layers that is."""

from __future__ import annotations

import dataclasses
import logging
from functools import partial

import numpy as np
import pytest

from edgeq.calibration.source import CalibrationSource
from edgeq.cli.export_console import describe_export
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.costs.table import KernelCost, KernelTable
from edgeq.exporting.quantization_facts import SpeedFacts
from edgeq.machine import read_machine
from edgeq.measurement.speed_check import measure_speed
from edgeq.runtimes import open_session
from edgeq.sources.model import ModelRequest
from edgeq.verbs import export_costs, export_selection, export_speed
from edgeq.verbs.export import ExportResult, export_model
from tests.measurement.test_speed_check import QUICK


@pytest.fixture
def export(small_onnx, drawn, tmp_path, monkeypatch):
    """Exports for ONNX Runtime by costs that promise the more the more channels a layer has."""

    def costs(runtime, kernels, *, threads, measure):
        rows = {kernel: KernelCost(1.0 + kernel.macs / 1e3, 1.0 + kernel.macs / 3e3) for kernel in kernels}
        return KernelTable(runtime, "1.2", "a CPU", ("avx2",), 1, "shipped", rows)

    def write() -> ExportResult:
        return export_model(
            ModelRequest(str(small_onnx), preset="centernet"),
            "x86-ort",
            ["int8"],
            tmp_path,
            calibration=CalibrationSource(drawn.annotations, drawn.folder, method="minmax", num=2),
            formats=["onnx"],
            threads=1,
            measure_speed=True,
            plan="cost",
        )

    machine = dataclasses.replace(read_machine(), architecture="x86_64", emulated=False)
    monkeypatch.setattr(export_speed, "read_machine", lambda: machine)
    monkeypatch.setattr(export_speed, "is_installed", lambda runtime: True)
    monkeypatch.setattr(export_costs, "costs_here", costs)
    return write


@pytest.fixture
def timer(monkeypatch):
    """Times files by how many layers they have in INT8; what was timed is kept."""
    timed: list[int] = []

    def install(is_faster, recommended="fp32"):
        def time_file(int8, fp32, runtime, machine, threads):
            layers = int8.quantization_facts.int8_nodes
            timed.append(layers)
            ratio = 0.9 if is_faster(timed) else 1.1
            return SpeedFacts(
                runtime=runtime, engine="onnxruntime 1", cpu="a CPU", threads=threads, ratio=ratio, low=ratio - 0.02,
                high=ratio + 0.02, rounds=9, recommended="int8" if ratio < 1 else recommended,
            )  # fmt: skip

        monkeypatch.setattr(export_speed, "measure_speed", time_file)
        return timed

    return install


def test_the_smallest_selection_that_gains_is_written(export, timer, tmp_path):
    timed = timer(lambda timed: 1 < timed[-1] < timed[0])
    result = export()
    file = Artifact.load(result.paths[0])
    facts = file.quantization_facts
    whole, *tried = timed
    assert facts.int8_nodes == tried[-1] == tried[-2], "it was timed twice"
    assert facts.int8_nodes is not None and 1 < facts.int8_nodes < whole
    assert facts.speed is not None and facts.speed.recommended == "int8"
    assert (facts.speed.ratio, facts.speed.tried[-1].ratio, facts.speed.tried[0].ratio) == (0.9, 0.9, 1.1)
    assert [each.int8_nodes for each in facts.speed.tried] == list(dict.fromkeys(timed))
    left = [reason for reason in facts.float_nodes.values() if reason.startswith("a smaller selection is faster")]
    assert left, "the manifest says why the other layers stay in float"
    assert file.quantization["signal"]["outputs"], "the smaller file is compared with the model too"
    assert [path.name for path in tmp_path.glob("*.onnx")] == [file.path.name]
    (line,) = (line for line in describe_export(result) if "selections of int8 layers" in line)
    assert line.endswith(f"; the file has {facts.int8_nodes}")


def test_the_whole_selection_stays_where_none_gains(export, timer):
    timed = timer(lambda timed: False)
    result = export()
    facts = Artifact.load(result.paths[0]).quantization_facts
    assert len(timed) > 2 and len(set(timed)) == len(timed)
    assert facts.int8_nodes == timed[0]
    assert facts.speed is not None and facts.speed.recommended == "fp32"
    assert [each.int8_nodes for each in facts.speed.tried] == timed
    assert timed[1:] == sorted(timed[1:]) and timed[-1] < timed[0]
    assert any("none is faster than fp32" in line for line in describe_export(result))


def test_a_selection_that_is_faster_once_alone_is_not_taken(export, timer):
    timed = timer(lambda timed: len(timed) == 2)
    facts = Artifact.load(export().paths[0]).quantization_facts
    assert facts.speed is not None and facts.speed.recommended == "fp32"
    assert facts.int8_nodes == timed[0] and timed[1] == timed[2]
    assert facts.speed.tried[1].ratio == 1.1


@pytest.mark.parametrize("recommended", ["", "fp32 computed in bf16"])
def test_nothing_is_tried_where_it_cannot_be_told_or_bf16_is_faster(export, timer, recommended):
    timed = timer(lambda timed: False, recommended)
    facts = Artifact.load(export().paths[0]).quantization_facts
    assert len(timed) == 1 and facts.speed is not None and facts.speed.tried == ()


def test_the_search_has_its_time(export, timer, monkeypatch, caplog):
    monkeypatch.setattr(export_selection, "SEARCH_S", -1.0)
    timed = timer(lambda timed: False)
    with caplog.at_level(logging.WARNING):
        export()
    assert len(timed) == 1
    assert "were not enough to time all smaller selections" in caplog.text


def test_real_processes_time_selections_and_the_file_is_the_one_that_they_recommend(export, monkeypatch):
    monkeypatch.setattr(export_speed, "measure_speed", partial(measure_speed, sampling=QUICK))
    file = Artifact.load(export().paths[0])
    facts = file.quantization_facts
    assert facts.speed is not None and facts.speed.engine.startswith("onnxruntime 1.")
    for tried in facts.speed.tried:
        assert 0 < tried.low <= tried.ratio <= tried.high
    if facts.speed.tried:
        kept = facts.speed.tried[-1 if facts.speed.recommended == "int8" else 0]
        assert facts.int8_nodes == kept.int8_nodes
    with open_session(file, "onnxruntime", 1, "f32") as session:
        outputs = session.run({file.inputs[0].name: np.zeros([size or 1 for size in file.inputs[0].shape], np.float32)})
    assert all(np.isfinite(values).all() for values in outputs.values())
