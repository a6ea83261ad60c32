"""What must hold of every file that edgeq writes of a model; the first thing that does not is a `FaultError`."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgeq.exporting.artifact import Artifact
from tests import exact
from tests.fuzz.expected import NOTHING, Expected, batch_of_two
from tests.fuzz.exports import TARGETS, Exports, FaultError, Written, first_lines, quiet
from tests.fuzz.grammar import Subject
from tests.fuzz.integers import dynamic_spread, int8_spread
from tests.fuzz.noise import FEW, MANY, run, session, snr_db

MARGIN_DB = 10.0
"""How much worse than noise an INT8 file may be: its errors are not independent of each other."""


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
    is_exact = file.artifact.precision == "fp32"
    _check_shapes(label, found, expected.outputs, expected, is_exact=is_exact)
    _check_values(file, expected, found)
    # Ranges that are measured are those of both images together.
    if expected.subject.keeps_batch and file.artifact.precision != "dynamic":
        _check_batch(label, opened, expected)
    try:
        with exact.ExactSession(file.artifact, threads=1) as optimized:
            optimized.run(expected.feeds[0])
    except Exception as error:
        if _runs(expected.model):
            raise FaultError(f"{label}: ONNX Runtime does not run it with optimizations", first_lines(error)) from error
    if openvino and "openvino" in file.target.runtimes and file.artifact.precision in ("fp32", "int8"):
        _check_openvino(label, file.artifact, expected)


def _runs(model: onnx.ModelProto) -> bool:
    try:
        session(model, optimize=True)
    except Exception:
        return False
    return True


def _check_interface(label: str, written: onnx.ModelProto, expected: Expected) -> None:
    subject = expected.subject
    for kind, given, found, arrays in (
        ("inputs", [subject.input], written.graph.input, [expected.feeds[0][subject.input.name]]),
        ("outputs", subject.model.graph.output, written.graph.output, expected.outputs[0]),
    ):
        names, wanted = [each.name for each in found], [each.name for each in given]
        if names != wanted:
            raise FaultError(f"{label}: names of {kind}", f"wanted {wanted}, found {names}")
        types = [each.type.tensor_type.elem_type for each in found]
        if types != (of_source := [each.type.tensor_type.elem_type for each in given]):
            raise FaultError(f"{label}: types of {kind}", f"wanted {of_source}, found {types}")
        for one, other, array in zip(given, found, arrays, strict=True):
            _check_dims(label, kind, one, other, None if subject.keeps_batch else array.shape)


def _check_dims(
    label: str, kind: str, given: onnx.ValueInfoProto, found: onnx.ValueInfoProto, lengths: Sequence[int] | None
) -> None:
    """Checks a declared shape; free lengths have to be free, or where there are `lengths` those."""

    def dims(info: onnx.ValueInfoProto) -> list[int | str]:
        return [
            each.dim_value if each.HasField("dim_value") else each.dim_param for each in info.type.tensor_type.shape.dim
        ]

    wanted, shape = dims(given), dims(found)
    if lengths is not None:
        wanted = [length if isinstance(each, str) else each for each, length in zip(wanted, lengths, strict=True)]
    same = len(wanted) == len(shape) and all(
        one == other or (isinstance(one, str) and isinstance(other, str))
        for one, other in zip(wanted, shape, strict=True)
    )
    if not same:
        raise FaultError(f"{label}: shapes of {kind}", f"{given.name}: wanted {wanted}, found {shape}")


def _check_shapes(
    label: str, found: Sequence[Sequence[NDArray[Any]]], wanted: Sequence[Sequence[NDArray[Any]]], expected: Expected,
    *, is_exact: bool,
) -> None:  # fmt: skip
    for arrays, others in zip(found, wanted, strict=True):
        for place, (one, other) in enumerate(zip(arrays, others, strict=True)):
            name = expected.names[place]
            if (one.shape, one.dtype) == (other.shape, other.dtype):
                continue
            if one.dtype == other.dtype and name in expected.reshaped and (not is_exact or expected.jumps(place)):
                continue
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
    if _worse_than_noise(file, expected, found, FEW) and (worse := _worse_than_noise(file, expected, found, MANY)):
        raise FaultError(f"{file.label}: signal", worse[0])


def _worse_than_noise(
    file: Written, expected: Expected, found: Sequence[Sequence[NDArray[Any]]], seeds: int
) -> list[str]:
    """Returns what is worse, of each output that is, than what the arithmetic of a file leaves of it."""
    precision = file.artifact.precision
    is_half = precision == "fp16" or file.target.rules.fp16 == "graph" or expected.holds_half or _casts_to_half(file)
    rounding = "fp16" if is_half else "fp32"
    if precision == "fp16":
        noise = expected.spread(rounding, seeds)
    elif precision == "dynamic":
        noise = dynamic_spread(file, expected, seeds)
    else:
        noise = int8_spread(file, expected, seeds)
    worse = []
    for place, name in enumerate(expected.names):
        if not expected.smooth[place]:
            continue
        both = [
            np.concatenate([each[place].ravel().astype(np.float64) for each in arrays])
            for arrays in (expected.outputs, found)
        ]
        if np.abs(both[0] - both[1]).max(initial=0) <= NOTHING:
            continue
        total, floor = snr_db(both[0], both[1]), noise[place].snr_db
        if total < floor - MARGIN_DB:
            floor = min(floor, expected.spread(rounding, seeds)[place].snr_db)
        if total < floor - MARGIN_DB:
            worse.append(f"{name}: {total:.1f} dB; noise of its arithmetic leaves {floor:.1f} dB")
    return worse


def _casts_to_half(file: Written) -> bool:
    """Returns whether a file computes a part in FP16, as Jetson's files do with an attention that stays in float."""
    if not file.target.rules.fp16_attention:
        return False
    casts = [node for node in onnx.load(file.artifact.path).graph.node if node.op_type == "Cast"]
    return any(helper.get_node_attr_value(node, "to") == onnx.TensorProto.FLOAT16 for node in casts)


