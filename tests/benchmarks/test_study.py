"""The benchmark of studies writes its pages about small models."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

from benchmarks import cases
from benchmarks.study import __main__ as study
from benchmarks.study import detectors, page, workers
from benchmarks.study.cases import Case
from edgeq.reporting.document import Entry
from edgeq.results.study import PartImportance, Share, StudyImportance, StudyResult
from edgeq.sources.model import ModelRequest
from edgeq.studying.space import Space
from edgeq.verbs.study import StudyOptions
from edgeq.verbs.study_engines import EngineStudy
from tests.tuning.nets import save_classifier


def test_the_page_has_the_front_and_what_sharing_saves(tmp_path):
    file, preset, labels, calib = save_classifier(tmp_path, images=40, outlier=1.0, spare=True)
    case = Case("a classifier", ModelRequest(str(file), preset=str(preset)), labels, calib, 4)
    space = Space(bits=(2, 8), granularity=("row",), block=("subsets",), blocks=2)
    timed = Space(bits=(2,), granularity=("row",), method=("gptq",))
    options = StudyOptions(threads=1)
    text = study.run_vit("weights-bits", case, space, timed, options, tmp_path / "work", tmp_path).read_text()
    assert "| w2 rtn row: 1of2+2of2 |" in text or "| w2 rtn row: 1of2 |" in text or "| w2 rtn row: 2of2 |" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| gptq | 40 |"))
    shared, alone = (float(cell) for cell in row.split("|")[3:5])
    assert alone >= shared >= 0
    assert "importance by block (rtn): " in text


def test_workers_are_timed_in_turns_with_one(tmp_path, monkeypatch):
    file, preset, labels, calib = save_classifier(tmp_path, images=40, outlier=1.0)
    case = Case("a classifier", ModelRequest(str(file), preset=str(preset)), labels, calib, 4)
    asked: list[int] = []

    @contextlib.contextmanager
    def executing(count):
        asked.append(count)
        yield None

    monkeypatch.setattr(workers, "executing", executing)
    found = workers.vit_scaled(case, Space(bits=(2,), granularity=("row",)), StudyOptions(threads=1), 2)
    assert asked == [1, 2] * workers.ROUNDS
    assert found.alike and (found.trials, found.images) == (3, 40)
    (row,) = (line for line in workers.page([found], "command").splitlines() if line.startswith("| a classifier | 3 |"))
    assert row.endswith("| the same, bit for bit |") and f"| {found.ratio:.2f} |" in row


def test_engines_are_told_by_what_int8_takes(tmp_path, monkeypatch):
    nothing: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(Entry))
    ratios = {"fp32": 1.0, "int8": 0.5, "dynamic": 2.0}
    known = nothing | {
        "runtime": "onnxruntime",
        "engine": "onnxruntime 1",
        "scores": {"AP": 0.5, "AR_1": 0.1, "x": 1.0},
    }
    entries = tuple(
        Entry(**known | {"precision": precision, "ratio_to_fp32": ratio}) for precision, ratio in ratios.items()
    )
    found = EngineStudy(entries, ("litert is left out: it is not installed",), ())
    monkeypatch.setattr(detectors, "study_engines", lambda *_rest, **_further: found)
    monkeypatch.setattr(detectors, "open_split", lambda *_rest: None)
    one = cases.Case("c", "C on i", ModelRequest("c"), tmp_path, tmp_path, 1, tmp_path, tmp_path)
    text = detectors.run_detectors([one], 5, tmp_path, tmp_path).read_text()
    assert "- onnxruntime: static INT8 takes 0.50 of FP32's time, dynamic INT8 takes 2.00 of FP32's time." in text
    assert "| engine | precision | AP | AR_1 | points lost, 95 % | MB | ms | time / FP32 |" in text
    assert "- litert is left out" in text


def test_importance_is_shown_beside_the_published_tables():
    shown = "\n".join(page.beside_published(_result()))
    assert "| LLaVA, GQA | 20.9 / - / 79.1 | 5.4 / - / 94.6 |" in shown
    assert "| **this reader**, surnames | 90.0 / 1.0 / 9.0 | not fit |" in shown
    assert "The vision part carries most here (90 % by gptq)." in shown


def _result() -> StudyResult:
    share = Share(value=0.5, low=0.4, high=0.6)
    shares = {"vision": 0.9, "connector": 0.01, "decoder": 0.09}
    parts = tuple(
        PartImportance(part=part, forest=share, permutation=share, consensus=value) for part, value in shares.items()
    )
    found = StudyImportance(axis="component", method="gptq", trials=36, forest_r2=0.9, linear_r2=0.1, parts=parts)
    return StudyResult(
        model="m", source_digest="", task="transcription", score="exact_match", space={}, sample="grid",
        trials_asked=0, trials_in_space=0, cells={}, points=(), importance=(found,), weights_quantized=0,
        weights_used=0, images=1, float_score=1.0, seed=0,
    )  # fmt: skip
