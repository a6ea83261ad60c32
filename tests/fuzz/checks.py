"""What must hold of every file that edgeq writes of a model; the first thing that does not is a `FaultError`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeq.exporting.artifact import Artifact
from tests.fuzz.exports import TARGETS, Exports, FaultError, Written, first_lines, quiet
from tests.fuzz.grammar import Subject
from tests.fuzz.integers import dynamic_spread, int8_spread
from tests.fuzz.noise import (
    FLOATS,
    Arrays,
    Noisy,
    Spread,
    float_tensors,
    nameless,
    observed,
    run,
    session,
    snr_db,
    spreads,
)

HALF = onnx.TensorProto.FLOAT16

MARGIN_DB = 10.0
"""How much worse than noise an INT8 file may be: its errors are not independent of each other."""

_CHANGES_SHAPE = frozenset({"NonZero", "Unique", "NonMaxSuppression"})
"""Operators whose outputs may have another shape where their input changes a little."""

_NOTHING = 1e-6
"""A difference that rounding inside operators makes of values around 1, even where the result is 0."""

_OPENVINO_LACKS = "does not support f64"
"""What OpenVINO's CPU plugin says of some models with float64 ends, quantized ones among them."""

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
                opened.run(None, _batch_of_two(subject))
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

    def jumps(self, place: int, limit: float) -> bool:
        """Returns whether an output that jumps does so for an image that differs by rounding."""
        if self.smooth[place]:
            return False
        opened, rng = session(self.model), np.random.default_rng(0)
        for feed, outputs in zip(self.feeds, self.outputs, strict=True):
            for _ in range(4):
                moved = {name: _moved(array, rng) for name, array in feed.items()}
                other = opened.run(None, moved)[place]
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
        changing = affected_tensors(self.model, lambda node: node.op_type in _CHANGES_SHAPE)
        tensors = [
            name
            for name in tensors
            # Whole numbers, as jumps have them, are exact.
            if name not in changing and any((each[name] != np.rint(each[name])).any() for each in values)
        ]
        weights = [
            each.name for each in self.model.graph.initializer if each.data_type in FLOATS and len(each.dims) > 1
        ]
        return Noisy(self.model, tensors, weights), [{name: each[name] for name in tensors} for each in values]

    def spread(self, precision: str) -> list[Spread]:
        """Returns what rounding of every tensor makes of the outputs."""
        try:
            noisy, values = self._noisy
            relative = _HALF_ULP[precision]

            def half(array: NDArray[Any]) -> NDArray[Any]:
                return np.where(np.isfinite(array), np.abs(array) * relative, 0).astype(array.dtype)

            halves = [{name: half(array) for name, array in each.items()} for each in values]
            weights = {name: half(array) for name, array in noisy.weights.items()}
            return spreads(noisy, self.feeds, self.outputs, halves, weights)
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
    share = max(2e-6, float(np.finfo(array.dtype).eps))
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


def _batch_of_two(subject: Subject) -> Arrays:
    one, other = subject.samples[:2]
    return {name: np.concatenate([one[name], other[name]]) for name in one}


def check(subject: Subject, targets: Sequence[str] = TARGETS, *, openvino: bool = False) -> None:
    """Exports a model to targets, in every precision, and checks every file.

    Raises:
        FaultError: the first thing that does not hold.
        InvalidModelError: the model is not one.
    """
    expected = Expected.of(subject)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - for speed alone
    with tempfile.TemporaryDirectory(prefix="fuzz", dir=memory) as folder, quiet():
        exports = Exports(subject, Path(folder))
        for target in targets:
            for file in exports.files(target):
                check_file(file, expected, openvino=openvino)


def check_file(file: Written, expected: Expected, *, openvino: bool = False) -> None:
    """Checks one file.

    Raises:
        FaultError: the first thing that does not hold.
    """
    label = file.label
    written = onnx.load(file.artifact.path)
    _check_interface(label, written, expected)
    try:
        onnx.checker.check_model(written, full_check=True)
    except Exception as error:
        raise FaultError(f"{label}: the file is not valid ONNX", first_lines(error)) from error
    try:
        opened = session(written)
        found = [opened.run(None, dict(feed)) for feed in expected.feeds]
    except Exception as error:
        raise FaultError(f"{label}: ONNX Runtime does not run it", first_lines(error)) from error
    _check_shapes(label, found, expected.outputs, expected.names)
    _check_values(file, expected, found)
    # Ranges that are measured are those of both images together.
    if expected.subject.keeps_batch and file.artifact.precision != "dynamic":
        _check_batch(label, opened, expected)
    try:
        session(written, optimize=True).run(None, dict(expected.feeds[0]))
    except Exception as error:
        if _runs(expected.model):
            raise FaultError(f"{label}: ONNX Runtime does not run it with optimizations", first_lines(error)) from error
    if openvino:
        _check_openvino(label, file.artifact, expected)


def _runs(model: onnx.ModelProto) -> bool:
    try:
        session(model, optimize=True)
    except Exception:
        return False
    return True


def _check_interface(label: str, written: onnx.ModelProto, expected: Expected) -> None:
    subject = expected.subject
    for kind, given, found in (
        ("inputs", [subject.input], written.graph.input),
        ("outputs", subject.model.graph.output, written.graph.output),
    ):
        names, wanted = [each.name for each in found], [each.name for each in given]
        if names != wanted:
            raise FaultError(f"{label}: names of {kind}", f"wanted {wanted}, found {names}")
        types = [each.type.tensor_type.elem_type for each in found]
        if types != (of_source := [each.type.tensor_type.elem_type for each in given]):
            raise FaultError(f"{label}: types of {kind}", f"wanted {of_source}, found {types}")
        for one, other in zip(given, found, strict=True):
            _check_dims(label, kind, one, other, subject)


