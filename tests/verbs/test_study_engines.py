"""`edgeq study --template detector-edge` on a small classifier: files, scores and times of every engine."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from edgeq.calibration.source import CalibrationSource
from edgeq.cli.app import app
from edgeq.datasets import open_split
from edgeq.errors import InputError, ModelError
from edgeq.runtimes import child
from edgeq.runtimes.litert import LiteRtSession
from edgeq.runtimes.onnxruntime import OnnxRuntimeSession
from edgeq.sources.model import ModelRequest
from edgeq.verbs import study_engines as verb
from edgeq.verbs.study_engines import study_engines
from tests.benchmarks.conftest import BRIEF
from tests.tuning.nets import save_classifier


def test_a_precision_that_computes_something_else_is_left_out_alone(monkeypatch, tmp_path):
    asked: list[Sequence[str]] = []
    broken = {"fp16"}

    def export(_request, _target, precisions, *_rest, **_further):
        asked.append(precisions)
        if broken.intersection(precisions):
            raise ModelError("model.fp16.onnx: differs")
        return SimpleNamespace(files=[SimpleNamespace(artifact=each) for each in precisions])

    monkeypatch.setattr(verb, "export_model", export)
    monkeypatch.setattr(OnnxRuntimeSession, "is_installed", lambda: True)
    arguments = ModelRequest("m"), "onnxruntime", CalibrationSource(tmp_path), tmp_path, 1
    notes: list[str] = []
    assert [*map(str, verb._written(*arguments, notes))] == ["fp32", "int8", "dynamic"]
    assert notes == ["fp16 in onnxruntime is left out: model.fp16.onnx: differs"]
    assert asked == [verb.PRECISIONS, *((each,) for each in verb.PRECISIONS)]
    broken.update(verb.PRECISIONS)
    with pytest.raises(InputError, match="differs"):
        verb._written(*arguments, notes)


def test_each_precision_is_scored_and_timed_in_each_engine_that_takes_it(tmp_path, monkeypatch, warm_python):
    monkeypatch.setattr(child, "subprocess", warm_python)
    monkeypatch.setattr(LiteRtSession, "is_installed", lambda: False)
    monkeypatch.setattr(verb, "PRECISIONS", ("fp32", "int8"))
    file, preset, labels, calib = save_classifier(tmp_path, images=30)
    request, data = ModelRequest(str(file), preset=str(preset)), open_split(labels, "evaluation")
    source, out = CalibrationSource(calib, num=4), tmp_path / "out"
    found = study_engines(
        request, data, source, out, engines=("onnxruntime", "litert"), images=20, threads=1, sampling=BRIEF
    )
    assert [each.precision for each in found.entries] == ["fp32", "int8"]
    assert {each.images for each in found.entries} == {20}
    assert all(each.p50_ms and each.size_bytes and each.score is not None for each in found.entries)
    assert found.entries[0].ratio_to_fp32 == 1.0
    (note,) = found.notes
    assert note == "litert is left out: it is not installed"
    with (out / "engines.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["precision"] for row in rows] == ["fp32", "int8"]
    assert float(rows[1]["top1"]) == found.entries[1].scores["top1"]
    assert "int8" in (out / "report.html").read_text()
    assert len(json.loads((out / "results.json").read_text())) == 4
    with pytest.raises(InputError, match=r"\Ano engine can be studied; litert is left out: [^\n]*\Z"):
        study_engines(request, data, source, out, engines=("litert",), sampling=BRIEF)
    command = ["study", str(file), "--data", str(labels), "--template", "detector-edge", "--preset", str(preset)]
    refused = CliRunner().invoke(app, [*command, "--calib", str(calib), "--axis", "bits=2"])
    assert "--axis: is not for detector-edge, which compares files" in str(refused.exception)
