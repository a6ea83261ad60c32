"""`StudyResult`: what weights of few bits cost the score of a model, over a space of choices, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgeq.boundary import Count, Positive
from edgeq.results.environment import Environment
from edgeq.results.sensitivity import ScoreChange
from edgeq.results.serialization import OMIT_EMPTY, RESULTS_VERSION

FP16, UNIFORM_8 = "16 bits throughout", "8 bits throughout"
"""Names of the two trials that every study has, as marks."""


@dataclass(frozen=True, kw_only=True)
class StudyTiming:
    """What the file of a trial takes in its engine, measured in turns with FP32.

    Attributes:
        p50_ms: Median time of one image in ms.
        ratio: Its time over FP32's, the median over the turns.
        low: Lower end of the 95 % interval of the ratio.
        high: Its upper end.
        peak_rss_bytes: The most memory that a process held while its engine ran the file.
        file_bytes: Size of the file.
        steady: Whether the machine was steady meanwhile.
    """

    p50_ms: float
    ratio: float
    low: float | None = None
    high: float | None = None
    peak_rss_bytes: Count | None = None
    file_bytes: Count
    steady: bool = True


@dataclass(frozen=True, kw_only=True)
class StudyPoint:
    """A trial.

    Attributes:
        name: What it is called.
        plan: Digest of its plan, by which the store knows it.
        where: Which layers are quantized, in words; empty if none is.
        bits: Bits of the quantized weights; `None` if they differ, or none is quantized.
        method: How they are quantized; empty if none is.
        granularity: What shares a scale: `g32`, `row`, `tensor`; empty if nothing is quantized.
        calibration: How many images the method goes by, if the study varies that; else 0.
        activation: Bits of what quantized layers read; 16 are floats.
        cells: Name of each quantized cell -> how its weights are stored.
        bits_per_weight: Average over all layers of the study, scales and zero points included; FP16 elsewhere.
        size_bytes: All weights in that form, and everything else as the float file has it.
        score: Score on all images.
        loss: Points that it loses against FP32.
        on_front: Whether no other trial loses less with no more bits per weight.
        useless: Why it is useless, however few its bits are; empty if it is useful.
        gain: Points that it gains over the next smaller useful trial of the front; `None` off the front, and for its
            smallest.
        measured: What its file takes; `None` if it was not timed.
    """

    name: str
    plan: str
    where: str
    bits: Count | None = None
    method: str
    granularity: str
    calibration: Count = 0
    activation: Count = 16
    cells: Mapping[str, str]
    bits_per_weight: float
    size_bytes: Count
    score: float
    loss: ScoreChange
    on_front: bool = False
    useless: str = ""
    gain: ScoreChange | None = None
    measured: StudyTiming | None = None


@dataclass(frozen=True, kw_only=True)
class StudyInteraction:
    """Whether two parts together lose what they lose alone, added up.

    Attributes:
        first: What is quantized in one trial.
        second: What is quantized in another.
        stored: How the weights are stored in both, and in the trial of both.
        added: Points that the two lose alone, added up.
        together: Points that they lose together.
        difference: `together` less `added`.
        low: Lower end of its 95 % interval, a paired percentile bootstrap over images.
        high: Its upper end.
    """

    first: str
    second: str
    stored: str
    added: float
    together: float
    difference: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of the importance, of 1 in all.

    Attributes:
        value: The share.
        low: Lower end of its 95 % interval.
        high: Its upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class PartImportance:
    """How much of what trials lose goes by the bits of one part of a network.

    Attributes:
        part: The part.
        forest: By the impurity that it takes out of a random forest; interval over bootstraps of the trials.
        permutation: By what the fit loses when its bits are shuffled; interval over repeats.
        shap: By its mean absolute SHAP value; interval over bootstraps of the trials; `None` without the package shap.
        consensus: Mean of these shares.
    """

    part: str
    forest: Share
    permutation: Share
    shap: Share | None = None
    consensus: float


@dataclass(frozen=True, kw_only=True)
class StudyImportance:
    """The importance of the parts of a network along one axis, by the trials of one method.

    Attributes:
        axis: `component`, `block` or `layer`.
        method: The method whose trials were fit.
        trials: How many they are.
        forest_r2: R^2 of the forest, out of bag.
        linear_r2: R^2 of a linear fit, in five-fold cross-validation.
        parts: The parts, in the order of the network.
    """

    axis: str
    method: str
    trials: Count
    forest_r2: float
    linear_r2: float
    parts: tuple[PartImportance, ...]


@dataclass(frozen=True, kw_only=True)
class StudyAdvice:
    """A sentence that the study supports.

    Attributes:
        text: The sentence, with its evidence.
        trial: Name of the trial that it is about; empty if it is about several.
        command: The command that writes the file of that trial; empty if no export does.
    """

    text: str
    trial: str = ""
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class StudyConfirmation:
    """A choice that was made on one half of the images, on the other half.

    Attributes:
        trial: Name of the smallest trial that loses no more than `max_drop` points on the first half.
        max_drop: These points.
        chosen_points: Points that it loses on the first half.
        chosen_images: Images of the first half.
        margin: Points within which it has to hold on the second half: as asked for, or what so many images can
            confirm, decided on the first half.
        margin_asked: Whether the margin was asked for.
        power: Probability with which so many images confirm the margin they were given, and with which
            `images_needed` confirm `max_drop`, if it loses in truth what it loses on the first half.
        images_needed: Images, beyond those that it is chosen on, that would confirm `max_drop`; `None` if it loses as
            much as that, so that no number would.
        confirmed: Points that it loses on the second half.
        holds: Whether the interval there lies within `margin` (`yes`), beyond it (`no`), or neither (`open`).
    """

    trial: str
    max_drop: float
    chosen_points: float
    chosen_images: Count
    margin: float
    margin_asked: bool = False
    power: float = 0.8
    images_needed: Count | None = None
    confirmed: ScoreChange
    holds: Literal["yes", "no", "open"]


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study found.

    Attributes:
        model: Name of the model.
        source_digest: Digest of the float graph.
        question: What the study asks.
        task: Name of the task.
        score: Name of the score.
        space: The axes as they were asked for.
        sample: How trials were chosen from the space.
        trials_asked: How many were chosen.
        trials_in_space: How many the space has.
        cells: Name of a cell -> its layers.
        points: The trials; those that equal another one are not among them.
        interactions: Pairs of parts that were tried alone and together.
        importance: Importance of parts, by axis and method.
        advice: Sentences that the points support.
        confirmation: The choice on one half of the images, on the other; `None` if no trial is good enough.
        notes: What was left out or does not carry, and why.
        weights_quantized: How many weights of a layer were quantized, each once.
        weights_used: How many times trials take one.
        images: Images that were scored.
        float_score: Score in FP32.
        useful_drop: A trial that loses as many points is useless.
        chance_score: What the same answer to every image scores, the one that scores best; `None` if the task has none.
        seed: What drew trials and halves.
        obtained: How scores were obtained: weights are simulated.
        environment: Engine, settings and machine.
        edgeq: Version of edgeq.
        results_version: Version of this form.
    """

    model: str
    source_digest: str
    question: str = ""
    task: str
    score: str
    space: Mapping[str, Any]
    sample: Literal["grid", "random", "sobol", "adaptive"]
    trials_asked: Count
    trials_in_space: Count
    cells: Mapping[str, tuple[str, ...]]
    points: tuple[StudyPoint, ...]
    interactions: tuple[StudyInteraction, ...] = ()
    importance: tuple[StudyImportance, ...] = ()
    advice: tuple[StudyAdvice, ...] = ()
    confirmation: StudyConfirmation | None = None
    notes: tuple[str, ...] = ()
    weights_quantized: Count
    weights_used: Count
    images: Count
    float_score: float
    useful_drop: float = 0.0
    chance_score: float | None = None
    seed: int
    obtained: Literal["simulated"] = "simulated"
    environment: Environment = field(default_factory=Environment)
    edgeq: str | None = field(default=None, metadata=OMIT_EMPTY)
    results_version: Positive = RESULTS_VERSION

    @property
    def front(self) -> tuple[StudyPoint, ...]:
        """The useful trials of the front, fewest bits first."""
        useful = (each for each in self.points if each.on_front and not each.useless)
        return tuple(sorted(useful, key=lambda each: each.bits_per_weight))

    @property
    def useless_front(self) -> tuple[StudyPoint, ...]:
        """The trials of the front that are of no use, fewest bits first."""
        useless = (each for each in self.points if each.on_front and each.useless)
        return tuple(sorted(useless, key=lambda each: each.bits_per_weight))
