"""`SensitivityResult`: what each layer of a model costs the score of its task when it is quantized, with intervals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgeq.boundary import Count, Positive
from edgeq.results.environment import Environment
from edgeq.results.serialization import OMIT_EMPTY, RESULTS_VERSION

Precision = Literal["int8", "w4a8"]
"""What layers are tried in: INT8, or weights of 4 bits that are computed in INT8."""

Verdict = Literal["matters", "harmless", "open"]
"""Whether a choice changes the score by more than what matters: certainly, certainly not, or not to be told."""


@dataclass(frozen=True, kw_only=True)
class ScoreChange:
    """By how much a score changes, on images that both files were scored on.

    Attributes:
        points: The change in points, hundredths of the score.
        low: Lower end of its 95 % interval, a paired percentile bootstrap over images.
        high: Its upper end.
        images: How many images it was measured on.
    """

    points: float
    low: float
    high: float
    images: Count


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What it means to compute the layers of one group otherwise than all others.

    Attributes:
        snr_db: Signal-to-noise ratio of the outputs in exact arithmetic, of the output that loses most.
        noise_share: Share of the noise of the file with all layers quantized that these make, in 0..1 and beyond.
        change: Points of the score that are lost by quantizing these layers; `None` if the screening alone decided.
        verdict: `matters` if these layers lose more than `matters` points, `harmless` if they do not, `open` if so few
            images cannot decide.
    """

    snr_db: float
    noise_share: float
    change: ScoreChange | None = None
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class GroupSensitivity:
    """A layer or block.

    Attributes:
        name: What it is called.
        layers: The nodes that belong to it, in the order of the network.
        quantized_alone: These layers quantized, all others in float, compared with float.
        float_alone: These layers in float, all others quantized, compared with all quantized: what is gained by that.
    """

    name: str
    layers: tuple[str, ...]
    quantized_alone: Choice
    float_alone: Choice

    @property
    def rank(self) -> tuple[float, ...]:
        """What groups are ranked by, the most sensitive first: verdict, change of the score, and then the noise."""
        verdicts: tuple[Verdict, ...] = ("matters", "open", "harmless")
        change = self.quantized_alone.change
        points = -change.points if change is not None and self.quantized_alone.verdict != "harmless" else 0.0
        return verdicts.index(self.quantized_alone.verdict), points, self.quantized_alone.snr_db


@dataclass(frozen=True, kw_only=True)
class SensitivityResult:
    """How sensitive the layers of a model are to quantization.

    Attributes:
        model: Name of the model.
        source_digest: Digest of the float graph.
        ranges_digest: Digest of the calibrated ranges.
        target: Target whose rules say which layers run in INT8.
        runtime: Name of the runtime that scored.
        task: Name of the task.
        score: Name of the score.
        by: What a group is: a `layer` or a `block`.
        precision: What layers are tried in. In `w4a8` those whose weights cannot have 4 bits are tried in INT8.
        matters: Points of the score that matter, as asked for.
        float_score: Score of the float file on all images.
        quantized_score: Score of the file with all these layers quantized.
        loss: Points that it loses.
        groups: The groups, in the order of the network.
        images: Images of the data set that could be read.
        images_scored: Images that were scored, over all files.
        images_of_all: Images that it takes to score every choice of every group on every image.
        screened_images: Images of the screening.
        seed: What the order of the images was drawn with.
        obtained: `measured`, `simulated` or `emulated`.
        environment: Engine, settings and machine.
        edgeq: Version of edgeq.
        results_version: Version of this form.
    """

    model: str
    source_digest: str
    ranges_digest: str
    target: str
    runtime: str
    task: str
    score: str
    by: Literal["layer", "block"]
    precision: Precision
    matters: float
    float_score: float
    quantized_score: float
    loss: ScoreChange
    groups: tuple[GroupSensitivity, ...]
    images: Count
    images_scored: Count
    images_of_all: Count
    screened_images: Count
    seed: int
    obtained: Literal["measured", "simulated", "emulated"] = "measured"
    environment: Environment = field(default_factory=Environment)
    edgeq: str | None = field(default=None, metadata=OMIT_EMPTY)
    results_version: Positive = RESULTS_VERSION

    @property
    def ranked(self) -> tuple[GroupSensitivity, ...]:
        """The groups, the most sensitive first."""
        return tuple(sorted(self.groups, key=lambda group: group.rank))
