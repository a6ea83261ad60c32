"""The smallest selection of INT8 layers that makes a file faster than FP32, where the whole plan does not.

Kernel costs can promise a gain that a network does not show: its layers share caches and fuse in other ways than the
small networks that the costs are of. The promise is kept best where a layer saves most. So smaller selections are
written and timed, the layers that save most by the costs first, and the first that is faster is taken: of the
selections that gain it has the fewest layers in INT8, and loses the least accuracy.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeq.errors import EngineError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.costs.plan import least_gains
from edgeq.exporting.jobs import FileJob
from edgeq.exporting.onnx.writer import FloatModel, quantizable_graph
from edgeq.exporting.planning.selection import select_layers
from edgeq.exporting.quantization_facts import SpeedFacts, TriedSelection
from edgeq.measurement.speed_check import INT8
from edgeq.notes import log_of
from edgeq.progress import progress_bar

SEARCH_S = 30.0
"""Seconds after which no further selection is tried."""

_MOST_TRIED = 4

_LABEL = "timing smaller selections of INT8 layers"

_log = log_of(__name__)


@dataclass(frozen=True)
class Search:
    """What a search has found.

    Attributes:
        tried: The selections that were timed.
        job: What to write the smallest faster file by; `None` if none is faster.
        speed: Its time.
    """

    tried: tuple[TriedSelection, ...]
    job: FileJob | None = None
    speed: SpeedFacts | None = None


def smallest_that_gains(
    job: FileJob, write: Callable[[FileJob], Artifact], time_file: Callable[[Artifact], SpeedFacts]
) -> Search:
    """Returns the smallest faster selection, if any, and all that were tried.

    A selection counts as faster if two timings say so: of several files that are as fast as FP32 one may win by luck.

    Args:
        job: The INT8 file that is not faster; without kernel costs there is nothing to choose by.
        write: Writes a file.
        time_file: Times a file against FP32.
    """
    tried: list[TriedSelection] = []
    smaller = _smaller(job)
    end = time.monotonic() + SEARCH_S
    with tempfile.TemporaryDirectory() as folder, progress_bar(len(smaller), _LABEL, unit="selections") as advance:
        for each in smaller:
            if time.monotonic() > end:
                _log.warning("%.0f s were not enough to time all smaller selections of INT8 layers", SEARCH_S)
                break
            file = write(dataclasses.replace(each, folder=Path(folder)))
            if not (layers := file.quantization_facts.int8_nodes):
                continue
            try:
                speed, is_faster = _timed_twice(file, time_file)
            except EngineError as error:
                _log.warning("a smaller selection of INT8 layers was not timed (%s)", error)
                break
            tried.append(TriedSelection(layers, speed.ratio, speed.low, speed.high))
            advance(1)
            if is_faster:
                return Search(tuple(tried), each, speed)
    return Search(tuple(tried))


def _timed_twice(file: Artifact, time_file: Callable[[Artifact], SpeedFacts]) -> tuple[SpeedFacts, bool]:
    """Returns the last timing of a file, and whether it is faster by two of them; a file that is not is timed once."""
    first = time_file(file)
    if first.recommended != INT8:
        return first, False
    second = time_file(file)
    return second, second.recommended == INT8


def _smaller(job: FileJob) -> list[FileJob]:
    """Returns jobs for ever larger selections, all of them smaller than a job's own."""
    if job.costs is None:
        return []
    assert isinstance(job.model, FloatModel)  # noqa: S101 - costs are those of its graph
    graph, _ = quantizable_graph(job.model, job.target)
    rules = job.target.rules.of_any_size
    quantized = select_layers(graph, rules, job.kept, job.options.vit_plan).quantized
    gains = least_gains(graph, quantized, job.costs, rules, _MOST_TRIED)
    return [dataclasses.replace(job, least_gain_us=each) for each in gains]