def _check_dims(
    label: str, kind: str, given: onnx.ValueInfoProto, found: onnx.ValueInfoProto, subject: Subject
) -> None:
    def dims(info: onnx.ValueInfoProto) -> list[int | str]:
        return [
            each.dim_value if each.HasField("dim_value") else each.dim_param for each in info.type.tensor_type.shape.dim
        ]

    wanted, shape = dims(given), dims(found)
    if not subject.keeps_batch:
        wanted = [1 if isinstance(each, str) else each for each in wanted]
    same = len(wanted) == len(shape) and all(
        one == other or (isinstance(one, str) and isinstance(other, str))
        for one, other in zip(wanted, shape, strict=True)
    )
    if not same:
        raise FaultError(f"{label}: shapes of {kind}", f"{given.name}: wanted {wanted}, found {shape}")


def _check_shapes(
    label: str, found: Sequence[Sequence[NDArray[Any]]], wanted: Sequence[Sequence[NDArray[Any]]], names: Sequence[str]
) -> None:
    for arrays, others in zip(found, wanted, strict=True):
        for name, one, other in zip(names, arrays, others, strict=True):
            if one.shape != other.shape or one.dtype != other.dtype:
                raise FaultError(
                    f"{label}: shapes of what it computes",
                    f"{name}: wanted {other.dtype} {other.shape}, found {one.dtype} {one.shape}",
                )


def _check_values(file: Written, expected: Expected, found: Sequence[Sequence[NDArray[Any]]]) -> None:
    precision = file.artifact.precision
    if precision == "fp32" or file.artifact.quantization.get("fp16") == "by the engine":
        check_equal(file.label, found, expected)
        return
    if not any(expected.smooth):
        return
    is_half = precision == "fp16" or file.target.rules.fp16 == "graph" or expected.holds_half
    rounded = expected.spread("fp16" if is_half else "fp32")
    if precision == "fp16":
        integers = rounded
    elif precision == "dynamic":
        integers = dynamic_spread(file, expected)
    else:
        integers = int8_spread(file, expected)
    for place, name in enumerate(expected.names):
        if not expected.smooth[place]:
            continue
        both = [
            np.concatenate([each[place].ravel().astype(np.float64) for each in arrays])
            for arrays in (expected.outputs, found)
        ]
        if np.abs(both[0] - both[1]).max(initial=0) <= _NOTHING:
            continue
        total = snr_db(both[0], both[1])
        floor = min(integers[place].snr_db, rounded[place].snr_db)
        if total < floor - MARGIN_DB:
            raise FaultError(
                f"{file.label}: signal",
                f"{name}: {total:.1f} dB; noise of its arithmetic leaves {floor:.1f} dB",
            )


def check_equal(label: str, found: Sequence[Sequence[NDArray[Any]]], expected: Expected) -> None:
    """Checks that outputs are those of the model within what rounding makes of them.

    What a model computes in FP16 is computed in FP32.
    """
    precision, share = ("fp16", 2e-3) if expected.holds_half else ("fp32", 2e-5)
    floors = expected.spread(precision)
    for arrays, others in zip(found, expected.outputs, strict=True):
        for place, (one, other) in enumerate(zip(arrays, others, strict=True)):
            limit = 0.0
            if other.dtype.kind == "f":
                limit = share * float(np.abs(other).max(initial=0.0)) + _NOTHING + 8 * floors[place].most
            difference = np.abs(one.astype(np.float64) - other)
            if not (difference <= limit).all() and not expected.jumps(place, limit):
                most = np.nanmax(difference)
                raise FaultError(f"{label}: values", f"{expected.names[place]} differs by {most:.3g} > {limit:.3g}")


def _check_batch(label: str, opened: Any, expected: Expected) -> None:
    feed = _batch_of_two(expected.subject)
    try:
        found = opened.run(None, feed)
    except Exception as error:
        raise FaultError(f"{label}: does not run with a batch of two", first_lines(error)) from error
    wanted = run(expected.model, feed)
    _check_shapes(label, [found], [wanted], expected.names)
    for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
        if expected.smooth[place] and snr_db(other, one) < snr_of_one(opened, expected, place) - MARGIN_DB:
            raise FaultError(f"{label}: values with a batch of two", expected.names[place])


def snr_of_one(opened: Any, expected: Expected, place: int) -> float:
    """Returns the least ratio of an output with a batch of one."""
    found = [opened.run(None, dict(feed))[place] for feed in expected.feeds]
    return min(snr_db(other[place], one) for one, other in zip(found, expected.outputs, strict=True))


def _check_openvino(label: str, file: Artifact, expected: Expected) -> None:
    import openvino

    core = openvino.Core()
    try:
        core.compile_model(core.read_model(str(file.path)), "CPU")
    except Exception as error:
        if _OPENVINO_LACKS in str(error):
            return
        try:
            core.compile_model(core.read_model(expected.subject.model.SerializeToString()), "CPU")
        except Exception:
            return  # it does not take the model either
        raise FaultError(f"{label}: OpenVINO does not load it", first_lines(error)) from error
