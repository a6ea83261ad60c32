"""`edgeq gate`: which limit passes, which fails, and what so few images prove."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.json_results import merge
from edgeq.errors import InputError
from edgeq.tasks.classification.records import ClassificationPredictions
from edgeq.tasks.embedding import EmbeddingPredictions
from edgeq.tasks.prediction_records import pack_predictions
from edgeq.verbs.gate import FAILED, NOT_MEASURED, NOT_PROVED, PASSED, GateResult, Limits, Verdict, check_limits
from tests.reporting.made import ENVIRONMENT, make_detections, make_ground_truth, make_score, make_timing

TRUTH = make_ground_truth(40, seed=5)
GOOD = make_detections(TRUTH, 1, 1.0)
BAD = make_detections(TRUTH, 1, 9.0)


def pair(detections=BAD, **changes: Any) -> list[dict[str, Any]]:
    return [make_score(TRUTH, GOOD, "fp32"), make_score(TRUTH, detections, "int8", **changes)]


def interval(verdict: Verdict) -> tuple[float, float]:
    assert verdict.low is not None
    assert verdict.high is not None
    return verdict.low, verdict.high


def judge(results: list[dict[str, Any]], **limits: Any) -> GateResult:
    return check_limits(merge(results), Limits(**limits))


def test_a_drop_beyond_the_limit_fails_and_names_the_figures():
    results = pair()
    drop = 100 * (results[0]["AP"] - results[1]["AP"])
    gate = judge(results, max_drop=drop - 0.01)
    (verdict,) = gate.verdicts
    assert not gate.passed
    assert verdict.verdict == FAILED
    assert verdict.figure == pytest.approx(drop, abs=1e-9)
    low, high = interval(verdict)
    assert low < drop < high
    assert (verdict.artifact, verdict.limit) == ("net.x86.int8.onnx", "max-drop")


def test_within_the_limit_but_not_proved_passes_unless_strict():
    results = pair()
    drop = 100 * (results[0]["AP"] - results[1]["AP"])
    gate = judge(results, max_drop=drop + 0.01)
    assert [each.verdict for each in gate.verdicts] == [NOT_PROVED]
    assert gate.passed
    assert not judge(results, max_drop=drop + 0.01, strict=True).passed
    proved = judge(results, max_drop=100, strict=True)
    assert proved.passed
    assert [each.verdict for each in proved.verdicts] == [PASSED]


def test_the_same_detections_prove_that_nothing_is_lost():
    (verdict,) = judge(pair(GOOD), max_drop=0.0, strict=True).verdicts
    assert (verdict.figure, verdict.low, verdict.high, verdict.verdict) == (0, 0, 0, PASSED)


def test_more_images_prove_more():
    def width(images: int) -> float:
        truth = make_ground_truth(images, seed=3)
        results = [
            make_score(truth, make_detections(truth, 1, noise), precision)
            for noise, precision in ((1.0, "fp32"), (4.0, "int8"))
        ]
        (verdict,) = judge(results, max_drop=1).verdicts
        low, high = interval(verdict)
        return high - low

    # The width falls with the root of the number of images.
    assert 2.5 < width(20) / width(320) < 6.5


def test_the_interval_covers_the_true_drop_about_as_often_as_it_says():
    """Accuracy of which the true drop is known: FP32 is right in 80 %, INT8 in 72 %, of which 2 % anew."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        before = rng.random(150) < 0.8
        flipped = rng.random(150)
        now = np.where(before, flipped >= 0.125, flipped < 0.1)
        (verdict,) = judge(classified(before, now), max_drop=50).verdicts
        low, high = interval(verdict)
        covered += low <= 8.0 <= high
    assert covered >= 50


def classified(before: np.ndarray, now: np.ndarray) -> list[dict[str, Any]]:
    """Results of a classifier of three classes that is right where it says."""
    truth = np.arange(len(before)) % 3
    results = []
    for precision, right in (("fp32", before), ("int8", now)):
        ranked = np.stack([np.where(right, truth, (truth + 1) % 3), np.where(right, (truth + 1) % 3, truth)], axis=1)
        per_class = [
            {"name": name, "class_index": number, "images": int((truth == number).sum()),
             "top1": float(right[truth == number].mean())}
            for number, name in enumerate("abc")
        ]  # fmt: skip
        predictions = ClassificationPredictions(
            tuple("abc"), tuple(map(str, range(len(truth)))), ranked.astype(np.int32), truth.astype(np.int32)
        )
        results.append(
            other(precision, task="classification", top1=float(right.mean()), top5=None, images=len(truth),
                  per_class=per_class, predictions=pack_predictions(predictions))
        )  # fmt: skip
    return results


