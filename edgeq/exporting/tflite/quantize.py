"""Carries out a plan on a float TFLite file with ai-edge-quantizer, reads the result back and checks every decision."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from edgeq.calibrators.grid import Grid
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import MismatchError, MissingDependencyError, ModelError
from edgeq.exporting.planning.decision import LayerDecision
from edgeq.exporting.planning.plan import QuantPlan
from edgeq.exporting.tflite.graph import Graph, read_graph, rename_tensors
from edgeq.exporting.tflite.keep import operator_name
from edgeq.exporting.tflite.layers import computed_by_name, store_layers
from edgeq.exporting.tflite.plan import LAYERS, moves_values, tied
from edgeq.schemes import FLOAT, LayerScheme
from edgeq.targets.tflite import INT8

_FLOAT32_EPSILON = 1e-6

_LEAST_WIDTH = 1e-9
"""ai-edge-quantizer gives a narrower range the step of this one."""


def quantize(
    content: bytes,
    plan: QuantPlan,
    name: str,
    *,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    integer_io: bool = False,
    per_tensor: frozenset[str] = frozenset(),
) -> bytes:
    """Returns the quantized TFLite file.

    Args:
        content: A float file whose tensors have names of their own.
        plan: What to quantize; operators without a decision stay in float, weights that are not in it are the
            quantizer's.
        name: What to call the file in errors.
        ranges: Tensor name -> low and high, for all that static operators read and write (`intervals`).
        integer_io: Whether inputs and outputs that meet static operators are integers.
        per_tensor: Kinds of operators whose weights get one scale instead of one for each channel.

    Raises:
        ModelError: the quantizer refuses the graph, or did something else than was decided.
        MissingDependencyError: the extra `tflite` is not installed.
    """
    before = read_graph(content, name)
    if not integer_io and not plan.quantized:
        return content  # the quantizer refuses to have nothing to do
    worker = open_quantizer(content)
    from ai_edge_quantizer import qtyping

    granularities = qtyping.QuantGranularity
    for decision in plan.decisions:
        granularity = granularities.TENSORWISE if decision.op_type in per_tensor else granularities.CHANNELWISE
        _add_rule(worker, f"^{re.escape(decision.name)};", decision.op_type, decision.scheme, granularity)
    if integer_io:
        for side in ("INPUT", "OUTPUT"):
            _add_rule(worker, ".*", side, _static_scheme(plan.decisions), granularities.CHANNELWISE)
    statistics = None if ranges is None else _statistics(before, ranges)
    quantized = store_layers(run_quantizer(worker, statistics, name), before, (plan.weights, plan.biases), name)
    quantized = rename_tensors(quantized, end_names(before, read_graph(quantized, name)), name)
    check(before, read_graph(quantized, name), _numbered(before, plan), name, ranges=ranges, per_tensor=per_tensor)
    return quantized


def cast_to_float16(content: bytes, name: str) -> bytes:
    """Returns a TFLite file whose weights are float16, turned into float32 when the file is loaded.

    Raises:
        ModelError: the quantizer refuses the graph.
        MissingDependencyError: the extra `tflite` is not installed.
    """
    worker = open_quantizer(content)
    from ai_edge_quantizer import algorithm_manager, qtyping

    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    worker.update_quantization_recipe(
        ".*",
        qtyping.TFLOperationName.ALL_SUPPORTED,
        qtyping.OpQuantizationConfig(
            weight_tensor_config=weights,
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_manager.AlgorithmName.FLOAT_CASTING,
    )
    return run_quantizer(worker, None, name)


def intervals(
    graph: Graph,
    known: Mapping[str, tuple[Ranges, str]],
    decisions: Mapping[int, LayerDecision],
    integer_io: bool = False,
) -> dict[str, tuple[float, float]]:
    """Returns tensor name -> low and high for every tensor that a static operator reads or writes.

    Tensors that operators only move lie on one grid, the inputs of a CONCATENATION among them; a constant's range is
    that of its values.

    Args:
        graph: The float graph.
        known: Tensor name -> the ranges that hold it, and its name in them.
        decisions: The plan; int16x8 takes the widest values seen, for its steps are fine enough without clipping.
        integer_io: Whether the graph's inputs and outputs are integers too.

    Raises:
        MismatchError: a tensor has no range.
    """
    static = {graph.operators[index]: decision.scheme for index, decision in decisions.items()
              if decision.scheme.is_static}  # fmt: skip
    wanted = {index: scheme for operator, scheme in static.items()
              for index in (*graph.activations(operator), *operator.outputs)}  # fmt: skip
    if integer_io:
        wanted = dict.fromkeys((*graph.inputs, *graph.outputs), _static_scheme(decisions.values())) | wanted
    found = {}
    for members in tied(graph, static.keys()):
        joined = wanted.keys() & members
        if not joined:
            continue
        computed = [index for index in sorted(members) if index not in graph.values]
        observed = [index for index in computed if graph.tensors[index].name in known]
        sources = {source for index in observed or computed for source in _sources(graph, index, known)}
        constants = [_ends(graph.values[source]) for source in (sources | members) & graph.values.keys()]
        given = [known[graph.tensors[source].name] for source in sorted(sources - graph.values.keys())]
        # What was always zero has a range that says nothing.
        parts = [_interval(*each, wanted[min(joined)]) for each in given if each[1] not in each[0].zeros]
        parts += [ends for ends in constants if ends[0] < ends[1]]
        parts = parts or [*constants, *(_interval(*each, wanted[min(joined)]) for each in given)]
        interval = min(low for low, _ in parts), max(high for _, high in parts)
        found.update({graph.tensors[index].name: interval for index in joined})
    return found


def narrow_operators(
    graph: Graph, decisions: Mapping[int, LayerDecision], ranges: Mapping[str, tuple[float, float]]
) -> dict[str, str]:
    """Returns the name of a static operator -> why it has to stay in float: a range so narrow that it has no step.

    Args:
        graph: The float graph.
        decisions: The plan.
        ranges: What `intervals` returned for it.
    """
    found = {}
    for index, decision in decisions.items():
        operator = graph.operators[index]
        ends = (graph.tensors[each].name for each in (*graph.activations(operator), *operator.outputs))
        for name in ends if decision.scheme.is_static else ():
            low, high = ranges[name]
            width = max(high, -low) if decision.scheme.activation.symmetric else high - low
            if width < _LEAST_WIDTH:
                found[decision.name] = (
                    f"the values of {name} have a range of {width:.1e}, and the quantizer's steps end at a range of "
                    f"{_LEAST_WIDTH:.0e}"
                )
    return found


def _ends(array: np.ndarray) -> tuple[float, float]:
    return float(array.min(initial=0.0)), float(array.max(initial=0.0))


def _sources(graph: Graph, index: int, known: Mapping[str, tuple[Ranges, str]]) -> list[int]:
    """Returns the tensors with ranges that hold all values of a tensor: itself, or what was moved into it."""
    name = graph.tensors[index].name
    if name in known or index in graph.values:
        return [index]
    producer = graph.producer.get(index)
    if producer is None or not moves_values(graph, producer):
        raise MismatchError(
            f"the ranges hold no interval for the TFLite tensor {name!r}; give `calib` with images, so that it can be "
            "observed"
        )
    return [source for given in graph.moved(producer) for source in _sources(graph, given, known)]


def check(
    before: Graph,
    after: Graph,
    decisions: Mapping[int, LayerDecision],
    name: str,
    *,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    per_tensor: frozenset[str] = frozenset(),
) -> None:
    """Reads a quantized graph back, operator by operator.

    Raises:
        ModelError: an operator has not the precision that was decided, or a tensor not the scale of its range.
    """
    computed = computed_by_name(before, after)
    for operator in before.operators:
        if operator.kind not in LAYERS and operator.index not in decisions:
            continue
        output = before.tensors[operator.outputs[0]].name
        if output not in computed:
            raise ModelError(f"{name}: operator {output!r} is not in the quantized file; please report the model")
        found = computed[output]
        scheme = decisions[operator.index].scheme if operator.index in decisions else FLOAT
        result = after.tensors[found.outputs[0]]
        if scheme.is_float and before.tensors[operator.outputs[0]].dtype != "float32":
            continue  # it moves the bytes of an image
        weight = after.tensors[found.inputs[1]] if operator.kind in LAYERS else None
        problem = _problem(scheme, result.dtype, None if weight is None else weight.dtype)
        channelwise = weight is not None and weight.dtype == "int8" and operator.kind not in per_tensor
        if problem is None and channelwise and weight is not None and len(weight.scales) < max(1, _channels(weight)):
            problem = "its weights have one scale instead of one for each channel"
        if problem is None and scheme.is_static and ranges is not None:
            problem = _wrong_scale(result.scales, ranges[output], scheme)
        if problem is not None:
            raise ModelError(
                f"{name}: {operator.kind} {output!r} was to be {scheme.name}, but {problem}; please report the model"
            )


def open_quantizer(content: bytes) -> Any:
    """Returns ai-edge-quantizer's `Quantizer` of a file."""
    try:
        from ai_edge_quantizer import quantizer
    except ImportError as error:
        raise MissingDependencyError("ai-edge-quantizer", "tflite", "Quantizing TFLite files") from error
    return quantizer.Quantizer(bytearray(content))


