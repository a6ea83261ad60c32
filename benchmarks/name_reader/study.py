"""Which precisions the study compares, what each model reads with them, and how sure the differences are."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.cases import kept_result
from benchmarks.name_reader.parts import PARTS, Precision, quantize_parts, stored_bytes
from benchmarks.name_reader.reader import read_texts
from benchmarks.name_reader.subjects import Subject
from edgeq.files import sha256_file, sha256_json
from edgeq.progress import progress_bar
from edgeq.tasks.resampling import interval, mean_over_draws
from edgeq.tasks.text.recognition import edit_distance

FP32, FP16 = "FP32", "FP16"
ALL = tuple(PARTS)
CHOICES: tuple[tuple[str, ...], ...] = (*((part,) for part in PARTS), ALL)
"""Each part alone, and all of them."""
METHODS = ("rtn", "hqq", "awq", "gptq", "awq+gptq")
SWEEP: tuple[tuple[int, int, tuple[str, ...]], ...] = (
    (4, 32, ("rtn", "gptq")),
    (3, 32, ("rtn", "gptq")),
    (2, 8, METHODS),
    (2, 16, METHODS),
)
"""Bits, group and methods that are tried on each part."""
SKIPPING = Precision(8, 32, "rtn", ("decoder",))
"""8 bits with the skip list of the published study: vision, connector, table of tokens and head stay in FP16."""


def precisions() -> list[Precision]:
    """Returns all precisions of the study but the floats."""
    swept = [
        Precision(bits, group, method, parts)
        for bits, group, methods in SWEEP
        for method in methods
        for parts in CHOICES
    ]
    return [SKIPPING, Precision(8, 32, "rtn", ALL), *swept]


@dataclass(frozen=True, eq=False)
class Readings:
    """What one subject reads with each precision.

    Attributes:
        subject: The subject.
        exact: Precision -> 1 for each text that is read exactly, `(N,)`; `FP32` and `FP16` are names.
        distances: Precision -> edit distance of each text, `(N,)`.
        sizes: Precision -> bytes of the weights.
    """

    subject: Subject
    exact: dict[Precision | str, npt.NDArray[np.float64]]
    distances: dict[Precision | str, npt.NDArray[np.float64]]
    sizes: dict[Precision | str, float]

    def lost(self, precision: Precision | str, against: Precision | str = FP32) -> Figure:
        """Returns how many points of exact match a precision has less than another."""
        return Figure.of(100 * mean_over_draws(self.exact[against] - self.exact[precision]))

    def further(self, precision: Precision | str) -> Figure:
        """Returns by how much the mean edit distance exceeds that of FP32."""
        return Figure.of(mean_over_draws(self.distances[precision] - self.distances[FP32]))

    def bought_back(self, precision: Precision, plain: Precision) -> Figure:
        """Returns the share of what `plain` loses, in percent, that another precision does not lose."""
        gained = mean_over_draws(self.exact[precision] - self.exact[plain])
        lost = mean_over_draws(self.exact[FP32] - self.exact[plain])
        return Figure.of(100 * gained / np.where(lost > 0, lost, np.nan))


@dataclass(frozen=True)
class Figure:
    """A number with the middle 95 % of it over resampled images.

    Attributes:
        value: On all images.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: npt.NDArray[np.float64]) -> Figure:
        """Returns the figure of values over draws, of which the first is all images."""
        low, high = interval(draws)
        nan = float("nan")
        return cls(float(draws[0]), nan if low is None else low, nan if high is None else high)

    @property
    def is_resolved(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    def show(self, digits: int = 1) -> str:
        """Returns number and interval in words."""
        # Adding 0 makes a zero of -0.
        value, low, high = (round(each, digits) + 0.0 for each in (self.value, self.low, self.high))
        return f"{value:.{digits}f} ({low:.{digits}f} .. {high:.{digits}f})"


def kept_in(subject: Subject, work: Path) -> Path:
    """Returns the folder of all that is kept of a subject with its images."""
    identity = {
        "weights": sha256_file(subject.folder / "model.safetensors"),
        "texts": [subject.calibration[1], subject.test[1]],
    }
    folder = work / sha256_json(identity)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def distances_of(texts: Sequence[str], truth: Sequence[str]) -> npt.NDArray[np.float64]:
    """Returns the edit distance of each text, stripped and in upper case, to what is written."""
    pairs = zip(texts, truth, strict=True)
    return np.array([edit_distance(text.strip().upper(), true) for text, true in pairs], np.float64)


def read_all(subject: Subject, work: Path) -> Readings:
    """Returns what a subject reads with every precision; what is kept below the folder `work` is not read anew."""
    folder = kept_in(subject, work)
    readings = Readings(subject, {}, {}, {})
    wanted: list[Precision | str] = [FP32, FP16, *precisions()]
    with progress_bar(len(wanted), subject.title, unit="precisions") as advance:
        for precision, found in zip(wanted, _kept(subject, wanted, folder), strict=True):
            distances = distances_of(found["texts"], subject.test[1])
            readings.distances[precision] = distances
            readings.exact[precision] = (distances == 0).astype(np.float64)
            readings.sizes[precision] = found["bytes"]
            advance(1)
    return readings


def _kept(subject: Subject, wanted: Sequence[Precision | str], folder: Path) -> Iterator[Mapping[str, Any]]:
    load = functools.cache(subject.load)
    for precision in wanted:
        name = precision if isinstance(precision, str) else _file_name(precision)
        yield kept_result(folder / f"{name}.json", _read, subject, load, precision)


def _file_name(precision: Precision) -> str:
    return f"w{precision.bits}g{precision.group}.{precision.method}.{'-'.join(precision.parts)}"


def _read(subject: Subject, load: Any, precision: Precision | str) -> dict[str, Any]:
    """Returns texts and size of one precision, as JSON."""
    import copy

    model = copy.deepcopy(load())
    if isinstance(precision, Precision):
        quantize_parts(model, precision, subject.runs(model))
        size = stored_bytes(model, precision)
    else:
        size = stored_bytes(model, None, 16 if precision == FP16 else 32)
        if precision == FP16:
            model = model.half()
    return {"texts": read_texts(model, subject.script, subject.test[0]), "bytes": size}
