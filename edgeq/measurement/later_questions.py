"""What a benchmark asks the process of a file once its latency and memory are measured: stages around it, and layers.

Neither is worth losing the latency for: what cannot be timed is a warning.
"""

from __future__ import annotations

import logging

import msgspec

from edgeq.errors import EdgeqError
from edgeq.results.measurement import LayerProfile, StageStatistics
from edgeq.runtimes.child import RunnerProcess

_STAGES = "edgeq.measurement.stage_timing:time_stages"
_LAYERS = "edgeq.measurement.layer_timing:time_layers"

_log = logging.getLogger(__name__)


class Stages(msgspec.Struct):
    """What `edgeq.measurement.stage_timing.time_stages` returns."""

    preprocess_ms: StageStatistics | None = None
    postprocess_ms: StageStatistics | None = None
    problem: str | None = None


class _StagesAnswer(msgspec.Struct):
    result: Stages


class _LayersAnswer(msgspec.Struct):
    result: LayerProfile | None


def ask_for_stages(process: RunnerProcess, name: str, timeout_s: float, min_runs: int, min_s: float) -> Stages:
    """Returns the times of pre- and post-processing.

    Args:
        process: The process that has the file open.
        name: Name of the file, for a warning.
        timeout_s: How long the process may be silent.
        min_runs: Samples of each stage, at least.
        min_s: Sum of the samples of each stage, at least.
    """
    arguments = {"min_runs": min_runs, "min_s": min_s}
    try:
        stages = process.ask_for(_StagesAnswer, timeout_s, "call", function=_STAGES, arguments=arguments).result
    except EdgeqError as error:
        stages = Stages(problem=str(error))
    if stages.problem:
        _log.warning("%s: pre- or post-processing was not timed (%s)", name, stages.problem)
    return stages


def ask_for_layers(process: RunnerProcess, name: str, timeout_s: float) -> LayerProfile | None:
    """Returns the times of layers; `None` with a warning if there are none. Arguments as of `ask_for_stages`."""
    found, problem = None, "the engine's Python API has no profiler"
    try:
        found = process.ask_for(_LayersAnswer, timeout_s, "call", function=_LAYERS, arguments=None).result
    except EdgeqError as error:
        problem = str(error)
    if found is None:
        _log.warning("%s: layers were not timed (%s)", name, problem)
    return found