def run_quantizer(worker: Any, statistics: Mapping[str, Mapping[str, np.ndarray]] | None, name: str) -> bytes:
    """Returns what a `Quantizer` makes of its file by the rules that it was given."""
    try:
        with _quiet():
            result = worker.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
        return bytes(result.quantized_model)
    # It raises plain ValueError, RuntimeError, KeyError and TypeError for graphs that it does not take.
    except Exception as error:
        raise ModelError(f"{name}: ai-edge-quantizer cannot quantize it: {error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the quantizer's bars and warnings off the user's terminal; it draws them whatever it is told."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _add_rule(worker: Any, scope: str, kind: str, scheme: LayerScheme, granularity: Any) -> None:
    from ai_edge_quantizer import qtyping

    names = qtyping.TFLOperationName
    operation = names.CONV_2D_TRANSPOSE if kind == "TRANSPOSE_CONV" else names(kind)
    if scheme.dynamic:
        worker.add_dynamic_config(scope, operation, num_bits=scheme.weight.bits, granularity=granularity)
    elif scheme.is_static:
        worker.add_static_config(
            scope,
            operation,
            activation_num_bits=scheme.activation.bits,
            weight_num_bits=scheme.weight.bits,
            weight_granularity=granularity,
        )


def activation_grids(
    ranges: Mapping[str, tuple[float, float]], decisions: Mapping[int, LayerDecision]
) -> dict[str, Grid]:
    """Returns tensor name -> its grid, for what `intervals` returned."""
    scheme = _static_scheme(decisions.values()).activation
    return {name: Grid.of(low, high, max(high, -low), scheme) for name, (low, high) in ranges.items()}


def _numbered(graph: Graph, plan: QuantPlan) -> dict[int, LayerDecision]:
    """Returns operator number -> decision."""
    decisions = {decision.name: decision for decision in plan.decisions}
    names = {operator.index: operator_name(graph, operator) for operator in graph.operators}
    return {index: decisions[name] for index, name in names.items() if name in decisions}


def _static_scheme(decisions: Iterable[LayerDecision]) -> LayerScheme:
    return next((each.scheme for each in decisions if each.scheme.is_static), INT8)


def _interval(ranges: Ranges, name: str, scheme: LayerScheme) -> tuple[float, float]:
    if scheme.activation.bits > 8 and name in ranges.histograms:  # fine enough without clipping
        histogram = ranges.histograms[name]
        return min(0.0, histogram.minimum), max(0.0, histogram.maximum)
    return ranges.interval(name)


def _statistics(graph: Graph, ranges: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, np.ndarray]]:
    """Returns what the quantizer calls statistics: minimum and maximum with one dimension for each of the tensor's."""
    ranks = {tensor.name: len(tensor.shape) for tensor in graph.tensors}
    return {
        name: {"min": np.full([1] * ranks[name], low, np.float32), "max": np.full([1] * ranks[name], high, np.float32)}
        for name, (low, high) in ranges.items()
    }


