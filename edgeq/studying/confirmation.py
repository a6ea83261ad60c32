"""The choice of a study, made on one half of the images and confirmed on the other half.

Confirmed is non-inferiority: the interval of what the choice loses on the other half lies within a margin. A margin
smaller than those images can resolve would leave every choice open. So unless it is asked for, the margin is what the
other half confirms with a power of 80 %, by the spread of the paired bootstrap on the first half: the other half has no
part in it. The same spread says how many images would confirm the points that may be lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from edgeq.results.study import StudyConfirmation
from edgeq.studying.run import Outcome, StudyRun
from edgeq.tuning.paired import change_of_draws

POWER = 0.8
_DEVIATIONS = 1.959964 + 0.841621
"""Standard errors between what is lost and the margin that a 95 % interval keeps within in 80 % of all cases."""

_UNSEEN = 300.0
"""Points times images that may be lost unseen if no image changes: the rule of three."""

_STEP = 0.1
"""A margin that images decide is a multiple of so many points."""

_NO_ROOM = 1e-9


def confirm(
    run: StudyRun, outcomes: Sequence[Outcome], bits: Mapping[str, float], margin: float | None
) -> StudyConfirmation | None:
    """Returns the smallest trial that is good enough on one half of the images, on the other half.

    Args:
        run: The study, whose `max_drop` says what is good enough.
        outcomes: What its trials score.
        bits: Name of a trial -> its bits per weight.
        margin: Points within which it has to hold; by default what so many images can confirm.
    """
    sign = -100 if run.task.score_type.lower_is_better else 100

    def lost(outcome: Outcome) -> float:
        return sign * (run.float_outcome.first_half - outcome.first_half)

    good = [each for each in outcomes if each.trial.weights and lost(each) <= run.max_drop]
    if not good:
        return None
    chosen = min(good, key=lambda each: (bits[each.trial.name], lost(each)))
    first, second = (len(half) for half in run.halves)
    draws = sign * (run.half_draws(None, 0) - run.half_draws(chosen.trial, 0))[1:]
    deviation = float(np.nanstd(draws)) * math.sqrt(first)
    loss = max(lost(chosen), 0.0)
    stated = margin if margin is not None else max(run.max_drop, _in_steps(resolved(loss, deviation, second)))
    before, behind = run.half_draws(None, 1), run.half_draws(chosen.trial, 1)
    change = change_of_draws(before, behind, second, run.task.score_type, stated)[0]
    return StudyConfirmation(
        trial=chosen.trial.name,
        max_drop=run.max_drop,
        chosen_points=lost(chosen),
        chosen_images=first,
        margin=stated,
        margin_asked=margin is not None,
        power=POWER,
        images_needed=images_needed(loss, deviation, run.max_drop),
        confirmed=change,
        holds="yes" if change.high <= stated else "no" if change.low > stated else "open",
    )


def resolved(loss: float, deviation: float, images: int) -> float:
    """Returns the smallest margin in points that images confirm with a power of 80 %.

    Args:
        loss: Points that are lost in truth.
        deviation: Standard deviation of the points of one image.
        images: How many images there are.
    """
    return loss + max(_DEVIATIONS * deviation / math.sqrt(images), _UNSEEN / images)


def images_needed(loss: float, deviation: float, margin: float) -> int | None:
    """Returns how many images confirm a margin with a power of 80 %; `None` if no number does; see `resolved`."""
    room = margin - loss
    if room <= _NO_ROOM:
        return None
    return math.ceil(max((_DEVIATIONS * deviation / room) ** 2, _UNSEEN / room))


def _in_steps(margin: float) -> float:
    return round(math.ceil(margin / _STEP - _NO_ROOM) * _STEP, 1)
