"""Which nodes of a graph FP16 cannot compute, by what calibration saw: they stay FP32, as islands.

Rules, by number:

1. A tensor whose observed magnitude comes within `SAFETY` of FP16's end, or a constant beyond it, is FP32: the node
   that makes it and those that read it are an island. In a graph with normalisations or softmaxes, so is a tensor that
   was not observed and whose bound is beyond it: a sum of weights times what was observed before them
   (`edgeq.exporting.graphs.bounds`). A CNN's bounds are too far from what its sums become.
2. So are logits of a Softmax where FP16 has steps above `MAX_LOGIT_STEP`: half a step is the error of a logit. Those
   that a mask hides do not count.
3. A LayerNormalization adds up squares inside, which no calibration sees. Over `n` values between `low` and `high`
   their sum is at most `n (high - low)^2 / 4` (Popoviciu's inequality on variances); where that leaves FP16, the node
   is an island. So is one whose variance is below the normal numbers of FP16, which lose digits there.
4. Sums and means written as nodes are islands where `n` times their largest input leaves FP16; and squares that such a
   node averages are FP32 where they are below the normal numbers, and so is what follows up to a division by the root.
5. A tensor of which nothing is known, beside a node of rules 1, 2 or 4, is taken to be as large: an island reaches up
   to tensors that were seen to fit, or whose bound does.

6. A normalisation written as nodes, whose squares are FP32, takes the difference from the mean in FP32 too: it would
   lose digits. What scales and shifts it is of the type that its source has: ONNX Runtime fuses all of it to one
   LayerNormalization, which fails on two types (seen in 1.32).

References: IEEE 754-2019, binary16; T. Popoviciu, Mathematica (Cluj) 9, 1935, on the roots of real equations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.bounds import Magnitudes, normalized_count, reduced_count
from edgeq.exporting.graphs.graph import constant, data_inputs, walk
from edgeq.exporting.graphs.masks import masks_before
from edgeq.exporting.graphs.moves import moved_from
from edgeq.exporting.graphs.written_norm import WrittenNorm, written_norm
from edgeq.exporting.passes.masks import LEAST
from edgeq.exporting.tensorrt.strong_typing import FP16_MAX
from edgeq.notes import log_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.calibrators import Histogram
    from edgeq.calibrators.ranges import Ranges

SAFETY = 2.0
"""How much further than the calibration images others may reach."""

MAX_LOGIT_STEP = 1 / 8
"""Largest step between logits: half of it is the error of rounding, 6 % of a probability."""

MIN_NORMAL = float(np.finfo(np.float16).tiny)
"""Least magnitude that FP16 holds with all its digits."""

_SOFTMAX = frozenset({"Softmax", "LogSoftmax"})
_SUMS = frozenset({"ReduceSum", "ReduceMean"})
_SUMS_OF_SQUARES = frozenset({"ReduceSumSquare", "ReduceL2"})
_SQUARES = frozenset({"Pow"})
_TO_DEVIATION = frozenset({"Add", "Sqrt", "Reciprocal"})
# A graph with one of these is observed more closely; a plain CNN has none, and costs nothing more.
_DELICATE = _SOFTMAX | _SUMS_OF_SQUARES | _SQUARES | {"LayerNormalization"}

_EVERY = 17

_log = log_of(__name__)


def audited_tensors(model: ir.Model) -> list[str]:
    """Returns the tensors that an audit wants calibration to see, in graph order; none for a plain CNN.

    Those are the inputs of normalisations, softmaxes and sums, and squares; of what is only moved, the tensor before.
    The weights bound everything else.
    """
    if not _is_delicate(model):
        return []
    names: dict[str, None] = {}
    for node in model.graph:
        if node.op_type in _DELICATE | _SUMS and node.inputs[0] is not None:
            names[str(moved_from(node.inputs[0]).name)] = None
        if node.op_type in _SQUARES:
            names[str(node.outputs[0].name)] = None
    constants = model.graph.initializers
    return [name for name in names if name not in constants]


def thinned(array: np.ndarray) -> np.ndarray:
    """Returns what an audit needs of a tensor that nothing else counts, `(values,)`: a fraction of its values.

    Those are its extremes, and for its mean square a value in 17, which is a factor of no usual number of channels.
    """
    values = array.reshape(-1)
    return np.concatenate([[values.min(), values.max()], values[::_EVERY]]) if values.size else values


def audit_fp16(model: ir.Model, ranges: Ranges | None) -> dict[str, str]:
    """Returns the nodes that stay FP32 -> the reason, in graph order; empty where everything fits.

    Args:
        model: The float graph; its shapes are inferred. Q/DQ pairs come after the audit.
        ranges: What calibration saw. `None` audits nothing, which one line of the log says where there was something
            to audit.
    """
    unseen = [name for name in audited_tensors(model) if ranges is None or name not in ranges.histograms]
    if unseen:
        _log.info(
            "FP16 audit: %d tensors of normalisations, softmaxes and sums were not observed%s",
            *(len(unseen), "; give `calib` to have them checked" if ranges is None else ", calibrate again"),
        )
    return {} if ranges is None else _Audit(model, ranges).islands()


class _Audit:
    """A graph and what is known of its tensors."""

    def __init__(self, model: ir.Model, ranges: Ranges) -> None:
        self._model = model
        self._delicate = _is_delicate(model)
        self._magnitudes = Magnitudes(ranges.histograms)
        # Tensor that has to be FP32 -> why.
        self._wide: dict[ir.Value, str] = {}
        self._islands: dict[str, str] = {}

    def islands(self) -> dict[str, str]:
        """Returns node -> reason."""
        for value in self._values():  # in graph order, so that a bound finds those before it
            self._widen(value, self._overflow(value))
        for node in walk(self._model):
            if node.op_type in _SOFTMAX:
                self._widen(node.inputs[0], self._coarse_logits(node))
            if node.op_type in _SUMS and (reason := self._tiny_squares(node)) is not None:
                self._widen(node.inputs[0], reason)
                for value in _deviation(node.outputs[0]):
                    self._widen(value, reason)
        self._spread()
        for node in walk(self._model):
            if (reason := self._sum_overflow(node)) is not None:
                self._islands.setdefault(str(node.name), reason)
        for node in walk(self._model):
            if (norm := written_norm(node)) is not None:
                self._complete(norm)
        names = [str(node.name) for node in self._model.graph]
        return {name: self._islands[name] for name in names if name in self._islands}

    def _values(self) -> Iterator[ir.Value]:
        yield from self._model.graph.inputs
        yield from self._model.graph.initializers.values()
        for node in self._model.graph:
            yield from node.outputs

    def _widen(self, value: ir.Value | None, reason: str | None) -> None:
        if value is not None and reason is not None:
            self._wide.setdefault(value, reason)

    def _histogram(self, value: ir.Value | None) -> Histogram | None:
        return None if value is None else self._magnitudes.histogram(value)

    def _overflow(self, value: ir.Value) -> str | None:
        """Rule 1."""
        if not _is_float(value):
            return None
        magnitude = self._magnitudes.of(value)
        observed = self._histogram(value) is not None
        if magnitude is None or magnitude <= FP16_MAX / (SAFETY if observed else 1):
            return None
        is_bound = not observed and constant(value) is None
        if is_bound and not self._delicate:
            return None
        verb = "may reach" if is_bound else "reaches"
        return f"{moved_from(value).name} {verb} {magnitude:.3g}, FP16 ends at {FP16_MAX:.0f}"

    def _coarse_logits(self, node: ir.Node) -> str | None:
        """Rule 2."""
        histogram = self._histogram(node.inputs[0])
        if histogram is None:
            return None
        largest = _largest_logit(node, histogram)
        step = float(np.spacing(np.float16(min(largest, FP16_MAX / 2))))
        if step <= MAX_LOGIT_STEP:
            return None
        return f"logits of {node.name} reach {largest:.3g}, where FP16 has steps of {step:g}"

    def _tiny_squares(self, node: ir.Node) -> str | None:
        """Rule 4, the second half."""
        square = None if node.inputs[0] is None else moved_from(node.inputs[0]).producer()
        if square is None or square.op_type not in _SQUARES:
            return None
        histogram = self._histogram(node.inputs[0])
        return None if histogram is None else _lost_digits(f"squares before {node.name}", _mean(histogram, 1))

    def _sum_overflow(self, node: ir.Node) -> str | None:
        """Rules 3 and 4."""
        histogram = self._histogram(node.inputs[0]) if node.inputs else None
        if histogram is None or not histogram.total:
            return None
        if node.op_type == "LayerNormalization":
            half = (histogram.maximum - histogram.minimum) / 2
            return _sum_beyond(
                f"squares of up to {half:.3g}", normalized_count(node) or 1, half * half
            ) or _lost_digits("its variance", _mean(histogram, 2))
        if node.op_type in _SUMS:
            return _sum_beyond(f"values of up to {histogram.amax:.3g}", reduced_count(node) or 1, histogram.amax)
        if node.op_type in _SUMS_OF_SQUARES:
            return _sum_beyond(f"squares of up to {histogram.amax:.3g}", reduced_count(node) or 1, histogram.amax**2)
        return None

    def _spread(self) -> None:
        """Makes islands of the nodes around FP32 tensors (rule 5)."""
        waiting = list(self._wide)
        while waiting:
            value = waiting.pop()
            for node in (value.producer(), *(use.node for use in value.uses())):
                if node is None or node.name in self._islands:
                    continue
                self._islands[str(node.name)] = self._wide[value]
                for other in (*data_inputs(node), *node.outputs):
                    if other not in self._wide and not self._fits(other):
                        self._wide[other] = self._wide[value]
                        waiting.append(other)

    def _complete(self, norm: WrittenNorm) -> None:
        """Rule 6."""
        reason = self._islands.get(str(norm.square.name))
        if reason is None:
            return
        producer = norm.source.producer()
        is_wide = producer is None or producer.name in self._islands
        for node in (norm.mean, norm.difference, *(norm.affine if is_wide else ())):
            self._islands.setdefault(str(node.name), reason)

    def _fits(self, value: ir.Value) -> bool:
        """Returns whether a tensor was seen to fit, or its bound does; nothing is known of many beside an island."""
        if not _is_float(value) or value.is_graph_input():
            return True
        magnitude = self._magnitudes.of(value)
        return magnitude is not None and magnitude <= FP16_MAX


def _largest_logit(softmax: ir.Node, histogram: Histogram) -> float:
    hidden = min((float(mask.array.min(initial=0)) for mask in masks_before(softmax)), default=0.0) / 2
    if hidden > LEAST / 2:
        return histogram.amax
    shown = histogram.edges()[0][(histogram.counts > 0) & (histogram.edges()[0] > hidden)]
    return max(abs(histogram.maximum), abs(float(shown.min(initial=histogram.maximum))))


def _is_delicate(model: ir.Model) -> bool:
    return any(node.op_type in _DELICATE for node in model.graph)


def _deviation(variance: ir.Value) -> Iterator[ir.Value]:
    """Yields a variance and what is made of it on the way to a standard deviation or its inverse."""
    waiting = [variance]
    while waiting:
        value = waiting.pop()
        yield value
        waiting += [use.node.outputs[0] for use in value.uses() if use.node.op_type in _TO_DEVIATION]


def _sum_beyond(what: str, count: int, largest: float) -> str | None:
    total = count * largest
    if total <= FP16_MAX:
        return None
    return f"it adds up {count} {what}: up to {total:.3g}, FP16 ends at {FP16_MAX:.0f}"


def _lost_digits(what: str, mean: float) -> str | None:
    if not 0 < mean < MIN_NORMAL:
        return None
    return f"{what} is about {mean:.2g}, and FP16 loses digits below {MIN_NORMAL:.2g}"


def _mean(histogram: Histogram, power: int) -> float:
    """Returns the mean of the values' powers."""
    return float((histogram.counts * histogram.centers() ** power).sum() / histogram.total)


def _is_float(value: ir.Value) -> bool:
    import onnx_ir as ir

    return value.dtype == ir.DataType.FLOAT