def end_names(before: Graph, after: Graph) -> dict[int, str]:
    """Returns the names that give the ends of a quantized graph those of the float one."""
    names = {}
    taken = {tensor.name: tensor.index for tensor in after.tensors}
    for old, new in zip((*before.inputs, *before.outputs), (*after.inputs, *after.outputs), strict=True):
        wanted = before.tensors[old].name
        if after.tensors[new].name != wanted:
            inner = f"{wanted}_quantized"
            while taken.get(inner, new) != new:
                inner += "_inner"
            names[taken[wanted]] = inner
            names[new] = wanted
    return names


def _channels(weight: Any) -> int:
    return int(weight.shape[weight.channel_axis]) if weight.shape else 1


def _problem(scheme: LayerScheme, output: str, weight: str | None) -> str | None:
    wanted = scheme.activation.dtype if scheme.is_static else "float32"
    if output != wanted:
        return f"its output is {output}"
    wanted = scheme.weight.dtype
    return None if weight in (None, wanted) else f"its weight is {weight}"


def _wrong_scale(scales: tuple[float, ...], interval: tuple[float, float], scheme: LayerScheme) -> str | None:
    low, high = interval
    wanted = Grid.of(low, high, max(high, -low), scheme.activation).scale
    if len(scales) == 1 and abs(scales[0] / wanted - 1) < _FLOAT32_EPSILON:
        return None
    return f"its scale is {scales}, its range asks for {wanted:g}"
