"""What the weights of layers take in a file, in each precision: integers, their scales and zero points, to the byte.

What else a precision adds (nodes, names, pairs of activations) is small and depends on the layers around; it is taken
from whole files and spread evenly over layers, so that a file of one precision has its size to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeq.exporting.artifact import Artifact
from edgeq.exporting.planning.plan import QuantPlan
from edgeq.tuning.candidate import FLOAT, INT8, W4A8
from edgeq.tuning.trials import Subject

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class LayerSizes:
    """The parts of a file's size.

    Attributes:
        layers: Name of a layer -> precision -> bytes of its weights and of what the precision adds.
        rest: Bytes of everything that is in each file.
    """

    layers: Mapping[str, Mapping[str, float]]
    rest: float

    def of(self, layers: tuple[str, ...], precision: str) -> float:
        """Returns the bytes of several layers in a precision."""
        return sum(self.layers.get(layer, {}).get(precision, 0.0) for layer in layers)


def layer_sizes(subject: Subject, files: Mapping[str, Artifact]) -> LayerSizes:
    """Returns what layers of a subject take in each precision.

    Args:
        subject: The model, its target and its ranges.
        files: Precision -> the file with all groups in it: `float` and `int8`, and `w4a8` if that is a choice.
    """
    names = [layer for group in subject.groups for layer in group.layers]
    layers = _weights(subject.plan(), names, subject.four_bits if W4A8 in files else frozenset())
    rest = files[FLOAT].size_bytes - sum(each[FLOAT] for each in layers.values())
    for precision, owners in ((INT8, names), (W4A8, [name for name in names if name in subject.four_bits])):
        if precision not in files:
            continue
        told = rest + sum(each[precision] for each in layers.values())
        added = (files[precision].size_bytes - told) / max(len(owners), 1)
        for name in owners:
            layers[name][precision] += added
        if precision == INT8 and W4A8 in files:
            for name in names:
                layers[name][W4A8] += added
    return LayerSizes(layers, rest)


def _weights(plan: QuantPlan, names: list[str], narrow: frozenset[str]) -> dict[str, dict[str, float]]:
    """Returns name of a layer -> precision -> bytes of its weight; its bias takes four bytes per channel in each."""
    found = {}
    for name in names:
        weight, bias = plan.weights.get(name), plan.biases.get(name)
        count = 0 if weight is None else weight.integers.size
        steps = sum(each.scale.nbytes + each.zero_point.nbytes for each in (weight, bias) if each is not None)
        in_four = (count + 1) // 2 if name in narrow else count
        found[name] = {FLOAT: float(_FLOAT_BYTES * count), INT8: float(count + steps), W4A8: float(in_four + steps)}
    return found