def other(precision: str, **changes: Any) -> dict[str, Any]:
    shared = {"target": "x86", "runtime": "onnxruntime", "source_digest": "made", "environment": ENVIRONMENT}
    return {"artifact": f"net.x86.{precision}.onnx", "digest": precision, "precision": precision, **shared, **changes}


def test_classes_of_a_classifier_are_judged_by_their_images():
    before, now = np.ones(60, bool), np.arange(60) % 3 != 1
    gate = judge(classified(before, now), per_class=30, max_drop=50, small=1)
    # Small boxes do not go with a classifier.
    assert [each.limit for each in gate.verdicts] == ["max-drop", "per-class"]
    assert gate.verdicts[1].figure == pytest.approx(100)
    assert gate.verdicts[1].note == "b lost most, 20 images"


def test_an_embedding_is_held_to_its_cosine():
    cosines = np.linspace(0.99, 1.0, 50, dtype=np.float32)
    predictions = EmbeddingPredictions(tuple(map(str, range(50))), cosines)
    score = other(
        "int8", task="embedding", cosine=float(cosines.mean()), images=50, predictions=pack_predictions(predictions)
    )
    (verdict,) = judge([score], max_drop=0.6).verdicts
    assert verdict.figure == pytest.approx(0.5, abs=1e-4)
    low, high = interval(verdict)
    assert 0.3 < low < 0.5 < high < 0.6
    assert verdict.verdict == PASSED


def test_the_worst_class_is_named_and_rare_ones_are_not_judged():
    results = pair()
    gate = judge(results, per_class=100.0, few=1)
    drops = {
        old["name"]: 100 * (old["ap"] - new["ap"])
        for old, new in zip(results[0]["per_class"], results[1]["per_class"], strict=True)
    }
    worst = max(drops, key=drops.__getitem__)
    assert gate.verdicts[0].figure == pytest.approx(drops[worst])
    assert gate.verdicts[0].note.startswith(f"{worst} lost most, ")
    boxes = {entry["name"]: entry["boxes"] for entry in results[0]["per_class"]}
    most = max(boxes.values())
    left = judge(results, per_class=100.0, few=most)
    rare = [name for name, count in boxes.items() if count < most]
    assert set(left.verdicts[0].not_judged) == {f"{name} ({boxes[name]})" for name in rare}
    assert f"fewer than {most} boxes, not judged" in left.verdicts[0].note
    none = judge(results, per_class=100.0, few=most + 1)
    assert none.verdicts[0].verdict == NOT_MEASURED
    assert not none.passed


def test_small_boxes_have_a_limit_of_their_own():
    results = pair()
    (verdict,) = judge(results, small=100).verdicts
    assert verdict.figure == pytest.approx(100 * (results[0]["AP_small"] - results[1]["AP_small"]))
    low, high = interval(verdict)
    assert verdict.figure is not None and low <= verdict.figure <= high


def test_latency_is_held_to_the_ratio_of_interleaved_rounds():
    timings = [make_timing("fp32", 8.0), make_timing("int8", 4.0)]
    rounds = [np.array(each["samples_ns"]).reshape(30, 4) for each in timings]
    ratios = np.median(rounds[1], axis=1) / np.median(rounds[0], axis=1)
    timings[1]["ratio_to_fp32"] = float(np.median(ratios))
    (verdict,) = judge(timings, latency_ratio=0.8).verdicts
    assert verdict.verdict == PASSED
    assert verdict.figure == np.median(ratios)
    low, high = interval(verdict)
    assert ratios.min() <= low <= np.median(ratios) <= high <= ratios.max()
    assert judge(timings, latency_ratio=0.4).verdicts[0].verdict == FAILED


def test_rounds_of_another_run_give_no_interval():
    timings = [make_timing("fp32", 8.0), make_timing("int8", 4.0, ratio_to_fp32=0.4)]
    (verdict,) = judge(timings, latency_ratio=0.8).verdicts
    assert (verdict.figure, verdict.high, verdict.verdict) == (0.4, None, NOT_PROVED)
    assert "FP32 of the same run is not among the results" in verdict.note


@pytest.mark.parametrize(
    ("results", "limits"),
    [
        ([make_timing("int8", 4.0)], {"max_drop": 1}),
        ([make_score(TRUTH, GOOD, "int8")], {"max_drop": 1}),
        (pair(), {"latency_ratio": 0.8}),
        ([make_timing("fp32", 8.0), make_timing("int8", 4.0, ratio_to_fp32=None)], {"latency_ratio": 0.8}),
        (pair(runtime="openvino"), {"max_drop": 100}),
        (pair(device="pi"), {"max_drop": 100}),
    ],
    ids=["not scored", "no FP32", "not timed", "no ratio", "FP32 in another engine", "FP32 on another device"],
)
def test_what_was_not_measured_does_not_pass(results, limits):
    gate = judge(results, **limits)
    assert [each.verdict for each in gate.verdicts] == [NOT_MEASURED]
    assert not gate.passed


