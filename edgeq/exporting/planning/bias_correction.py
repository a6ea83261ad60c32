"""Takes out of the biases what the rounding of weights adds to a layer's mean output.

A rounded weight `w'` gives `sum (w' - w) x` too much. Its mean over the images is `sum (w' - w) E[x]`, one number for
each output channel, in which a tap counts as often as it reads the map and no padding. The bias takes it back for
nothing ("Data-Free Quantization Through Weight Equalization and Bias Correction", Nagel et al., 2019, section 4.2).
What the rounding of the activations adds is not taken back: its mean changes with the ranges of the layers before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import weight_of
from edgeq.quantizers.weight import QuantizedWeight

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporting.planning.plan import QuantPlan

_INT32 = np.iinfo(np.int32)


def correct_biases(model: ir.Model, plan: QuantPlan, means: Mapping[str, np.ndarray]) -> tuple[QuantPlan, int]:
    """Returns the plan with corrected biases, and how many layers they are of.

    Layers whose bias stays in float, or that have none, stay as they are.

    Args:
        model: The float graph that the plan was made for.
        plan: The plan.
        means: Tensor name -> mean of each of its channels in the float model, `(C,)`.
    """
    biases = dict(plan.biases)
    corrected = 0
    for node in model.graph:
        name, weight = str(node.name), weight_of(node)
        source = means.get(str(node.inputs[0].name)) if node.inputs and node.inputs[0] is not None else None
        if name not in biases or name not in plan.weights or weight is None or source is None:
            continue
        error = _mean_error(node, plan.weights[name].dequantize() - weight.astype(np.float64), source)
        if error is not None:
            biases[name] = _less(biases[name], error)
            corrected += 1
    return dataclasses.replace(plan, biases=biases), corrected


def _mean_error(node: ir.Node, error: np.ndarray, means: np.ndarray) -> np.ndarray | None:
    """Returns what the error of a weight adds to the mean of each output channel, `(channels,)`."""
    if node.op_type == "Gemm":
        rows = error.T if "transB" in node.attributes and node.attributes["transB"].as_int() else error
        plain = not any(each in node.attributes for each in ("alpha", "beta", "transA"))
        return means @ rows if plain and len(rows) == len(means) else None
    if node.op_type != "Conv":
        return None
    groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
    shares = _shares_inside(node, error.shape[2:])
    taps = (error * shares).reshape(*error.shape[:2], -1).sum(axis=2)
    if taps.shape[1] * groups != len(means):
        return None
    read = np.repeat(means.reshape(groups, -1), len(taps) // groups, axis=0)
    added: np.ndarray = (taps * read).sum(axis=1)
    return added


def _shares_inside(node: ir.Node, kernel: tuple[int, ...]) -> np.ndarray:
    """Returns at which share of the positions each tap of a convolution reads the map and no padding, `kernel`-shaped.

    On a map of 10x10, a 3x3 convolution with a padding of 1 reads zeros with a tenth of the taps on each side.
    """
    value, dimensions = node.inputs[0], len(kernel)
    lengths = [] if value is None or value.shape is None else list(value.shape)[2:]
    given = {
        name: list(node.attributes[name].as_ints())
        for name in ("pads", "strides", "dilations")
        if name in node.attributes
    }
    auto = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    shares = np.ones(kernel)
    if auto.startswith("SAME") or "pads" not in given:  # no padding, or as much as the map's length asks for
        return shares
    for axis, length in enumerate(lengths):
        if not isinstance(length, int):
            continue
        before, after = given["pads"][axis], given["pads"][axis + dimensions]
        stride, dilation = (given.get(name, [1] * dimensions)[axis] for name in ("strides", "dilations"))
        reach = dilation * (kernel[axis] - 1) + 1
        starts = np.arange(0, length + before + after - reach + 1, stride) - before
        at = starts[:, None] + dilation * np.arange(kernel[axis])
        inside = ((at >= 0) & (at < length)).mean(axis=0)
        shares = shares * inside.reshape([-1 if each == axis else 1 for each in range(dimensions)])
    return shares


def _less(bias: QuantizedWeight, error: np.ndarray) -> QuantizedWeight:
    """Returns a bias less what is added without it, as far as int32 holds it."""
    steps = np.divide(error, bias.scale, out=np.zeros(error.shape), where=bias.scale > 0)
    integers = np.clip(np.rint(bias.integers - steps), _INT32.min, _INT32.max).astype(np.int32)
    return dataclasses.replace(bias, integers=integers)