def check_equal(label: str, found: Sequence[Sequence[NDArray[Any]]], expected: Expected) -> None:
    """Checks that outputs are those of the model within what rounding makes of them.

    What a model computes in FP16 is computed in FP32.
    """
    precision, share = ("fp16", 2e-3) if expected.holds_half else ("fp32", 2e-5)
    for arrays, others in zip(found, expected.outputs, strict=True):
        for place, (one, other) in enumerate(zip(arrays, others, strict=True)):
            if one.shape != other.shape:  # which `_check_shapes` has let pass
                continue
            limit = 0.0
            if other.dtype.kind == "f":
                limit = share * float(np.abs(other).max(initial=0.0)) + NOTHING
            difference = np.abs(one.astype(np.float64) - other)
            if limit and not (difference <= limit).all():
                limit += 8 * expected.spread(precision)[place].most
            if not (difference <= limit).all() and not expected.jumps(place, limit):
                most = np.nanmax(difference)
                raise FaultError(f"{label}: values", f"{expected.names[place]} differs by {most:.3g} > {limit:.3g}")


def _check_batch(label: str, opened: Any, expected: Expected) -> None:
    feed = batch_of_two(expected.subject)
    try:
        found = opened.run(None, feed)
    except Exception as error:
        raise FaultError(f"{label}: does not run with a batch of two", first_lines(error)) from error
    wanted = run(expected.model, feed)
    _check_shapes(label, [found], [wanted], expected, is_exact=False)
    for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
        if expected.smooth[place] and snr_db(other, one) < snr_of_one(opened, expected, place) - MARGIN_DB:
            raise FaultError(f"{label}: values with a batch of two", expected.names[place])


def snr_of_one(opened: Any, expected: Expected, place: int) -> float:
    """Returns the least ratio of an output with a batch of one."""
    found = [opened.run(None, dict(feed))[place] for feed in expected.feeds]
    return min(snr_db(other[place], one) for one, other in zip(found, expected.outputs, strict=True))


@functools.cache
def _openvino() -> Any:
    import openvino

    return openvino.Core()


def _check_openvino(label: str, file: Artifact, expected: Expected) -> None:
    core = _openvino()
    try:
        core.compile_model(core.read_model(str(file.path)), "CPU")
    except Exception as error:
        try:
            core.compile_model(core.read_model(expected.subject.model.SerializeToString()), "CPU")
        except Exception:
            return  # it does not take the model either
        raise FaultError(f"{label}: OpenVINO does not load it", first_lines(error)) from error
