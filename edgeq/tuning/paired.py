"""The change of a score between two files, by the paired bootstrap, and what it says about a limit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeq.results.evaluation import Score
from edgeq.results.sensitivity import ScoreChange, Verdict
from edgeq.tasks.prediction_records import PredictionRecords
from edgeq.tasks.resampling import interval

_CERTAIN = 99.0
"""Percentage of the draws that an early decision rests on: the same images are looked at several times."""

_RULE_OF_THREE = 3.0
"""With none of N images changed, less than 3 of N change, at 95 % ("If nothing goes wrong", Hanley, JAMA 1983)."""


def score_change(
    before: PredictionRecords, behind: PredictionRecords, score: type[Score], matters: float
) -> tuple[ScoreChange, Verdict]:
    """Returns how many points a file loses against another on the same images, and whether that matters.

    A bootstrap knows only what it has seen: if a few images gain and none loses, it would be certain after a handful of
    images that nothing is lost, and the reverse. Where the draws end at no change at all, the rule of three widens the
    interval.

    Args:
        before: Predictions of the file that is compared with.
        behind: Those of the other file.
        score: The task's score, whose main number is compared.
        matters: Points from which a loss matters.
    """
    return change_of_draws(
        before.resampled(score.main), behind.resampled(score.main), len(before.images), score, matters
    )


def change_of_draws(
    before: NDArray[np.float64], behind: NDArray[np.float64], images: int, score: type[Score], matters: float
) -> tuple[ScoreChange, Verdict]:
    """Returns what `score_change` does, of scores over draws of the images that were computed before.

    Args:
        before: Scores of the file that is compared with, over all images and then over each draw.
        behind: Those of the other file, over the same draws.
        images: How many images are drawn from.
        score: The task's score.
        matters: Points from which a loss matters.
    """
    sign = -100 if score.lower_is_better else 100
    lost: NDArray[np.float64] = sign * (before - behind)
    draws = lost[1:][~np.isnan(lost[1:])]
    points = 0.0 if np.isnan(lost[0]) else float(lost[0])
    unseen = 100 * _RULE_OF_THREE / images
    if not draws.size:
        change = ScoreChange(points=points, low=points - unseen, high=points + unseen, images=images)
        return change, _verdict(change.low, change.high, matters)
    below, above = unseen if draws.min() == 0 else 0.0, unseen if draws.max() == 0 else 0.0
    low, high = interval(lost[1:])
    assert low is not None and high is not None  # noqa: S101 - some draws are numbers
    tail = (100 - _CERTAIN) / 2
    least, most = np.percentile(draws, [tail, 100 - tail])
    change = ScoreChange(points=points, low=low - below, high=high + above, images=images)
    return change, _verdict(float(least) - below, float(most) + above, matters)


def _verdict(low: float, high: float, matters: float) -> Verdict:
    if low > matters:
        return "matters"
    return "harmless" if high < matters else "open"
