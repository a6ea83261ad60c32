"""What a study will take, measured on this machine before it runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.calibration.quantize_layers import quantize_members
from edgeq.calibration.statistics import Request
from edgeq.exporting.jobs import PlannedWeight
from edgeq.quantizers.recipes import get_recipe
from edgeq.studying.run import StudyRun
from edgeq.studying.space import Variant
from edgeq.studying.trials import StudyTrial
from edgeq.studying.weights import Wanted

_PASSES = 2.0
"""The walk that gathers moments computes each node once, and keeps what later ones read: about two runs."""


@dataclass(frozen=True)
class StudyCost:
    """What a study takes.

    Attributes:
        trials: Trials that are to be scored.
        known: How many of them the store has.
        images: Images of each.
        weights: Weights that are quantized, each once.
        used: How many times trials take one.
        weight_bytes: What the files of weights take on the disk.
        image_ms: Time of an image, measured.
        quantizing_s: Time of quantizing what is not there yet, measured on one layer of each shape.
    """

    trials: int
    known: int
    images: int
    weights: int
    used: int
    weight_bytes: int
    image_ms: float
    quantizing_s: float

    @property
    def hours(self) -> float:
        """Expected time in one process."""
        return ((self.trials - self.known) * self.images * self.image_ms / 1e3 + self.quantizing_s) / 3600


def measure_cost(run: StudyRun, trials: Sequence[StudyTrial]) -> StudyCost:
    """Returns what the trials of a study will take.

    Args:
        run: The study.
        trials: Its trials.
    """
    bank, layers = run.model.bank, run.model.layers
    wanted = bank.wanted(trials)
    missing = bank.missing(wanted)
    sizes = {each.name: each.weights for each in layers}
    image_s = run.model.image_s()
    reading = [each for _, each in missing if each is not None and get_recipe(each.method).reads_inputs]
    walks = {each.calibration: each.calibration or len(bank.feeds) for each in reading}
    walking = _PASSES * image_s * sum(walks.values())
    return StudyCost(
        trials=len(trials),
        known=run.known(trials),
        images=len(run.numbers),
        weights=len(wanted),
        used=len(trials) * len(layers),
        weight_bytes=sum(4 * sizes[layer] for layer, _ in wanted),
        image_ms=1e3 * image_s,
        quantizing_s=walking + _quantizing_s(run, missing),
    )


def _quantizing_s(run: StudyRun, missing: Sequence[Wanted]) -> float:
    """Returns the time of quantizing weights, by one of each shape and way of storing."""
    shapes = {each.name: (each.outputs, each.inputs) for each in run.model.layers}
    measured: dict[tuple[tuple[int, int], Variant], float] = {}
    total = 0.0
    for layer, variant in missing:
        if variant is None:
            continue
        key = shapes[layer], variant
        if key not in measured:
            measured[key] = _one_s(layer, run, variant)
        total += measured[key]
    return total


def _one_s(layer: str, run: StudyRun, variant: Variant) -> float:
    bank, recipe = run.model.bank, get_recipe(variant.method)
    members = {layer: PlannedWeight(bank.matrix(layer), variant.scheme)}
    moments = np.eye(members[layer].matrix.shape[1])[None]
    started = time.perf_counter()
    if recipe.reads_inputs:
        quantize_members(members, moments, recipe, Request.of(layer, "second_moments"))
    else:
        bank.rounded(layer, variant)
    return time.perf_counter() - started
