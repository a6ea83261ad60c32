"""The table of INT8 over calibrations: its figures, what is kept, and a model that has no score."""

from __future__ import annotations

import pytest

from benchmarks import calibration_draws
from benchmarks.any_graph import Subject
from benchmarks.scored_models import ScoredModel
from edgeq.calibrators.ranges import Ranges
from tests.benchmarks.conftest import table

TOLERANCE = 0.1
"""How far INT8's AP on two images may lie from FP32's: a file that was mixed up with another lies further."""

BARE = '[preprocessing]\nresize = "stretch"\n'
FOUND = {
    "lp 4": [{"value": 0.50, "db": 20.0}, {"value": 0.52, "db": 22.0}],
    "mse": [{"value": 0.49, "db": 21.0}, {"value": 0.47, "db": 24.0}],
}


@pytest.mark.slow
def test_draws_are_calibrated_scored_and_kept(subject, small_onnx, tmp_path, monkeypatch):
    data, work = tmp_path / "data", tmp_path / "work"
    (data / "coco").mkdir(parents=True)
    (data / "coco/train2017").symlink_to(subject.calibration_images)
    (data / "coco/val2017").symlink_to(subject.validation_images)
    (data / "coco/instances_val.json").symlink_to(subject.validation)
    file = subject.request.reference
    subjects = {
        "Shapes": ScoredModel(Subject("Shapes", file, "centernet")),
        "Bare": ScoredModel(Subject("Bare", str(small_onnx), BARE)),
    }  # fmt: skip
    monkeypatch.setattr(calibration_draws, "SUBJECTS", subjects)
    methods = {title: calibration_draws.METHODS[title] for title in FOUND}
    monkeypatch.setattr(calibration_draws, "METHODS", methods)
    options = {"data": data, "images": 3, "draws": 2, "work": work}
    rows = table(calibration_draws.run(list(subjects), tmp_path, **options))
    assert list(rows)[1:] == [(title, method) for title in subjects for method in methods]
    for method in methods:
        score, reference, mean, _, least, most, _, signal, _ = rows["Shapes", method]
        assert (score, float(reference) > 0.5) == ("AP, 2 images", True)
        assert -TOLERANCE < float(least) <= float(mean.split()[0]) <= float(most) < TOLERANCE
        assert float(signal) > 15
        assert set(rows["Bare", method][:7]) == {"–"}
        assert float(rows["Bare", method][7]) > 15
    images = [Ranges.load(work / f"Shapes/draw_{seed}.3.ranges.json").provenance.images_digest for seed in (0, 1)]
    assert images[0] != images[1]
    for name in ("score_draw", "score_float"):  # what is there is not computed again
        monkeypatch.setattr(calibration_draws, name, None)
    assert table(calibration_draws.run(list(subjects), tmp_path, **options)) == rows


def test_means_over_draws_and_paired_differences():
    reference = {"name": "AP", "value": 0.51, "images": 88}
    first, second = ([each.strip() for each in row.split("|")[1:-1]] for row in calibration_draws.rows_of(
        "Detector", reference, FOUND
    ))  # fmt: skip
    # Of two draws the deviation is their distance over the root of two, and half of it the standard error.
    scored = ["Detector", "lp 4", "AP, 88 images", "0.5100", "+0.0000 +- 0.0100", "0.0141", "-0.0100", "+0.0100"]
    assert first == [*scored, "", "21.0", ""]
    assert second[4:8] == ["-0.0300 +- 0.0100", "0.0141", "-0.0400", "-0.0200"]
    assert second[8:] == ["-0.0300 +- 0.0200", "22.5", "+1.5 +- 0.5"]


def test_models_that_choose_do_not_confirm():
    chosen = {*calibration_draws.CHOOSING, *calibration_draws.CONFIRMING}
    assert chosen == calibration_draws.SUBJECTS.keys()
    assert len(chosen) == len(calibration_draws.CHOOSING) + len(calibration_draws.CONFIRMING)
