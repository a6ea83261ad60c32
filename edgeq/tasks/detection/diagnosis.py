"""Why a detector is wrong: kinds of error, confused classes, precision by recall, and how reliable its scores are."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from edgeq.tasks.detection.tide import Verdicts, judge
from edgeq.tasks.evidence import Confusion, Diagnosis, ScoreBin, ordered

if TYPE_CHECKING:
    from edgeq.tasks.detection.records import DetectionPredictions

LEAST_SCORE = 0.05
"""Score from which detections count for the reliability: below it, detectors give what their recall needs."""

_BINS = np.linspace(0.0, 1.0, 11)


def diagnose(predictions: DetectionPredictions, threshold: float) -> Diagnosis:
    """Returns what is wrong with the detections of a file.

    Args:
        predictions: Detections and annotated boxes.
        threshold: Score from which detections count for the confusions.
    """
    verdicts = judge(predictions)
    curves = list(verdicts.precision().values())
    bins, error = reliability(verdicts)
    return Diagnosis(
        threshold=threshold,
        confusions=confusions(judge(_from_score(predictions, threshold)), predictions.classes),
        errors=verdicts.errors(),
        precision=tuple(np.mean(curves, axis=0).tolist()) if curves else (),
        reliability=bins,
        calibration_error=error,
    )


def confusions(verdicts: Verdicts, classes: tuple[str, ...]) -> tuple[Confusion, ...]:
    """Returns how often each class is taken for which, the errors first.

    A box that no detection of its class finds is taken for the class of the best other detection on it (IoU of at least
    .5), or missed; every other wrong detection is a false alarm.
    """
    confused = verdicts.corrected & (verdicts.kinds == "classification")
    placed = (verdicts.kinds == "hit") | confused
    alarms = ~placed & (verdicts.kinds != "ignored")
    missed = ~verdicts.found
    missed[verdicts.boxes[confused]] = False
    pairs = zip(verdicts.box_classes[verdicts.boxes[placed]].tolist(), verdicts.classes[placed].tolist(), strict=True)
    counts: Counter[tuple[int | None, int | None]] = Counter(pairs)
    counts.update((None, label) for label in verdicts.classes[alarms].tolist())
    counts.update((label, None) for label in verdicts.box_classes[missed].tolist())

    def name(label: int | None) -> str | None:
        return None if label is None else classes[label]

    return ordered(Confusion(name(truth), name(found), count) for (truth, found), count in counts.items())


def reliability(verdicts: Verdicts) -> tuple[tuple[ScoreBin, ...], float | None]:
    """Returns how often detections of a score are right, in ten bins, and the expected calibration error.

    The error is the mean of the bins' distance between mean score and share of right detections, weighted by their
    counts ("Multivariate Confidence Calibration for Object Detection", Kueppers et al., 2020, over the score alone).
    """
    counted = (verdicts.kinds != "ignored") & (verdicts.scores >= LEAST_SCORE)
    scores, right = verdicts.scores[counted], verdicts.kinds[counted] == "hit"
    places = np.clip(np.searchsorted(_BINS, scores, side="right") - 1, 0, len(_BINS) - 2)
    bins, error = [], 0.0
    for number, (low, high) in enumerate(zip(_BINS[:-1].tolist(), _BINS[1:].tolist(), strict=True)):
        inside = places == number
        count = int(inside.sum())
        mean = float(scores[inside].mean()) if count else None
        share = float(right[inside].mean()) if count else None
        bins.append(ScoreBin(round(low, 1), round(high, 1), count, mean, share))
        if mean is not None and share is not None:
            error += count / len(scores) * abs(mean - share)
    return tuple(bins), error if len(scores) else None


def _from_score(predictions: DetectionPredictions, threshold: float) -> DetectionPredictions:
    kept = predictions.scores >= threshold
    images = np.repeat(np.arange(len(predictions.counts)), predictions.counts)[kept]
    return dataclasses.replace(
        predictions,
        counts=np.bincount(images, minlength=len(predictions.counts)).astype(np.int32),
        boxes=predictions.boxes[kept],
        scores=predictions.scores[kept],
        labels=predictions.labels[kept],
    )
