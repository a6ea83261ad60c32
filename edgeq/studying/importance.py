"""Which parts of a network the score depends on most: three measures over all trials of a method, and their mean.

What a trial loses is fit by the bits per weight of each part (scales included, FP16 where nothing is quantized) with a
random forest ("Random forests", Breiman, 2001). Its parts are weighed by impurity, over bootstraps of the trials; by
permutation; and by mean absolute SHAP values of its trees ("From local explanations to global understanding",
Lundberg et al., 2020). Each measure is a share of 1. A fit that predicts trials badly that it has not seen carries
none of them: R^2 out of bag says how well it does, and that of a linear fit whether the forest is needed.
"""

from __future__ import annotations

import importlib.util
import itertools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeq.results.study import PartImportance, Share, StudyImportance
from edgeq.studying.answers import stored_bits
from edgeq.studying.components import COMPONENTS
from edgeq.studying.layers import KINDS, StudyLayer
from edgeq.studying.space import activation_name
from edgeq.studying.trials import StudyTrial
from edgeq.tasks.resampling import interval

LEAST_TRIALS = 20
"""A forest is not fit to fewer trials, nor to fewer than `TRIALS_PER_PART` for each part."""

TRIALS_PER_PART = 5
CARRIES = 0.5
"""R^2 out of bag below which a fit does not carry."""

TREES = 100
BOOTSTRAPS = 100
REPEATS = 50
_TOGETHER = 0.95
"""Correlation from which the bits of two parts change together."""

_AXES = ("component", "block", "layer")
_FOLDS = 5
_SEEDS = 1 << 31

Rows = NDArray[np.float64]


def importances(
    trials: Sequence[StudyTrial], points: Sequence[float], layers: Sequence[StudyLayer], seed: int
) -> tuple[tuple[StudyImportance, ...], tuple[str, ...]]:
    """Returns the importance of parts by axis and method, and what keeps it from being told.

    Args:
        trials: The trials.
        points: Points that each loses.
        layers: The layers of the study.
        seed: Draws trees and bootstraps.
    """
    found, notes = [], []
    if not any(_rows(axis, trials, layers).varies for axis in _AXES):
        return (), (
            "importance: the study varies no part of the network; give more than one component, block or layer",
        )
    if importlib.util.find_spec("sklearn") is None:
        return (), ("importance: needs scikit-learn; run: pip install 'edgeq[study]', and the command again",)
    if importlib.util.find_spec("shap") is None:
        notes.append("importance by SHAP is missing: needs shap; run: pip install shap, and the command again")
    for key in dict.fromkeys((trial.recipe, trial.activation) for trial in trials if trial.method):
        method = f"{key[0]}{activation_name(key[1])}"
        own = [
            number for number, trial in enumerate(trials) if (trial.recipe, trial.activation) == key or not trial.method
        ]
        lost = np.array([points[number] for number in own])
        for axis in _AXES:
            rows = _rows(axis, [trials[number] for number in own], layers)
            if not rows.varies:
                continue
            wanted = max(LEAST_TRIALS, TRIALS_PER_PART * len(rows.parts))
            if len(own) < wanted:
                notes.append(
                    f"importance by {axis} ({method}): {len(own)} trials, the forest needs {wanted}; try more bits"
                )
            elif not np.ptp(lost):
                notes.append(f"importance by {axis} ({method}): the score never moves; try fewer bits")
            else:
                found.append(fit(axis, method, rows.parts, rows.bits, lost, seed))
                if (quality := found[-1].forest_r2) < CARRIES:
                    notes.append(f"importance by {axis} ({method}) does not carry: R^2 is {quality:.2f} out of bag")
    return tuple(found), tuple(notes)


class PartBits(NamedTuple):
    """What a forest is fit to.

    Attributes:
        parts: Names of the parts along an axis that some trial quantizes, in the order of the network.
        bits: Bits per weight of each part in each trial, `(trials, parts)`.
        varies: Whether the bits of any two parts do not change together.
    """

    parts: tuple[str, ...]
    bits: Rows
    varies: bool


def _rows(axis: str, trials: Sequence[StudyTrial], layers: Sequence[StudyLayer]) -> PartBits:
    """Returns the bits of the parts along an axis."""
    changed = {name for trial in trials for name in trial.weights}
    attribute = "kind" if axis == "layer" else axis
    order = {"component": COMPONENTS, "layer": KINDS}.get(axis)
    members: dict[str, list[StudyLayer]] = {}
    for each in layers:
        if each.name in changed:
            members.setdefault(getattr(each, attribute), []).append(each)
    parts = sorted(members, key=order.index) if order is not None else list(members)
    bits = [[_bits_per_weight(trial, members[part]) for part in parts] for trial in trials]
    rows = np.array(bits, np.float64)
    return PartBits(tuple(parts), rows, any(_differ(*pair) for pair in itertools.combinations(rows.T, 2)))


