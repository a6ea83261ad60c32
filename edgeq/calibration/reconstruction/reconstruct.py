"""Learns the rounding of a plan's weights on calibration inputs, unit after unit ("BRECQ", Li et al., 2021).

Each unit reads what the quantized model gives so far and learns to give what the float model gives. Every fourth input
is held out: a unit keeps what it learned only where that lowers its error there, and the whole plan only where that
lowers the error of the model's outputs there. Finished units are kept in the user's cache, so that an interrupted
export resumes and a repeated one is quick.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgeq.calibration.learning_job import learning_job
from edgeq.calibration.reconstruction.learning import Learned, Samples, Settings, learn
from edgeq.calibration.reconstruction.units import Unit, find_units
from edgeq.calibration.reconstruction.walk import Walk
from edgeq.calibration.torch_threads import torch_threads
from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import copy_graph, new_initializer, weight_of
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.planning.plan import with_weights
from edgeq.exporting.planning.saturation import SaturationGuard
from edgeq.notes import log_of
from edgeq.packing import PackedArray, pack_array, unpack_array
from edgeq.progress import progress_bar
from edgeq.quantizers.weight import QuantizedWeight
from edgeq.resume import JobLog

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporting.jobs import PlannedModel
    from edgeq.exporting.planning.plan import QuantPlan

FEWEST = 4
"""Inputs without which nothing can be learned and held out."""

SENSIBLE = 32
"""Below this many inputs a unit learns their peculiarities."""

_EVERY = 4

_log = log_of(__name__)


_PIXELS = 1 << 23
_MOST = 512


def images_to_learn_on(shape: Sequence[int]) -> int:
    """Returns how many images rounding is learned on: 512, of large ones as many as fit into memory, at least 32.

    Args:
        shape: Of an input, channels first.
    """
    return max(SENSIBLE, min(_MOST, _PIXELS // max(int(np.prod(shape[1:])), 1)))


def require_inputs(count: int) -> None:
    """Raises `InputError` if rounding cannot be learned on so few inputs."""
    if count < FEWEST:
        raise InputError(
            f"`rounding` reconstruct: learns on images, and there are {count}; give `calib` with at least {FEWEST}, "
            f"better {SENSIBLE} or more"
        )


def reconstruct(
    planned: PlannedModel,
    feeds: Sequence[Mapping[str, np.ndarray]],
    settings: Settings | None = None,
    threads: int | None = None,
) -> tuple[QuantPlan, dict[str, Any]]:
    """Returns the plan with learned rounding, and what the manifest says of it.

    The same inputs, settings, threads and versions give the same integers on the same CPU.

    Args:
        planned: The plan, its weights rounded to nearest, and the graph that it is for.
        feeds: Inputs of the graph, each by name, all of one shape.
        settings: How rounding is learned.
        threads: CPU threads.

    Raises:
        InputError: there are fewer than four inputs.
        EngineError: the engine cannot run the graph.
    """
    settings = settings or Settings()
    require_inputs(len(feeds))
    if len(feeds) < SENSIBLE:
        _log.warning("rounding is learned on %d images only; %d or more are better", len(feeds), SENSIBLE)
    graph, plan = planned.graph, planned.plan
    learnable = [name for name, weight in plan.weights.items() if weight.scheme.is_integer and weight.scheme.symmetric]
    units = find_units(graph, learnable, blocks=settings.blocks)
    log = JobLog.in_cache("reconstruction", learning_job(planned, feeds, settings, threads))
    known = {part["unit"]: part for part in log.parts() if "unit" in part}
    ways = _Ways.of(planned, units, feeds, threads)
    guard = SaturationGuard(planned.ranges.channel_maxima) if planned.target.rules.saturates else None
    nodes = {str(node.name): node for node in graph.graph}
    found: list[Learned] = []
    with progress_bar(len(units), "rounding", unit="blocks") as advance, torch_threads(threads):
        for number, unit in enumerate(units):
            # A resumed export takes the same steps, so that its sums have the same order.
            samples = ways.samples(unit)
            learned = _read(known[number], unit, plan) if number in known else None
            if learned is None:
                learned = learn(unit, plan, *samples, settings, number)
                if guard is not None:
                    learned = _without_saturation(learned, unit, planned, guard, nodes)
                log.add(_part(number, learned))
            ways.set(learned.weights)
            found.append(learned)
            advance(1)
    return _result(planned, units, found, ways, feeds, settings, threads)


class _Ways:
    """The float model and the quantized one on their way through all inputs."""

    def __init__(self, model: Walk, quantized: Walk, constants: Mapping[str, str], held_out: np.ndarray) -> None:
        self.model, self.quantized = model, quantized
        self._constants = constants
        self.held_out = held_out

    @classmethod
    def of(
        cls,
        planned: PlannedModel,
        units: Sequence[Unit],
        feeds: Sequence[Mapping[str, np.ndarray]],
        threads: int | None,
    ) -> _Ways:
        graph, constants = _with_pairs(planned)
        outputs, sources = _outputs(planned), [unit.source for unit in units]
        read = [*outputs, *sources]
        model = Walk(planned.graph, feeds, [*read, *(unit.output for unit in units)], threads)
        held_out = np.arange(len(feeds)) % _EVERY == _EVERY - 1
        return cls(model, Walk(graph, feeds, read, threads), constants, held_out)

    def samples(self, unit: Unit) -> tuple[Samples, Samples]:
        """Returns what a unit reads and gives, on the inputs to learn on and on those held out."""
        floats = self.model.reach([unit.source, unit.output])
        sources = self.quantized.reach([unit.source])[unit.source]
        arrays = [np.concatenate(each) for each in (sources, floats[unit.source], floats[unit.output])]
        each = len(arrays[0]) // len(self.held_out)
        chosen = np.repeat(self.held_out, each)
        train, held_out = (Samples(*(array[part] for array in arrays)) for part in (~chosen, chosen))
        return train, held_out

    def set(self, weights: Mapping[str, QuantizedWeight]) -> None:
        """Sets weights of the quantized model, for what comes behind."""
        for name, weight in weights.items():
            self.quantized.replace(self._constants[name], weight.dequantize())


def _with_pairs(planned: PlannedModel) -> tuple[ir.Model, dict[str, str]]:
    """Returns the graph with the plan's pairs and weights as real numbers, and node -> name of the constant."""
    graph, plan = copy_graph(planned.graph), planned.plan
    insert_qdq(graph, dataclasses.replace(plan, weights={}, biases={}), planned.target.rules)
    constants = {}
    for node in graph.graph:
        weight = plan.weights.get(str(node.name))
        if weight is not None and weight_of(node) is not None:
            value = new_initializer(graph, f"{node.name}_rounded", weight.dequantize())
            node.replace_input_with(1, value)
            constants[str(node.name)] = str(value.name)
    return graph, constants


