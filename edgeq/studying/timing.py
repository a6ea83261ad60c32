"""What the useful points of the front take in their engine: each as the file that its export writes.

Trials compute in FP32, so their own time says nothing. Files are timed in turns with FP32, as those of `edgeq tune`
are: nobody else who predicts or times images with edgeq on this machine computes meanwhile. What was measured while the
machine was steady is kept in the store.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeq.errors import EdgeqError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.onnx.low_bit import form_of
from edgeq.inputs import evenly_spaced
from edgeq.progress import progress_bar
from edgeq.results.study import StudyPoint, StudyTiming
from edgeq.studying.commands import TrialExport, export_of
from edgeq.studying.layers import StudyLayer
from edgeq.studying.run import StudyRun
from edgeq.studying.trials import StudyTrial
from edgeq.targets import Target
from edgeq.tuning.search_budget import UNLIMITED
from edgeq.tuning.search_latency import Measured, MeasurementRecord, measured
from edgeq.tuning.timing_site import TimingSite
from edgeq.wording import counted

MOST_TIMED = 8
"""Files that are written and timed: methods that read images take minutes for one."""

_FILE_BYTES = "file_bytes"

Write = Callable[[TrialExport, Path], Artifact]
"""Writes the file of a trial to a folder."""


@dataclass(frozen=True, eq=False)
class FrontTimer:
    """Times the files of points.

    Attributes:
        target: What files are for.
        site: Where they are timed.
        write: Writes them.
        folder: Folder for them while they are timed.
    """

    target: Target
    site: TimingSite
    write: Write
    folder: Path

    def times(
        self, run: StudyRun, points: Sequence[StudyPoint], trials: Mapping[str, StudyTrial]
    ) -> tuple[dict[str, StudyTiming], list[str]]:
        """Returns name of a point -> what its file takes, and why others have none.

        Args:
            run: The study.
            points: Points of the front.
            trials: Name of a point -> its trial.
        """
        if self.site.refusal:
            return {}, [f"no point is timed: {self.site.refusal}"]
        exports, notes = self._exports(points, trials, run.model.layers)
        if not exports:
            return {}, notes
        record = MeasurementRecord(run.journal, self.site.survey(run.model.artifact))
        known = {name: record.find(run.entry(trials[name]), UNLIMITED) for name in exports}
        sizes = {name: run.journal.measures(run.entry(trials[name])).get(_FILE_BYTES) for name in exports}
        missing = [name for name in exports if known[name] is None or sizes[name] is None]
        with tempfile.TemporaryDirectory(prefix="timed-", dir=self.folder) as folder:
            files = self._files({name: exports[name] for name in missing}, Path(folder), notes)
            for name, file in files.items():
                sizes[name] = size = float(file.size_bytes)
                run.journal.add_measures(run.entry(trials[name]), {_FILE_BYTES: size})
            if files:
                asked = [(run.entry(None), run.model.artifact)]
                asked += [(run.entry(trials[name]), file) for name, file in files.items()]
                _, *found = measured(run.journal, self.site, asked)
                known |= dict(zip(files, found, strict=True))
        taken = {name: _timing(each, sizes[name]) for name, each in known.items() if each is not None}
        return taken, [*notes, *_busy(known.values())]

    def _exports(
        self, points: Sequence[StudyPoint], trials: Mapping[str, StudyTrial], layers: Sequence[StudyLayer]
    ) -> tuple[dict[str, TrialExport], list[str]]:
        """Returns name of a point -> what writes a file that an engine has kernels for, and how many have none."""
        found: dict[str, TrialExport] = {}
        unwritten = simulated = 0
        for point in points:
            export = export_of(trials[point.name], layers)
            if export is None:
                unwritten += 1
            elif form_of(self.target, export.variant.bits, export.options.group_size or 0) == "float":
                simulated += 1
            else:
                found[point.name] = export
        notes = []
        if unwritten:
            notes.append(f"{_not_timed(unwritten)}: no export writes the file")
        if simulated:
            engine = self.target.runtimes[0]
            notes.append(f"{_not_timed(simulated)}: {engine} has no kernel for the bits")
        if len(found) > MOST_TIMED:
            notes.append(f"{MOST_TIMED} of {len(found)} files of the front are timed, evenly spaced")
            found = {name: found[name] for name in evenly_spaced(list(found), MOST_TIMED)}
        return found, notes

    def _files(self, exports: Mapping[str, TrialExport], folder: Path, notes: list[str]) -> dict[str, Artifact]:
        """Returns name of a point -> its file; why one cannot be written is noted."""
        found = {}
        with progress_bar(len(exports), "writing files to time", unit="files") as advance:
            for number, (name, export) in enumerate(exports.items()):
                try:
                    found[name] = self.write(export, folder / str(number))
                except EdgeqError as error:
                    notes.append(f"{name} is not timed: {error}")
                advance(1)
        return found


def with_times(points: Sequence[StudyPoint], times: Mapping[str, StudyTiming]) -> tuple[StudyPoint, ...]:
    """Returns points, those that were timed with their times."""
    return tuple(dataclasses.replace(each, measured=times.get(each.name)) for each in points)


def _not_timed(count: int) -> str:
    return f"{counted(count, 'point')} of the front {'is' if count == 1 else 'are'} not timed"


def _timing(measured: Measured, size: float | None) -> StudyTiming:
    latency = measured.latency
    return StudyTiming(
        p50_ms=latency.p50_ms or 0.0,
        ratio=latency.ratio,
        low=latency.low,
        high=latency.high,
        peak_rss_bytes=measured.usage.memory_bytes,
        file_bytes=int(size or 0),
        steady=not measured.unsteady,
    )


def _busy(found: Iterable[Measured | None]) -> list[str]:
    """Returns that the machine was not steady, if it was not."""
    reasons = sorted({each.unsteady for each in found if each is not None and each.unsteady})
    if not reasons:
        return []
    return [
        f"times marked ~ were taken while the machine was not steady ({reasons[0]}); rerun the command when it is idle"
    ]
