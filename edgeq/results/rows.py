"""`Row`: what is known of one file in one version of an engine on one device, and how it was obtained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from edgeq.results.environment import Environment
from edgeq.results.evaluation import EvalResult, Score
from edgeq.results.measurement import MAX_DRIFT, BenchResult
from edgeq.results.reading import Result
from edgeq.wording import counted

LOCAL = "local"
"""Name of the machine that commands run on; results that name no device are from there."""

_SLOWER = 1.03
"""Ratios of one run repeat to a few percent: below, a file is as fast as its float version."""

RowKey = tuple[str, str, str, str, str, str]
"""Artifact, its digest, runtime, compute precision of the layers in float, engine with its version, device."""


@dataclass
class Row:
    """One artifact in one version of an engine on one device.

    Attributes:
        artifact: File name.
        digest: SHA-256 of the file; empty if the result does not say.
        runtime: Name of the runtime.
        compute: What the engine computed float layers in.
        engine: The engine with its version; empty if the result does not say.
        device: Name of the device.
        scores: The result of `edgeq eval`; `None` if it was not scored.
        timing: The result of `edgeq bench`; `None` if it was not timed.
    """

    artifact: str
    digest: str
    runtime: str
    compute: str
    engine: str = ""
    device: str = LOCAL
    scores: EvalResult[Score] | None = None
    timing: BenchResult | None = None

    @property
    def results(self) -> tuple[Result, ...]:
        """What is known: the scores first, then the times."""
        return tuple(each for each in (self.scores, self.timing) if each is not None)

    @property
    def precision(self) -> str:
        """Precision of the file, as its manifest states it."""
        return next((each.precision for each in self.results), "")

    @property
    def target(self) -> str:
        """Target that the file was written for."""
        return next((each.target for each in self.results), "")

    @property
    def model(self) -> str:
        """What the files of one model have in common: the digest of its float graph, or else the name's first part."""
        found = next((each.source_digest for each in self.results if each.source_digest), "")
        return found or self.artifact.split(f".{self.target}.")[0]

    @property
    def score(self) -> Score | None:
        """The numbers of its task; `None` if it was not scored."""
        return None if self.scores is None else self.scores.score

    @property
    def environment(self) -> Environment:
        """Engine, settings and machine of the timed runs, or else of the scored ones."""
        results = self.results
        return results[-1].environment if results else Environment()

    @property
    def p50_ms(self) -> float | None:
        """Median latency in ms."""
        return None if self.timing is None else self.timing.latency_ms.p50

    @property
    def is_float(self) -> bool:
        """Whether it is an FP32 file, computed in FP32: what others are compared with."""
        return self.precision == "fp32" and self.compute in ("", "f32")

    @property
    def drifted(self) -> bool:
        """Whether its latency was measured in no steady state."""
        return self.timing is not None and self.timing.stable is False


def merge(results: Iterable[Result]) -> list[Row]:
    """Returns one row for each artifact, runtime, compute precision, engine version and device, as they appear.

    Files of the same name are told apart by their digests. What several results say of one row is taken from the last.
    """
    rows: dict[RowKey, Row] = {}
    for each in results:
        used = each.environment
        key = (each.artifact, each.digest, each.runtime, used.compute_precision, used.engine, each.device or LOCAL)
        row = rows.setdefault(key, Row(*key))
        if isinstance(each, BenchResult):
            row.timing = each
        else:
            row.scores = each
    return list(rows.values())


def provenance(rows: Sequence[Row]) -> list[str]:
    """Returns sentences on how the figures were obtained: measured or emulated, with which engines, on what machine."""
    engines: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        for what, result in _measured(row):
            used = result.environment
            threads = f" ({counted(used.threads, 'thread')})" if used.threads else ""
            python = f"Python {used.python}" if used.python else None
            machine = ", ".join(fact for fact in (used.cpu, used.system, python) if fact)
            key = f"{what}: {result.obtained}", machine
            engines.setdefault(key, {})[f"{used.engine or row.runtime}{threads}"] = None
    sentences = [
        f"{what} with {' and '.join(names)}{f' on {machine}' if machine else ''}."
        for (what, machine), names in engines.items()
    ]
    sentences += _energy_sources(rows)
    if any(row.drifted for row in rows):
        sentences.append("~: not timed in a steady state, so another run may differ; ratios within one run hold.")
        sentences += [f"~ {row.artifact} in {row.runtime}: {_unstable(row)}." for row in rows if row.drifted]
    timed = [(row, row.timing) for row in rows if row.timing is not None]
    sentences += [
        f"{row.artifact}: launch bound, the CPU sets the pace; EDGEQ_CUDA_GRAPH=1 launches all kernels at once."
        for row, timing in timed
        if timing.launch_bound
    ]
    sentences += [
        f"{row.artifact} takes {ratio:.2f} times as long as its FP32 file in {row.runtime} on this machine."
        for row, timing in timed
        if (ratio := timing.ratio_to_fp32) is not None and ratio > _SLOWER
    ]
    return sentences


def _measured(row: Row) -> Iterator[tuple[str, Result]]:
    """Yields what was measured, as a sentence names it, and the result."""
    if row.scores is not None:
        of = f" of {row.scores.annotations}" if row.scores.annotations else ""
        images = "? images" if row.scores.images is None else counted(row.scores.images, "image")
        yield f"{row.scores.score.figures} over {images}{of}", row.scores
    if row.timing is not None:
        yield "Latency, size and memory", row.timing


def _energy_sources(rows: Sequence[Row]) -> list[str]:
    """Returns a sentence for each way that energy was measured in, with the share that the idle machine takes."""
    idle: dict[str, list[str]] = {}
    for row in rows:
        energy = row.timing.energy if row.timing is not None else None
        if energy is not None:
            shares = idle.setdefault(energy.source, [])
            if energy.idle_share is not None:
                shares.append(f"{row.artifact} in {row.runtime} {energy.idle_share:.0%}")
    return [
        f"J / image: {source} over the timed runs, the idle machine's share included"
        + (f": {', '.join(shares)}." if shares else ".")
        for source, shares in idle.items()
    ]


def _unstable(row: Row) -> str:
    """Returns why a row is marked; results of before there were sensors know of drift only."""
    reasons = row.timing.unstable_reasons if row.timing is not None else ()
    return ", ".join(reasons or [f"latency drifted by more than {MAX_DRIFT:.0%}"])
