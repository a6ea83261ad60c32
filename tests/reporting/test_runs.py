"""What RUNS may be: results, folders of them, ranges, and manifests that lead to ranges."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from edgeq.calibrators.histogram import Histogram
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.errors import InputError
from edgeq.reporting.build import build_document
from edgeq.reporting.runs import read_runs
from edgeq.reporting.saturation import tensor_ranges
from edgeq.reporting.write import to_csv
from edgeq.tasks.detection.average_precision import match
from edgeq.tasks.detection.threshold import score_curve
from tests.reporting.made import make_detections, make_ground_truth, make_predictions, make_score, make_timing

TRUTH = make_ground_truth(10, seed=5)
GOOD = make_detections(TRUTH, 1, 1.0)


@pytest.fixture
def ranges() -> Ranges:
    values = np.arange(-100, 1000, dtype=np.float32) / 10
    provenance = Provenance("made", "pre", 3, "images", "0.1.0")
    histograms = {"wide": Histogram.of(values), "flat": Histogram.of(np.zeros(7, np.float32)), "none": Histogram()}
    return Ranges.from_histograms(histograms, provenance, "percentile", percentile=90.0)


@pytest.fixture
def folder(tmp_path: Path, ranges) -> Path:
    (tmp_path / "pi").mkdir()
    (tmp_path / "pi" / "bench.json").write_text(json.dumps([make_timing("fp32", 8.0)]))
    (tmp_path / "eval.json").write_text(json.dumps(make_score(TRUTH, GOOD, "fp32")))
    (tmp_path / "annotations.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    ranges.save(tmp_path / "net.ranges.json")
    manifest = {"path": "net.onnx", "quantization": {"ranges_digest": ranges.digest}}
    (tmp_path / "net.onnx.json").write_text(json.dumps(manifest))
    return tmp_path


def test_a_folder_gives_its_results_and_ranges_and_nothing_else(folder):
    runs = read_runs([folder])
    assert [row.artifact for row in runs.rows] == ["net.x86.fp32.onnx"]
    assert runs.rows[0].scores
    assert runs.rows[0].timing
    assert [source.name for source in runs.sources] == ["eval.json", "bench.json", "net.ranges.json"]


def test_a_manifest_leads_to_the_ranges_of_its_file(folder, ranges):
    runs = read_runs([folder / "eval.json", folder / "net.onnx.json"])
    assert [each.ranges.digest for each in runs.ranges] == [ranges.digest]
    ranges.with_method("minmax").save(folder / "net.ranges.json")
    assert read_runs([folder / "eval.json", folder / "net.onnx.json"]).ranges == ()


def test_a_named_file_of_another_kind_is_refused(folder):
    with pytest.raises(InputError, match=r"annotations\.json: has no 'artifact'; expected a result"):
        read_runs([folder / "annotations.json"])
    with pytest.raises(InputError, match="no such file"):
        read_runs([folder / "gone.json"])
    with pytest.raises(InputError, match="no results"):
        read_runs([folder / "net.ranges.json"])


def test_two_versions_of_an_engine_and_two_devices_are_rows_of_their_own(tmp_path):
    old = {**make_score(TRUTH, GOOD, "fp32")["environment"], "engine": "onnxruntime 1.30.0"}
    results = [
        make_score(TRUTH, GOOD, "fp32"),
        make_score(TRUTH, GOOD, "fp32", environment=old),
        make_timing("fp32", 8.0, device="pi"),
    ]
    file = tmp_path / "runs.json"
    file.write_text(json.dumps(results))
    rows = read_runs([file]).rows
    assert [(row.engine, row.device) for row in rows] == [
        ("onnxruntime 1.31.1", "local"),
        ("onnxruntime 1.30.0", "local"),
        ("onnxruntime 1.31.1", "pi"),
    ]


def test_what_a_range_cuts_off_is_counted(ranges):
    wide, *rest = tensor_ranges(ranges)
    values = np.arange(-100, 1000) / 10
    outside = np.mean((values < wide.low) | (values > wide.high))
    assert wide.name == "wide"
    assert outside > 0.05
    assert wide.cut_off == pytest.approx(outside, abs=2e-3)
    assert sum(wide.bars) == pytest.approx(1)
    flat = next(each for each in rest if each.name == "flat")
    none = next(each for each in rest if each.name == "none")
    assert (flat.cut_off, flat.values, none.cut_off, none.values, none.bars) == (0.0, 7, None, 0, ())


def test_the_best_threshold_is_the_best_of_all_scores():
    predictions = make_predictions(TRUTH, make_detections(TRUTH, 1, 6.0, steps=12))
    matches = match(predictions)
    curve = score_curve(matches)
    assert curve is not None
    boxes = sum(int(each.boxes.sum()) for each in matches["all"])

    def f1(threshold: float) -> float:
        kept = hit = 0
        for each in matches["all"]:
            counts = (each.scores >= threshold) & ~each.ignored[0]
            kept, hit = kept + counts.sum(), hit + (each.hits[0] & counts).sum()
        return 2 * hit / (kept + boxes)

    scores = np.unique(np.concatenate([each.scores for each in matches["all"]]))
    assert curve.best_f1 == max(map(f1, scores))
    assert f1(curve.best_threshold) == curve.best_f1
    for threshold in (0.0, 0.25, 0.5, 0.9):
        assert curve.at(threshold) == f1(threshold)


def test_csv_holds_one_line_a_row_and_no_formula(tmp_path):
    file = tmp_path / "runs.json"
    file.write_text(json.dumps([make_score(TRUTH, GOOD, "fp32", artifact="=1+1"), make_timing("int8", 4.0)]))
    lines = list(csv.DictReader(io.StringIO(to_csv(build_document(read_runs([file]), examples=0)))))
    assert [line["artifact"] for line in lines] == ["'=1+1", "net.x86.int8.onnx"]
    assert lines[0]["p50_ms"] == lines[1]["AP"] == ""
    assert float(lines[1]["p50_ms"]) == 4.0
    assert 0 < float(lines[0]["AP50"]) <= 1
