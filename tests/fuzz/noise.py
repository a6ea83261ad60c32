"""Running graphs in exact arithmetic, as they are and with noise on their tensors.

What a file may differ from its model by is what the graph itself makes of the errors that its arithmetic has: noise of
half a step on every tensor and weight that is stored in integers, of half a unit in the last place elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeq.exporting.signal.ratio import EQUAL_DB, Sums
from tests import exact

Arrays = dict[str, NDArray[Any]]

FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}
"""Types of floating-point tensors."""

FEW, MANY = 2, 24
"""How often noise is drawn: few times for every file, many times before one is called worse than noise."""


def session(model: onnx.ModelProto, *, optimize: bool = False) -> Any:
    """Returns an ONNX Runtime session, without optimizations by default."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    exact.configure(options)
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Returns the outputs of a model."""
    found: list[NDArray[Any]] = session(model).run(None, dict(feed))
    return found


def nameless(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a model without names of nodes: ONNX Runtime refuses two of one name, which ONNX allows."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    for node in copied.graph.node:
        node.name = ""
    return copied


def float_tensors(model: onnx.ModelProto) -> list[str]:
    """Returns the floating-point tensors that the nodes of the main graph write, in order."""
    inferred = onnx.shape_inference.infer_shapes(model)
    kinds = {
        each.name: each.type.tensor_type.elem_type
        for each in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    }
    return [name for node in model.graph.node for name in node.output if kinds.get(name) in FLOATS]


def observed(model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Mapping[str, NDArray[Any]]]) -> list[Arrays]:
    """Returns the values of tensors for each feed."""
    if not names:
        return [{} for _ in feeds]
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    own = {each.name for each in model.graph.output}
    copied.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in own)
    opened = session(copied)
    wanted = list(dict.fromkeys(names))
    return [dict(zip(wanted, opened.run(wanted, dict(feed)), strict=True)) for feed in feeds]


class Noisy:
    """A graph with a further input for each of some tensors and weights: the noise that is added to it.

    Args:
        model: The graph, which is not changed.
        tensors: Names of tensors that nodes of the main graph write.
        weights: Names of initializers.
    """

    def __init__(self, model: onnx.ModelProto, tensors: Sequence[str], weights: Sequence[str]) -> None:
        self._tensors = list(dict.fromkeys(tensors))
        initializers = {each.name: each for each in model.graph.initializer}
        self.weights = {name: numpy_helper.to_array(initializers[name]) for name in weights if name in initializers}
        self._session = session(self._with_inputs(model))

    def _with_inputs(self, model: onnx.ModelProto) -> onnx.ModelProto:
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        graph = copied.graph
        noisy = set(self._tensors)
        nodes = []
        for node in graph.node:
            nodes.append(node)
            for place, name in enumerate(node.output):
                if name in noisy:
                    node.output[place] = f"{name} raw"
                    nodes.append(helper.make_node("Add", [f"{name} raw", f"{name} noise"], [name]))
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)
        kinds = {
            each.name: each.type.tensor_type.elem_type
            for each in (*onnx.shape_inference.infer_shapes(model).graph.value_info, *model.graph.output)
        }
        for name in self._tensors:
            graph.input.append(helper.make_tensor_value_info(f"{name} noise", kinds[name], None))
        left = [each for each in graph.initializer if each.name not in self.weights]
        del graph.initializer[:]
        graph.initializer.extend(left)
        listed = {each.name for each in graph.input}
        for name, array in self.weights.items():
            if name not in listed:
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
        return copied

    def run(self, feed: Mapping[str, NDArray[Any]], noise: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Returns the outputs with noise on every tensor and weight, by name."""
        given = dict(feed)
        for name in self._tensors:
            given[f"{name} noise"] = noise[name]
        for name, array in self.weights.items():
            given[name] = array + noise[name]
        outputs: list[NDArray[Any]] = self._session.run(None, given)
        return outputs


@dataclass(frozen=True)
class Spread:
    """What noise makes of one output.

    Attributes:
        most: Largest difference from the output without noise.
        snr_db: Least signal-to-noise ratio.
    """

    most: float
    snr_db: float


def spreads(
    noisy: Noisy,
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    plain: Sequence[Sequence[NDArray[Any]]],
    halves: Sequence[Mapping[str, NDArray[Any]]],
    weights: Mapping[str, NDArray[Any]],
    inputs: Sequence[Mapping[str, NDArray[Any]]] | None = None,
    seeds: int = FEW,
) -> list[Spread]:
    """Returns what noise makes of each output.

    Args:
        noisy: The graph.
        feeds: Inputs.
        plain: The outputs for each, without noise.
        halves: For each feed, tensor -> largest magnitude of its noise, an array of its shape or to broadcast.
        weights: The same of the weights.
        inputs: The same of the inputs.
        seeds: How often noise is drawn in each way.
    """
    sums: list[list[Sums]] = []
    most = [0.0] * len(plain[0])
    for draw in _draws(seeds):
        totals = [Sums()] * len(plain[0])
        for number, (feed, expected, half) in enumerate(zip(feeds, plain, halves, strict=True)):
            noise = {name: draw(size) for name, size in {**half, **weights}.items()}
            moved = dict(feed)
            for name, size in ({} if inputs is None else inputs[number]).items():
                moved[name] = (feed[name] + draw(size)).astype(feed[name].dtype)
            for place, (one, other) in enumerate(zip(expected, noisy.run(moved, noise), strict=True)):
                if one.dtype.kind != "f" or one.shape != other.shape:
                    continue
                totals[place] = totals[place] + Sums.of(one, other)
                difference = np.abs(one.astype(np.float64) - other)
                most[place] = max(most[place], float(np.nanmax(difference, initial=0.0)))
        sums.append(totals)
    return [Spread(most[place], min(each[place].snr_db for each in sums)) for place in range(len(most))]


def _draws(seeds: int) -> Iterator[Any]:
    """Yields ways to draw noise: independent for each element, and the same for all of a tensor."""
    for seed, common in itertools.product(range(seeds), (False, True)):
        rng = np.random.default_rng([seed, common])

        def draw(size: NDArray[Any], rng: np.random.Generator = rng, common: bool = common) -> NDArray[Any]:
            factor = rng.choice([-1.0, 1.0]) if common else rng.uniform(-1, 1, size.shape)
            return np.asarray(size * factor, size.dtype)

        yield draw


def snr_db(reference: NDArray[Any], found: NDArray[Any]) -> float:
    """Returns the signal-to-noise ratio of an output; that of equal ones is the most there is."""
    both = np.isfinite(reference) & np.isfinite(found)
    if not np.array_equal(np.isfinite(reference), np.isfinite(found)):
        return -EQUAL_DB
    return Sums.of(reference[both], found[both]).snr_db
