"""A drawn model with what it computes, and by how much that may change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.fuzz.grammar import Subject
from tests.fuzz.noise import FEW, FLOATS, Arrays, Noisy, Spread, float_tensors, nameless, observed, session, spreads

HALF = onnx.TensorProto.FLOAT16

_CHANGES_SHAPE = frozenset({"NonZero", "Unique", "NonMaxSuppression"})
"""Operators whose outputs may have another shape where their input changes a little."""

NOTHING = 1e-6
"""A difference that rounding inside operators makes of values around 1, even where the result is 0."""

_ROUNDED = 2e-6
"""How much of a value sums in another order may change."""

_HALF_ULP = {"fp32": 2.0**-22, "fp16": 2.0**-10}


class InvalidModelError(Exception):
    """A drawn model that no engine of ours computes: nothing to compare with."""


@dataclass(frozen=True)
class Expected:
    """A model and what it computes.

    Attributes:
        subject: The model.
        model: Its file, as ONNX Runtime takes it, with the inputs as constants that have a value.
        feeds: Its inputs, one image each.
        outputs: For each, its outputs.
    """

    subject: Subject
    model: onnx.ModelProto
    feeds: Sequence[Arrays]
    outputs: Sequence[Sequence[NDArray[Any]]]
    _spreads: dict[tuple[str, int], list[Spread]] = field(default_factory=dict)

    @classmethod
    def of(cls, subject: Subject) -> Expected:
        """Returns what a model computes.

        Raises:
            InvalidModelError: ONNX or ONNX Runtime do not take it, or it computes no finite numbers.
        """
        model = with_constants(nameless(subject.model), subject.form.constants)
        try:
            onnx.checker.check_model(subject.model)
            opened = session(model)
            outputs = [opened.run(None, dict(feed)) for feed in subject.samples]
            if subject.free_batch:
                opened.run(None, batch_of_two(subject))
        except Exception as error:
            raise InvalidModelError(str(error)) from error
        if not all(np.isfinite(array).all() for each in outputs for array in each if array.dtype.kind == "f"):
            raise InvalidModelError("an output is not finite")
        return cls(subject, model, subject.samples, outputs)

    @property
    def names(self) -> list[str]:
        """The names of the outputs."""
        return [each.name for each in self.subject.model.graph.output]

    @cached_property
    def jumping(self) -> set[str]:
        """Tensors that may jump where the image changes a little."""
        return jumping_tensors(self.model)

    @cached_property
    def smooth(self) -> list[bool]:
        """Whether each output is a float that does not jump where the image changes a little."""
        kinds = [array.dtype.kind for array in self.outputs[0]]
        return [name not in self.jumping and kind == "f" for name, kind in zip(self.names, kinds, strict=True)]

    @cached_property
    def holds_half(self) -> bool:
        """Whether something in the model is FP16."""
        graph = self.model.graph
        ends = {each.type.tensor_type.elem_type for each in (*graph.input, *graph.output)}
        casts = {each.i for node in graph.node if node.op_type == "Cast" for each in node.attribute}
        return HALF in ends | casts | {each.data_type for each in graph.initializer}

    @cached_property
    def reshaped(self) -> set[str]:
        """Tensors whose shape may change where the image changes a little."""
        return affected_tensors(self.model, lambda node: node.op_type in _CHANGES_SHAPE)

    def jumps(self, place: int, limit: float = 0.0) -> bool:
        """Returns whether an output that jumps does so where inputs and all that is computed differ by rounding."""
        if self.smooth[place]:
            return False
        noisy, values = self._noisy
        rng = np.random.default_rng(0)
        relative = _HALF_ULP["fp16"] if self.holds_half else _ROUNDED

        def some(array: NDArray[Any]) -> NDArray[Any]:
            size = np.where(np.isfinite(array), np.abs(array) * relative + NOTHING, 0)
            return np.asarray(size * rng.uniform(-1, 1, array.shape), array.dtype)

        weights = {name: np.zeros_like(array) for name, array in noisy.weights.items()}
        for feed, outputs, each in zip(self.feeds, self.outputs, values, strict=True):
            for _ in range(8):
                moved = {name: _moved(array, rng) for name, array in feed.items()}
                noise = {name: some(array) for name, array in each.items()}
                try:
                    other = noisy.run(moved, {**noise, **weights})[place]
                except Exception as error:
                    raise InvalidModelError(f"noise changes a shape: {error}") from error
                if (
                    other.shape != outputs[place].shape
                    or (np.abs(other.astype(np.float64) - outputs[place]) > limit).any()
                ):
                    return True
        return False

    @cached_property
    def _noisy(self) -> tuple[Noisy, list[Arrays]]:
        tensors = float_tensors(self.model)
        values = observed(self.model, tensors, self.feeds)
        tensors = [
            name
            for name in tensors
            # Whole numbers, as jumps have them, are exact.
            if name not in self.reshaped and any((each[name] != np.rint(each[name])).any() for each in values)
        ]
        weights = [
            each.name for each in self.model.graph.initializer if each.data_type in FLOATS and len(each.dims) > 1
        ]
        return Noisy(self.model, tensors, weights), [{name: each[name] for name in tensors} for each in values]

    def spread(self, precision: str, seeds: int = FEW) -> list[Spread]:
        """Returns what rounding of every tensor makes of the outputs."""
        if (precision, seeds) not in self._spreads:
            self._spreads[precision, seeds] = self._spread(_HALF_ULP[precision], seeds)
        return self._spreads[precision, seeds]

    def _spread(self, relative: float, seeds: int) -> list[Spread]:
        def half(array: NDArray[Any]) -> NDArray[Any]:
            return np.where(np.isfinite(array), np.abs(array) * relative, 0).astype(array.dtype)

        try:
            noisy, values = self._noisy
            halves = [{name: half(array) for name, array in each.items()} for each in values]
            weights = {name: half(array) for name, array in noisy.weights.items()}
            return spreads(noisy, self.feeds, self.outputs, halves, weights, seeds=seeds)
        except Exception as error:  # a shape that floats decide
            raise InvalidModelError(f"noise changes a shape: {error}") from error


def with_constants(model: onnx.ModelProto, constants: Arrays) -> onnx.ModelProto:
    """Returns a model with initializers in the place of some inputs."""
    left = [each for each in model.graph.input if each.name not in constants]
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    del copied.graph.input[:]
    copied.graph.input.extend(left)
    copied.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return copied


def _moved(array: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Returns an input with other roundings; whole numbers stay."""
    if array.dtype.kind != "f":
        return array
    share = max(_ROUNDED, float(np.finfo(array.dtype).eps))
    return (array * (1 + share * rng.uniform(-1, 1, array.shape))).astype(array.dtype)


def jumping_tensors(model: onnx.ModelProto) -> set[str]:
    """Returns the tensors that may jump where the image changes a little."""
    from tests.fuzz.operators import MAKERS

    jumps = {maker.operator for maker in MAKERS.values() if maker.jumps}
    return affected_tensors(model, lambda node: node.op_type in jumps or _cuts_off(node))


def affected_tensors(model: onnx.ModelProto, is_meant: Callable[[onnx.NodeProto], bool]) -> set[str]:
    """Returns the tensors that some nodes compute or have an effect on."""
    found: set[str] = set()
    for node in model.graph.node:
        if is_meant(node) or found.intersection(node.input):
            found.update(node.output)
    return found


def _cuts_off(node: onnx.NodeProto) -> bool:
    """Returns whether a node makes integers or truths of numbers."""
    to = next((each.i for each in node.attribute if each.name == "to"), onnx.TensorProto.FLOAT)
    return node.op_type == "Cast" and to not in FLOATS


def batch_of_two(subject: Subject) -> Arrays:
    """Returns both samples of a model as one batch."""
    one, other = subject.samples[:2]
    return {name: np.concatenate([one[name], other[name]]) for name in one}
