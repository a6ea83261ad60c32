"""What long commands report while they run, for other programs: typed events, heard by whoever asked for them.

`edgeq ... --progress json` writes each as a line of JSON (`edgeq.cli.events`), and `edgeq tune --mlflow` logs those of
trials. Nobody hears them by default.
"""

from __future__ import annotations

import contextlib
import contextvars
import re
from collections.abc import Callable, Iterator

import msgspec

EVENTS_VERSION = 1
"""Version of the form of events. Within a version kinds and keys are added; none is removed or changes its meaning."""


def _tag(name: str) -> str:
    """Returns what an event of a class is called: `trial-scored` for `TrialScored`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=_tag):
    """Something that happened; its kind is the name of its class."""

    @property
    def kind(self) -> str:
        """What the key `event` says."""
        return str(self.__struct_config__.tag)


Hear = Callable[[Event], None]

_hearers: contextvars.ContextVar[tuple[Hear, ...]] = contextvars.ContextVar("hearers", default=())


@contextlib.contextmanager
def heard_by(hear: Hear) -> Iterator[None]:
    """Has a function hear all events of the block, besides those who hear them already.

    As with `edgeq.progress.reporting_to` this holds for threads that run in a copy of this thread's context.
    """
    token = _hearers.set((*_hearers.get(), hear))
    try:
        yield
    finally:
        _hearers.reset(token)


def emit(event: Event) -> None:
    """Tells all who hear."""
    for hear in _hearers.get():
        hear(event)


class CommandStarted(Event, frozen=True, kw_only=True):
    """The first event.

    Attributes:
        command: The command line.
        edgeq: Version of edgeq.
        started: Date and time in UTC (ISO 8601); `time_s` of all events counts from here.
        events_version: Version of the form of events.
    """

    command: str
    edgeq: str
    started: str
    events_version: int = EVENTS_VERSION


class CommandEnded(Event, frozen=True, kw_only=True):
    """The last event; without it the command was killed.

    Attributes:
        exit_code: Exit code of the command.
        error: What went wrong, in one line; `None` if nothing did, or if messages before say it.
    """

    exit_code: int
    error: str | None


class Message(Event, frozen=True, kw_only=True):
    """A line that people are shown on stderr.

    Attributes:
        text: The line.
    """

    text: str


class JobStarted(Event, frozen=True, kw_only=True):
    """A job with a countable end begins: calibration, inference, a benchmark.

    Attributes:
        job: Number of the job in this command; several may run at the same time.
        label: What is being done.
        total: Units in the whole job; `None` if that is not known beforehand.
        unit: Name of the units; `%` for shares of a whole.
    """

    job: int
    label: str
    total: int | None
    unit: str


class JobAdvanced(Event, frozen=True, kw_only=True):
    """A job has come further; at most ten per second and job.

    Attributes:
        job: Number of the job.
        done: Units done so far.
    """

    job: int
    done: int


class JobEnded(Event, frozen=True, kw_only=True):
    """A job ended, also after an error.

    Attributes:
        job: Number of the job.
        done: Units done; fewer than the total if it was cut.
    """

    job: int
    done: int


class SearchStarted(Event, frozen=True, kw_only=True):
    """`edgeq tune` begins to look for a file: the float file was scored.

    Attributes:
        model: Name of the model.
        target: Target whose rules say what may run in INT8.
        runtime: Name of the runtime that scores.
        task: Name of the task.
        score: Name of the score.
        float_score: Score of the float file on all images.
        images: Images of the data set that could be read.
        by: What a group is: a `layer` or a `block`.
        groups: How many groups have a choice.
        budget: What was asked for, in words.
    """

    model: str
    target: str
    runtime: str
    task: str
    score: str
    float_score: float
    images: int
    by: str
    groups: int
    budget: str


class TrialStarted(Event, frozen=True, kw_only=True):
    """A file was written and is going to be scored.

    Attributes:
        trial: Digest of its plan, by which the store knows it.
        name: What the table of the search calls it.
        recipe: How ranges are computed, and which repairs are done.
        int8_layers: How many of the layers with a choice are not in float.
        size_bytes: Size of the file.
        expected_ratio: Time over FP32's, by the costs of its layers.
    """

    trial: str
    name: str
    recipe: str
    int8_layers: int
    size_bytes: int
    expected_ratio: float


class TrialScored(Event, frozen=True, kw_only=True):
    """A file was scored on the images of the stages so far.

    Attributes:
        trial: Digest of its plan.
        name: What the search calls it; of `--sensitivity` its layers in words.
        stage: Number of the stage, from 1.
        images: Images that it was scored on so far.
        points: Points that it loses on them: against FP32, or in `--sensitivity` by the layers that are tried.
        low: Lower end of the 95 % interval of the points.
        high: Its upper end.
        verdict: `matters` if more is lost than the limit for certain, `harmless` if less, else `open`.
    """

    trial: str
    name: str
    stage: int
    images: int
    points: float
    low: float
    high: float
    verdict: str


class TrialDropped(Event, frozen=True, kw_only=True):
    """A file is scored no further.

    Attributes:
        trial: Digest of its plan.
        name: What the search calls it.
        reason: Why.
    """

    trial: str
    name: str
    reason: str


class StageFinished(Event, frozen=True, kw_only=True):
    """All files that were left are scored on the images of a stage.

    Attributes:
        stage: Number of the stage, from 1.
        stages: How many there are.
        images: Images scored so far per file.
        left: Files that are scored further.
        dropped: Files that were dropped after this stage.
    """

    stage: int
    stages: int
    images: int
    left: int
    dropped: int


class TrialTimed(Event, frozen=True, kw_only=True):
    """The time of a file was measured, or known from the store.

    Attributes:
        trial: Digest of its plan.
        name: What the search calls it.
        ratio: Time over FP32's.
        low: Lower end of the 95 % interval of the ratio; `None` without one.
        high: Its upper end.
        p50_ms: Median time in ms.
    """

    trial: str
    name: str
    ratio: float
    low: float | None
    high: float | None
    p50_ms: float | None


class TrialFinished(Event, frozen=True, kw_only=True):
    """All that is known of a file at the end of the search.

    Attributes:
        trial: Digest of its plan.
        name: What the search calls it.
        score: Its score on its images; `None` if none were scored.
        points: Points lost against FP32 on them; `None` if none were scored.
        low: Lower end of the 95 % interval of the points.
        high: Its upper end.
        images: Images that it was scored on.
        ratio: Time over FP32's.
        p50_ms: Median time in ms; `None` of an estimate.
        obtained: Whether the time was `measured` or `estimated`.
        size_bytes: Size of the file.
        dropped: Why it was not scored on all images; empty if it was.
    """

    trial: str
    name: str
    score: float | None
    points: float | None
    low: float | None
    high: float | None
    images: int
    ratio: float
    p50_ms: float | None
    obtained: str
    size_bytes: int
    dropped: str


class BudgetMet(Event, frozen=True, kw_only=True):
    """The file to take; if none keeps the budget, the command ends with an error that names the nearest.

    Attributes:
        trial: Digest of its plan.
        name: What the search calls it.
        proved: Whether the interval of its loss lies within the budget, and not only the estimate.
    """

    trial: str
    name: str
    proved: bool


class SearchFinished(Event, frozen=True, kw_only=True):
    """The recommended file is written.

    Attributes:
        recommended: What the search calls it.
        file: Path of the file.
        digest: Its SHA-256.
        trials: How many files were scored.
        images_scored: Images that were scored, over all files.
        stopped: `done`, or `time` if the time limit ended the search.
    """

    recommended: str
    file: str
    digest: str
    trials: int
    images_scored: int
    stopped: str


KINDS: tuple[type[Event], ...] = (
    CommandStarted, Message, JobStarted, JobAdvanced, JobEnded, SearchStarted, TrialStarted, TrialScored, TrialDropped,
    StageFinished, TrialTimed, TrialFinished, BudgetMet, SearchFinished, CommandEnded,
)  # fmt: skip
"""All kinds, about in the order in which they appear."""
