"""`TuningResult`: the files that a search for a budget tried, the one that it recommends, and why each layer is so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgeq.boundary import Count, Positive
from edgeq.results.environment import Environment
from edgeq.results.sensitivity import ScoreChange
from edgeq.results.serialization import OMIT_EMPTY, RESULTS_VERSION


@dataclass(frozen=True, kw_only=True)
class TunedLatency:
    """What a file takes for one run.

    Attributes:
        ratio: Its time over FP32's.
        low: Lower end of the 95 % interval of the ratio over the rounds; `None` of an estimate.
        high: Its upper end.
        p50_ms: Median time in ms; `None` of an estimate.
        obtained: `measured` in turns with FP32, here or on a device, or `estimated` from the costs of the layers.
    """

    ratio: float
    low: float | None = None
    high: float | None = None
    p50_ms: float | None = None
    obtained: Literal["measured", "estimated"] = "estimated"


@dataclass(frozen=True, kw_only=True)
class TunedFile:
    """A file that was tried.

    Attributes:
        name: What it is called: `fp32`, `default` (what `edgeq export` writes), `all int8`, or a number.
        plan: Digest of its plan, by which the store knows it.
        recipe: How ranges are computed, and which repairs are done.
        int8_layers: How many of the layers with a choice compute in INT8.
        w4a8_layers: How many of these have weights of 4 bits.
        score: Score on the images that it was scored on; `None` if no time was left to score it.
        loss: Points that it loses against FP32 on these images; `None` for FP32, and where nothing was scored.
        latency: Its time.
        size_bytes: Size of the file.
        memory_bytes: The most memory that a process held while its engine ran the file; `None` if it was not measured.
        j_per_image: Energy of one image in J; `None` if it was not measured.
        on_front: Whether none of the files is better in one of points and time and no worse in the other; size takes
            the place of time if it alone is limited.
        dropped: Why it was not scored on all images; empty if it was.
        file: The file, below the output folder; absent if it was not written.
    """

    name: str
    plan: str
    recipe: str
    int8_layers: Count
    w4a8_layers: Count = 0
    score: float | None = None
    loss: ScoreChange | None = None
    latency: TunedLatency
    size_bytes: Count
    memory_bytes: Count | None = field(default=None, metadata=OMIT_EMPTY)
    j_per_image: float | None = field(default=None, metadata=OMIT_EMPTY)
    on_front: bool = False
    dropped: str = ""
    file: str = field(default="", metadata=OMIT_EMPTY)

    @property
    def points(self) -> float | None:
        """Points lost against FP32; 0 for FP32, `None` where nothing was scored."""
        if self.loss is not None:
            return self.loss.points
        return 0.0 if self.int8_layers == 0 else None


@dataclass(frozen=True, kw_only=True)
class TunedGroup:
    """How the recommended file computes a layer or block, and why.

    Attributes:
        name: What it is called.
        layers: The nodes that belong to it.
        precision: What it is computed in: `float`, `int8`, or `w4a8`, INT8 with weights of 4 bits.
        points: Points that its precision is expected to lose there, or INT8 if it is in float: its part of the noise,
            as a part of what the file with all layers in INT8 loses.
        time_share: Share of FP32's time that INT8 saves there, by the costs of the layers; below 0 if it takes longer.
        size_bytes: Bytes that its precision saves there, or INT8 if it is in float.
        reason: The choice in words.
    """

    name: str
    layers: tuple[str, ...]
    precision: str
    points: float
    time_share: float
    size_bytes: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class TuningBudget:
    """What was asked for; `None` is not limited.

    Attributes:
        max_drop: Points that may be lost.
        latency: The most time, as it was written.
        size: The largest file, as it was written.
        memory: The most memory, as it was written.
        energy: The most energy of one image, as it was written.
    """

    max_drop: float | None = None
    latency: str | None = None
    size: str | None = None
    memory: str | None = field(default=None, metadata=OMIT_EMPTY)
    energy: str | None = field(default=None, metadata=OMIT_EMPTY)

    @property
    def by_size(self) -> bool:
        """Whether the size alone is limited, so that files are compared by size and not by time."""
        return self.size is not None and self.latency is None and self.max_drop is None


@dataclass(frozen=True, kw_only=True)
class TuningResult:
    """What a search for a budget found.

    Attributes:
        model: Name of the model.
        source_digest: Digest of the float graph.
        ranges_digest: Digest of the calibrated ranges.
        target: Target whose rules say what may run in INT8.
        runtime: Name of the runtime that scored.
        task: Name of the task.
        score: Name of the score.
        by: What a group is: a `layer` or a `block`.
        budget: What was asked for.
        recommended: Name of the file to take.
        proved: Whether the 95 % interval of what it loses lies within the budget.
        unproved: Name of the fastest file that is within the budget by its estimate alone; empty if none is faster than
            the recommended one.
        images_to_prove: About how many images it takes to prove that; `None` without such a file.
        file: The file that was written.
        digest: Its SHA-256.
        files: All files that were tried, the fastest first.
        groups: What the recommended file does with each group, in the order of the network.
        time_source: Where the times of the layers come from.
        timed_on: The kind of device whose times, memory and energy were measured, in words; absent if none was named.
        timed_in: The engine that they were measured in, with its version and threads; absent if no device was named.
        devices: Names of the devices that measured them; absent if none was named.
        images: Images of the data set that could be read.
        images_scored: Images that were scored, over all files, what the store knew included.
        images_of_all: Images that it takes to score every file on every image.
        trials: How many files were scored.
        stopped: `done`, or `time` where the time limit ended the search.
        seed: What the order of the images was drawn with.
        obtained: How scores were obtained: `measured`, `simulated` or `emulated`.
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
    budget: TuningBudget
    recommended: str
    proved: bool
    unproved: str = ""
    images_to_prove: Count | None = None
    file: str
    digest: str
    files: tuple[TunedFile, ...]
    groups: tuple[TunedGroup, ...]
    time_source: str
    images: Count
    images_scored: Count
    images_of_all: Count
    trials: Count
    stopped: Literal["done", "time"]
    seed: int
    obtained: Literal["measured", "simulated", "emulated"] = "measured"
    environment: Environment = field(default_factory=Environment)
    timed_on: str | None = field(default=None, metadata=OMIT_EMPTY)
    timed_in: str | None = field(default=None, metadata=OMIT_EMPTY)
    devices: tuple[str, ...] = field(default=(), metadata=OMIT_EMPTY)
    edgeq: str | None = field(default=None, metadata=OMIT_EMPTY)
    results_version: Positive = RESULTS_VERSION

    @property
    def chosen(self) -> TunedFile:
        """The recommended file."""
        return next(each for each in self.files if each.name == self.recommended)