def _differ(first: Rows, second: Rows) -> bool:
    """Returns whether the bits of two parts tell which of them a score depends on: they do not change together."""
    if not np.ptp(first) or not np.ptp(second):
        return bool(np.ptp(first) or np.ptp(second))
    return bool(np.corrcoef(first, second)[0, 1] < _TOGETHER)


def _bits_per_weight(trial: StudyTrial, layers: Sequence[StudyLayer]) -> float:
    return stored_bits(trial, layers) / sum(each.weights for each in layers)


def fit(
    axis: str,
    method: str,
    parts: Sequence[str],
    rows: Rows,
    lost: Rows,
    seed: int,
    *,
    bootstraps: int = BOOTSTRAPS,
    repeats: int = REPEATS,
    trees: int = TREES,
) -> StudyImportance:
    """Returns the importance of parts; the same seed gives the same.

    Args:
        axis: What the parts are.
        method: The method of the trials.
        parts: Their names.
        rows: Bits per weight of each part in each trial, `(trials, parts)`.
        lost: Points that each trial loses, `(trials,)`.
        seed: Draws trees, bootstraps and permutations.
        bootstraps: How often trials are drawn anew.
        repeats: How often each part is shuffled.
        trees: Trees of a forest.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    rng = np.random.default_rng(seed)

    def forest(of: NDArray[np.intp], *, oob: bool = False) -> Any:
        state = int(rng.integers(_SEEDS))
        return RandomForestRegressor(trees, oob_score=oob, random_state=state, n_jobs=1).fit(rows[of], lost[of])

    everything = np.arange(len(rows))
    whole = forest(everything, oob=True)
    drawn = [rng.integers(len(rows), size=len(rows)) for _ in range(bootstraps)]
    by_forest = _shares(whole.feature_importances_, np.array([forest(each).feature_importances_ for each in drawn]))
    shuffled = permutation_importance(whole, rows, lost, n_repeats=repeats, random_state=seed, n_jobs=1)
    by_permutation = _shares(shuffled.importances_mean, shuffled.importances.T)
    by_shap = _shap_shares(whole, rows, drawn)
    measures = [each for each in (by_forest, by_permutation, by_shap) if each is not None]
    return StudyImportance(
        axis=axis,
        method=method,
        trials=len(rows),
        forest_r2=float(whole.oob_score_),
        linear_r2=_linear_r2(rows, lost, seed),
        parts=tuple(
            PartImportance(
                part=part,
                forest=by_forest[number],
                permutation=by_permutation[number],
                shap=None if by_shap is None else by_shap[number],
                consensus=float(np.mean([each[number].value for each in measures])),
            )
            for number, part in enumerate(parts)
        ),
    )


def _shap_shares(forest: Any, rows: Rows, drawn: Sequence[NDArray[np.intp]]) -> list[Share] | None:
    """Returns the shares of mean absolute SHAP values; `None` without the package."""
    if importlib.util.find_spec("shap") is None:
        return None
    with warnings.catch_warnings():  # its plots, which nobody asks for, warn of what matplotlib deprecates
        warnings.simplefilter("ignore")
        import shap

    values = np.abs(np.asarray(shap.TreeExplainer(forest).shap_values(rows), np.float64))
    return _shares(values.mean(axis=0), np.array([values[each].mean(axis=0) for each in drawn]))


def _shares(values: Rows, draws: Rows) -> list[Share]:
    """Returns values `(parts,)` as shares of 1, with intervals over draws `(N, parts)`; negative ones count as 0."""
    normalised = _normalised(values)
    spread = np.array([_normalised(each) for each in draws])
    found = []
    for number, value in enumerate(normalised):
        low, high = interval(spread[:, number])
        found.append(
            Share(value=float(value), low=low if low is not None else 0.0, high=high if high is not None else 1.0)
        )
    return found


def _normalised(values: Rows) -> Rows:
    positive = np.maximum(values, 0)
    total = positive.sum()
    return positive / total if total > 0 else np.full(len(positive), 1 / len(positive))


def _linear_r2(rows: Rows, lost: Rows, seed: int) -> float:
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold, cross_val_predict

    folds = KFold(_FOLDS, shuffle=True, random_state=seed)
    return float(r2_score(lost, cross_val_predict(LinearRegression(), rows, lost, cv=folds)))