def test_results_without_predictions_have_a_figure_but_prove_nothing():
    results = pair(GOOD)
    del results[1]["predictions"]
    (verdict,) = judge(results, max_drop=1).verdicts
    assert (verdict.figure, verdict.high, verdict.verdict) == (0, None, NOT_PROVED)
    assert "run edgeq eval again" in verdict.note


def test_other_images_are_not_compared():
    fewer = {image: found for image, found in GOOD.items() if image != min(GOOD)}
    results = [make_score(TRUTH, GOOD, "fp32"), make_score(TRUTH, fewer, "int8")]
    for verdict in judge(results, max_drop=100, per_class=100, small=100).verdicts:
        assert (verdict.verdict, verdict.figure) == (NOT_MEASURED, None)
        assert "FP32 was scored on other images" in verdict.note


def _damage(changes: Callable[[dict[str, Any], dict[str, Any]], object]) -> list[dict[str, Any]]:
    """Returns results without predictions, after an accident."""
    results = copy.deepcopy(pair(GOOD))
    for each in results:
        del each["predictions"]
    changes(*results)
    return results


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        (lambda fp32, int8: fp32.update(images=3), "other images: 3 instead of 40"),
        (lambda fp32, int8: int8.update(skipped_images=["a.png"]), "other images: it skipped others"),
        (lambda fp32, int8: int8["per_class"].pop(0), "other classes: "),
        (lambda fp32, int8: fp32["per_class"].pop(0), "other classes: "),
        (lambda fp32, int8: int8["per_class"].append(int8["per_class"][0]), "in another order, or repeated"),
        (lambda fp32, int8: int8["per_class"][0].update(ap=None), "has no score, "),
        (lambda fp32, int8: int8["per_class"][0].update(boxes=1), "other labels: "),
    ],
)
def test_scores_of_other_data_do_not_pass(changes, note):
    gate = judge(_damage(changes), per_class=100, few=1)
    assert [each.verdict for each in gate.verdicts] == [NOT_MEASURED]
    assert note in gate.verdicts[0].note


def test_two_classes_of_one_name_are_compared_each_with_itself():
    def rename(fp32: dict[str, Any], int8: dict[str, Any]) -> None:
        for each in (fp32, int8):
            each["per_class"][1]["name"] = each["per_class"][0]["name"]

    (verdict,) = judge(_damage(rename), per_class=0).verdicts
    assert (verdict.figure, verdict.verdict) == (0, NOT_PROVED)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("limit", ["max_drop", "per_class", "small", "latency_ratio"])
def test_a_limit_is_a_finite_number(limit, value):
    with pytest.raises(InputError, match=f"`{limit}` {value}: wanted a finite number"):
        Limits(**{limit: value})


def test_a_limit_and_something_to_judge_are_wanted():
    with pytest.raises(InputError, match="no limit to check; give at least one of `max_drop`"):
        judge(pair())
    with pytest.raises(InputError, match=r"nothing to judge among net\.x86\.fp32\.onnx"):
        judge(pair()[:1], max_drop=1)


def test_the_command_says_so_by_its_exit_code(tmp_path: Path, edgeq):
    runs = tmp_path / "runs.json"
    runs.write_text(json.dumps(pair()))
    written = tmp_path / "gate.json"
    failed = edgeq("gate", runs, "--max-drop", 0.1, "--per-class", 90, "--json", written)
    assert failed.code == 1
    assert failed.err == ""
    lines = failed.out.splitlines()
    assert lines[0].split() == ["verdict", "artifact", "runtime", "limit", "allowed", "figure", "95", "%", "interval"]
    assert [line.split("  ")[0] for line in lines[1:3]] == ["failed", lines[2].split("  ")[0]]
    assert lines[-1].startswith("gate: failed")
    document = json.loads(written.read_text())
    assert document["passed"] is False
    assert [each["limit"] for each in document["verdicts"]] == ["max-drop", "per-class"]
    passed = edgeq("gate", runs, "--max-drop", 90)
    assert passed.code == 0
    assert passed.out.splitlines()[-1] == "gate: passed"
    assert "no limit to check" in edgeq("gate", runs).error


def test_damaged_predictions_are_one_line(tmp_path: Path, edgeq):
    results = pair()
    results[1]["predictions"]["arrays"]["boxes"]["data"] = "AAAA"
    runs = tmp_path / "runs.json"
    runs.write_text(json.dumps(results))
    assert (
        "net.x86.int8.onnx in onnxruntime: its predictions cannot be used" in edgeq("gate", runs, "--max-drop", 1).error
    )
