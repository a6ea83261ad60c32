"""What layers cost on a device: its own kernel table where it can have one, otherwise estimates that fit whole files.

x86 devices time the kernels of the model themselves, in their engine. For others the estimates of `search_costs` serve,
with all costs of INT8 scaled so that the default INT8 file takes the part of FP32's time that it was measured to take
on the device.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edgeq.devices.remote import RemoteDevice
from edgeq.devices.transfer import SentFile
from edgeq.errors import EngineError
from edgeq.exporting.costs.plan import cost_problem, kernels_of, predicted_us
from edgeq.exporting.costs.table import KernelTable
from edgeq.exporting.onnx.writer import quantizable_graph
from edgeq.measurement.kernel_tables import TIMED_RUNTIMES, measured
from edgeq.measurement.kernel_timing import TIMER, TimerPlace
from edgeq.progress import labelled
from edgeq.tuning.candidate import Candidate
from edgeq.tuning.scoring import Scoring
from edgeq.tuning.search_costs import LayerCosts, estimated_costs
from edgeq.tuning.search_latency import measured as measured_files
from edgeq.tuning.timing_devices import Devices, alone
from edgeq.tuning.trials import Subject

_LEAST_SCALE, _MOST_SCALE = 0.05, 20.0
"""A speed of INT8 beyond these is no property of layers any more."""

_log = logging.getLogger(__name__)


def costs_on_devices(scoring: Scoring, site: Devices, default: Candidate, *, measure: bool) -> LayerCosts:
    """Returns what the layers of a subject cost on devices.

    Args:
        scoring: Scores the subject.
        site: The devices.
        default: What `edgeq export` writes by the target's rules.
        measure: Whether kernels may be timed.

    Raises:
        DeviceError: they are lost.
    """
    known = _timed(scoring, site) if measure and scoring.subject.target.timed else None
    return known or _fitted(scoring, site, default)


def _timed(scoring: Scoring, site: Devices) -> LayerCosts | None:
    """Returns costs by kernels that the first device times; `None` if it cannot."""
    device, file, subject = site.devices[0], scoring.float_file, scoring.subject
    facts = site.facts(device, file)
    if facts.runtime not in TIMED_RUNTIMES:
        return None
    graph, _ = quantizable_graph(subject.model, subject.target)
    kernels = list(dict.fromkeys(kernels_of(graph, subject.selection.quantized).values()))
    version = facts.environment.engine.rpartition(" ")[2]
    with labelled(device.name), site.ready(device, file) as (remote, _):
        place = TimerPlace(remote.python(*TIMER), partial(_send, remote))
        try:
            with alone(remote):
                table = measured(facts.runtime, kernels, facts.environment, facts.threads, version, place)
        except EngineError as error:
            _log.warning("%s: %s; times of layers are estimated from whole files", device.name, error)
            return None
    source = f"kernel costs measured on {device.name} ({facts.surveyed.engine})"
    return dataclasses.replace(estimated_costs(subject), table=table, time_source=source, is_estimated=False)


def _send(remote: RemoteDevice, paths: Sequence[Path]) -> list[str]:
    files = [SentFile.of(path) for path in paths]
    remote.push(files)
    return [remote.path_of(each) for each in files]


def _fitted(scoring: Scoring, site: Devices, default: Candidate) -> LayerCosts:
    """Returns estimates whose costs of INT8 are scaled to what the default INT8 file takes on the device."""
    subject = scoring.subject
    costs, layers = estimated_costs(subject), frozenset(subject.layers(default))
    file = subject.write(default, scoring.folder / "fitted")
    files = [(scoring.trial(Candidate()), scoring.float_file), (scoring.trial(default), file)]
    _, found = measured_files(scoring.journal, site, files)
    assert found is not None  # noqa: S101 - a device raises what it cannot do
    ratio = found.latency.ratio
    costs = dataclasses.replace(costs, table=_scaled(costs.table, _scale(subject, costs, layers, ratio)))
    source = f"{costs.time_source}, those of INT8 scaled to whole files on {site.name}, {ratio:.2f} of FP32's time"
    return dataclasses.replace(costs, time_source=source)


def _scale(subject: Subject, costs: LayerCosts, layers: frozenset[str], ratio: float) -> float:
    """Returns what costs of INT8 are to be multiplied by, so that layers in INT8 take a part of the float file's time.

    That time is linear in the factor as long as what moves values stays in the same precision.
    """
    graph, _ = quantizable_graph(subject.model, subject.target)

    def total(factor: float, int8: frozenset[str]) -> float:
        table = _scaled(costs.table, factor)
        problem = cost_problem(graph, subject.selection.quantized, table, subject.target.rules)
        return predicted_us(problem, int8 & problem.candidates)

    free, full = total(0.0, layers), total(1.0, layers)
    wanted = ratio * total(1.0, frozenset())
    return min(max((wanted - free) / (full - free), _LEAST_SCALE), _MOST_SCALE) if full > free else 1.0


def _scaled(table: KernelTable, factor: float) -> KernelTable:
    """Returns a table with all costs of INT8, conversions included, multiplied by a factor."""
    rows = {
        kernel: dataclasses.replace(
            cost,
            int8_us=cost.int8_us * factor,
            quantize_us=cost.quantize_us * factor,
            dequantize_us=cost.dequantize_us * factor,
            quantize_output_us=cost.quantize_output_us * factor,
        )
        for kernel, cost in table.rows.items()
    }
    return dataclasses.replace(table, rows=rows)