def _without_saturation(
    learned: Learned, unit: Unit, planned: PlannedModel, guard: SaturationGuard, nodes: Mapping[str, ir.Node]
) -> Learned:
    """Returns what was learned, or nothing of it if a sum in 16 bits could saturate by it."""
    for name, weight in learned.weights.items() if learned.is_kept else ():
        node = nodes[name]
        real = weight_of(node)
        source = node.inputs[0]
        assert real is not None and source is not None  # noqa: S101 - the plan holds layers with weights
        grid = {**planned.plan.tied, **planned.plan.tensors}.get(str(source.name))
        if guard.fit(node, real, weight, grid) is not weight:
            nearest = {each: planned.plan.weights[each] for each in unit.layers}
            return Learned(nearest, learned.nearest, learned.nearest)
    return learned


def _result(
    planned: PlannedModel,
    units: Sequence[Unit],
    found: Sequence[Learned],
    ways: _Ways,
    feeds: Sequence[Mapping[str, np.ndarray]],
    settings: Settings,
    threads: int | None,
) -> tuple[QuantPlan, dict[str, Any]]:
    """Returns the plan, with what was learned if that lowers the held-out error of the model's outputs."""
    plan = planned.plan
    learned = {name: weight for each in found if each.is_kept for name, weight in each.weights.items()}
    outputs = _outputs(planned)
    chosen = [int(index) for index in np.flatnonzero(ways.held_out)]
    real, after = (
        {name: [arrays[index] for index in chosen] for name, arrays in way.reach(outputs).items()}
        for way in (ways.model, ways.quantized)
    )
    before = Walk(_with_pairs(planned)[0], [feeds[index] for index in chosen], outputs, threads).reach(outputs)
    before_error, after_error = (_relative_error(real, each) for each in (before, after))
    is_kept = bool(learned) and after_error < before_error
    facts = {
        "method": "adaptive rounding of blocks" if settings.blocks else "adaptive rounding of layers",
        "images": len(feeds),
        "held_out": int(ways.held_out.sum()),
        "seed": settings.seed,
        "iterations": settings.iterations,
        "output_error_nearest": before_error,
        "output_error_learned": after_error,
        "kept": is_kept,
        "units": [
            {"layers": list(unit.layers), "nearest": each.nearest, "learned": each.learned, "kept": each.is_kept}
            for unit, each in zip(units, found, strict=True)
        ],
    }
    return (with_weights(plan, planned.graph, learned) if is_kept else plan), facts


def _outputs(planned: PlannedModel) -> list[str]:
    return [str(value.name) for value in planned.graph.graph.outputs]


def _relative_error(real: Mapping[str, list[np.ndarray]], found: Mapping[str, list[np.ndarray]]) -> float:
    """Returns the squared error of outputs, each relative to its energy, averaged over the outputs."""
    errors = []
    for name, arrays in real.items():
        if np.issubdtype(arrays[0].dtype, np.floating):
            pairs = list(zip(arrays, found[name], strict=True))
            error = sum(float(np.square(other - one, dtype=np.float64).sum()) for one, other in pairs)
            errors.append(error / (sum(float(np.square(one, dtype=np.float64).sum()) for one, _ in pairs) or 1.0))
    return float(np.mean(errors)) if errors else 0.0


def _part(number: int, learned: Learned) -> dict[str, Any]:
    weights = {
        name: {"integers": pack_array(weight.integers.view(np.uint8)), "scale": pack_array(weight.scale)}
        for name, weight in learned.weights.items()
    }
    return {"unit": number, "nearest": learned.nearest, "learned": learned.learned, "weights": weights}


def _read(part: Mapping[str, Any], unit: Unit, plan: QuantPlan) -> Learned | None:
    """Returns what an earlier run has learned of a unit; `None` if that cannot be read."""
    try:
        weights = {name: _weight(part["weights"][name], plan.weights[name]) for name in unit.layers}
        return Learned(weights, float(part["nearest"]), float(part["learned"]))
    except (KeyError, TypeError, ValueError):
        return None


def _weight(part: Mapping[str, Any], nearest: QuantizedWeight) -> QuantizedWeight:
    integers = _array(part["integers"], nearest.integers.nbytes).view(nearest.integers.dtype)
    scale = _array(part["scale"], nearest.scale.nbytes)
    if (integers.shape, scale.shape) != (nearest.integers.shape, nearest.scale.shape):
        raise ValueError(f"integers of shape {integers.shape}, scales of shape {scale.shape}")
    return dataclasses.replace(nearest, integers=integers, scale=scale)


def _array(packed: Any, most_bytes: int) -> np.ndarray:
    return unpack_array(msgspec.convert(packed, PackedArray), most_bytes)
