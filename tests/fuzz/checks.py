"""What must hold of every file that edgeq writes of a model; the first thing that does not is a `Fault`."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import re
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeq.calibration.calibrate import calibrate
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import EdgeqError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.jobs import FileJob, PlannedModel
from edgeq.exporting.onnx.writer import FloatModel, engine_graph
from edgeq.exporting.planning.keep import resolve_keep
from edgeq.exporting.planning.plan import QuantPlan
from edgeq.sources.formats import ONNX, TENSORRT_CACHE
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import Target, get_target
from tests.fuzz.grammar import Subject
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

TARGETS = ("x86", "x86-ort", "jetson-orin", "jetson-orin-trt11", "arm")
"""Targets that take ONNX files."""

MARGIN_DB = 10.0
"""How much worse than noise an INT8 file may be: its errors are not independent of each other."""

MOST_LINE = 500
"""Longest message of a refusal."""

_HALF_ULP = {"fp32": 2.0**-22, "fp16": 2.0**-10}
_entry_points = functools.cache(importlib.metadata.entry_points)


class Fault(Exception):
    """Something that does not hold.

    Attributes:
        kind: What, without names and numbers: two faults of one kind are probably one.
        detail: What was found.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


class Refused(Fault):
    """A model that edgeq does not take, in its own words.

    Attributes:
        message: The words.
    """

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(f"refused ({stage}): {_pattern(message)}", message)
        self.message = message


class Invalid(Exception):
    """A drawn model that no engine of ours computes: nothing to compare with."""


@dataclass(frozen=True)
class Expected:
    """A model and what it computes.

    Attributes:
        subject: The model.
        model: Its file, as ONNX Runtime takes it.
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
            Invalid: ONNX or ONNX Runtime do not take it, or it computes no finite numbers.
        """
        model = nameless(subject.model)
        try:
            onnx.checker.check_model(subject.model)
            opened = session(model)
            outputs = [opened.run(None, dict(feed)) for feed in subject.samples]
            if subject.free_batch:
                opened.run(None, _batch_of_two(subject))
        except Exception as error:
            raise Invalid(str(error)) from error
        if not all(np.isfinite(array).all() for each in outputs for array in each if array.dtype.kind == "f"):
            raise Invalid("an output is not finite")
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
    def _noisy(self) -> tuple[Noisy, list[Arrays]]:
        tensors = float_tensors(self.model)
        values = observed(self.model, tensors, self.feeds)
        # What jumps may change its shape with the noise.
        tensors = [name for name in tensors if all(each[name].size for each in values) and name not in self.jumping]
        weights = [each.name for each in self.model.graph.initializer if each.data_type == 1 and len(each.dims) > 1]
        return Noisy(self.model, tensors, weights), [{name: each[name] for name in tensors} for each in values]

    def spread(self, precision: str) -> list[Spread]:
        """Returns what rounding of every tensor makes of the outputs."""
        noisy, values = self._noisy
        relative = np.float32(_HALF_ULP[precision])
        halves = [
            {name: np.abs(array) * relative.astype(array.dtype) for name, array in each.items()} for each in values
        ]
        weights = {name: np.abs(array) * relative for name, array in noisy.weights.items()}
        return spreads(noisy, self.feeds, self.outputs, halves, weights)


def jumping_tensors(model: onnx.ModelProto) -> set[str]:
    """Returns the tensors that may jump where the image changes a little."""
    from tests.fuzz.operators import MAKERS

    jumps = {maker.operator for maker in MAKERS.values() if maker.jumps}
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type in jumps or _cuts_off(node) or found.intersection(node.input):
            found.update(node.output)
    return found


def _cuts_off(node: onnx.NodeProto) -> bool:
    """Returns whether a node makes integers or truths of numbers."""
    to = next((each.i for each in node.attribute if each.name == "to"), onnx.TensorProto.FLOAT)
    return node.op_type == "Cast" and to not in FLOATS


def check(subject: Subject, targets: Sequence[str] = TARGETS, *, openvino: bool = False) -> None:
    """Exports a model to targets, in every precision, and checks every file.

    Raises:
        Fault: the first thing that does not hold.
        Invalid: the model is not one.
    """
    expected = Expected.of(subject)
    with tempfile.TemporaryDirectory(prefix="fuzz", dir=_memory()) as folder, _quiet():
        path = Path(folder) / "model.onnx"
        path.write_bytes(subject.model.SerializeToString())
        preset = _preset(Path(folder), subject)
        opened: dict[int, tuple[FloatModel, Ranges]] = {}
        for name in targets:
            target = get_target(name)
            opset = target.rules.opset
            if opset not in opened:
                request = ModelRequest(str(path), preset=preset, opset=opset, dynamic_batch=subject.keeps_batch)
                with stage("open"):
                    model = open_model(request).model
                with stage("calibrate"):
                    arrays = [next(iter(feed.values())) for feed in subject.samples]
                    ranges = calibrate(model, arrays, method="minmax", threads=1).ranges
                opened[opset] = model, ranges
            model, ranges = opened[opset]
            for file, planned in _written(model, target, ranges, Path(folder)):
                check_file(file, model, target, planned, expected, openvino=openvino)


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - for speed alone


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("edgeq")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        # Which packages register something does not change, and takes longer to find out than a small model to export.
        with warnings.catch_warnings(), mock.patch("edgeq.registry.entry_points", _entry_points):
            yield
    finally:
        logger.setLevel(before)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Turns what a stage raises into a fault: a refusal, or an exception that is not one of ours."""
    try:
        yield
    except EdgeqError as error:
        message = str(error)
        if "\n" in message or len(message) > MOST_LINE:
            raise Fault(f"{name}: an error of several lines", message) from error
        raise Refused(name, message) from error
    except Fault:
        raise
    except Exception as error:
        frames = [each for each in traceback.extract_tb(error.__traceback__) if "/edgeq/" in each.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "?"
        line = _first_lines(error)
        raise Fault(f"{name}: {type(error).__name__} in {where}: {_pattern(line)[:80]}", line) from error


def _first_lines(error: BaseException) -> str:
    return " | ".join(str(error).strip().splitlines()[:4])[:600]


def _pattern(message: str) -> str:
    """Returns a message without names and numbers."""
    message = re.sub(r"'[^']*'|\"[^\"]*\"|\[[^]]*\]|\([^)]*\)", "…", message)
    message = re.sub(r"\b[tcwn]\d+\w*|\bimage\w*|/\S+", "…", message)
    return re.sub(r"-?\d+(\.\d+)?(e[-+]?\d+)?", "#", message)[:160]


def _preset(folder: Path, subject: Subject) -> str:
    image = next(iter(subject.samples[0].values()))
    gray = image.ndim == 4 and image.shape[1] == 1
    numbers = 1 if gray else 3
    path = folder / "preset.toml"
    path.write_text(
        "[preprocessing]\n"
        f'channel_order = "{"gray" if gray else "rgb"}"\nmean = {[0.5] * numbers}\nstd = {[0.25] * numbers}\n'
    )
    return str(path)


def _batch_of_two(subject: Subject) -> Arrays:
    one, other = subject.samples[:2]
    return {name: np.concatenate([one[name], other[name]]) for name in one}


@dataclass(frozen=True)
class Planned:
    """The graph that an INT8 file was made from, without Q/DQ pairs, and its plan."""

    named: onnx.ModelProto
    plan: QuantPlan

    @cached_property
    def graph(self) -> onnx.ModelProto:
        """The graph as ONNX Runtime takes it."""
        return nameless(self.named)


def _written(
    model: FloatModel, target: Target, ranges: Ranges, folder: Path
) -> Iterator[tuple[Artifact, Planned | None]]:
    import onnx_ir

    write = ONNX.function("write")
    with stage("keep"):
        kept = resolve_keep(engine_graph(model, target))
    planned: list[Planned] = []

    def keep_plan(job: PlannedModel, _folder: Path) -> dict[str, Any]:
        planned[:] = [Planned(onnx_ir.to_proto(job.graph), job.plan)]
        return {}

    companions = (keep_plan, *((TENSORRT_CACHE.function("write"),) if target.rules.calibration_cache else ()))
    for precision in ("fp32", "fp16", "int8", "dynamic"):
        if precision == "dynamic" and not target.rules.takes_dynamic:
            continue
        with stage(f"write {precision} for {target.name}"):
            artifact = write(
                FileJob(model, target, folder, ranges=ranges, kept=kept, companions=companions, precision=precision)
            )
        yield artifact, planned[0] if precision == "int8" else None


def check_file(
    file: Artifact,
    model: FloatModel,
    target: Target,
    planned: Planned | None,
    expected: Expected,
    *,
    openvino: bool = False,
) -> None:
    """Checks one file.

    Raises:
        Fault: the first thing that does not hold.
    """
    label = f"{file.precision} for {target.name}"
    written = onnx.load(file.path)
    _check_interface(label, written, expected)
    try:
        onnx.checker.check_model(written, full_check=True)
    except Exception as error:
        raise Fault(f"{label}: the file is not valid ONNX", _first_lines(error)) from error
    try:
        opened = session(written)
        found = [opened.run(None, dict(feed)) for feed in expected.feeds]
    except Exception as error:
        raise Fault(f"{label}: ONNX Runtime does not run it", _first_lines(error)) from error
    _check_shapes(label, found, expected.outputs, expected.names)
    _check_values(label, file, model, target, planned, expected, found)
    if expected.subject.keeps_batch:
        _check_batch(label, opened, expected)
    try:
        session(written, optimize=True).run(None, dict(expected.feeds[0]))
    except Exception as error:
        if _runs(expected.model):
            raise Fault(f"{label}: ONNX Runtime does not run it with optimizations", _first_lines(error)) from error
    if openvino:
        _check_openvino(label, file, expected)


def _runs(model: onnx.ModelProto) -> bool:
    try:
        session(model, optimize=True)
    except Exception:
        return False
    return True


def _check_interface(label: str, written: onnx.ModelProto, expected: Expected) -> None:
    source = expected.subject.model.graph
    weights = {each.name for each in source.initializer}
    for kind, given, found in (
        ("inputs", [each for each in source.input if each.name not in weights], written.graph.input),
        ("outputs", source.output, written.graph.output),
    ):
        names, wanted = [each.name for each in found], [each.name for each in given]
        if names != wanted:
            raise Fault(f"{label}: names of {kind}", f"wanted {wanted}, found {names}")
        types = [each.type.tensor_type.elem_type for each in found]
        if types != (of_source := [each.type.tensor_type.elem_type for each in given]):
            raise Fault(f"{label}: types of {kind}", f"wanted {of_source}, found {types}")
        for one, other in zip(given, found, strict=True):
            _check_dims(label, kind, one, other, expected.subject)


def _check_dims(
    label: str, kind: str, given: onnx.ValueInfoProto, found: onnx.ValueInfoProto, subject: Subject
) -> None:
    def dims(info: onnx.ValueInfoProto) -> list[int | str]:
        return [each.dim_value or each.dim_param for each in info.type.tensor_type.shape.dim]

    wanted, shape = dims(given), dims(found)
    if not subject.keeps_batch:
        wanted = [1 if isinstance(each, str) else each for each in wanted]
    same = len(wanted) == len(shape) and all(
        one == other or (isinstance(one, str) and isinstance(other, str))
        for one, other in zip(wanted, shape, strict=True)
    )
    if not same:
        raise Fault(f"{label}: shapes of {kind}", f"{given.name}: wanted {wanted}, found {shape}")


def _check_shapes(
    label: str, found: Sequence[Sequence[NDArray[Any]]], wanted: Sequence[Sequence[NDArray[Any]]], names: Sequence[str]
) -> None:
    for arrays, others in zip(found, wanted, strict=True):
        for name, one, other in zip(names, arrays, others, strict=True):
            if one.shape != other.shape or one.dtype != other.dtype:
                raise Fault(
                    f"{label}: shapes of what it computes",
                    f"{name}: wanted {other.dtype} {other.shape}, found {one.dtype} {one.shape}",
                )


def _check_values(
    label: str, file: Artifact, model: FloatModel, target: Target, planned: Planned | None, expected: Expected,
    found: Sequence[Sequence[NDArray[Any]]],
) -> None:  # fmt: skip
    computes_fp32 = file.precision == "fp32" or file.quantization.get("fp16") == "by the engine"
    if computes_fp32:
        check_equal(label, found, expected.outputs, expected.spread("fp32"), expected)
        return
    if not any(expected.smooth):
        return
    rounded = expected.spread("fp16" if file.precision == "fp16" or target.rules.fp16 == "graph" else "fp32")
    if file.precision == "fp16":
        integers = rounded
    elif file.precision == "dynamic":
        integers = dynamic_spread(model, target, expected)
    else:
        assert planned is not None
        integers = int8_spread(target, planned, expected)
    for place, name in enumerate(expected.names):
        if not expected.smooth[place]:
            continue
        both = [np.concatenate([each[place].ravel() for each in arrays]) for arrays in (expected.outputs, found)]
        total = snr_db(both[0], both[1])
        floor = min(integers[place].snr_db, rounded[place].snr_db)
        if total < floor - MARGIN_DB:
            raise Fault(
                f"{label}: signal",
                f"{name}: {total:.1f} dB; noise of its arithmetic leaves {floor:.1f} dB",
            )


def check_equal(
    label: str,
    found: Sequence[Sequence[NDArray[Any]]],
    wanted: Sequence[Sequence[NDArray[Any]]],
    floors: Sequence[Spread],
    expected: Expected,
) -> None:
    """Checks that outputs are those of the model within what rounding makes of them."""
    for arrays, others in zip(found, wanted, strict=True):
        for place, (one, other) in enumerate(zip(arrays, others, strict=True)):
            name = expected.names[place]
            if other.dtype.kind != "f":
                # An integer that jumps may differ where a value lies on the jump.
                if not np.array_equal(one, other) and (one != other).mean() > 0.02:
                    raise Fault(f"{label}: values", f"{name}: {(one != other).mean():.0%} of the integers differ")
                continue
            least = 2e-5 * float(np.abs(other).max(initial=0.0)) + 1e-6
            difference = np.abs(one.astype(np.float64) - other)
            limit = least + 8 * floors[place].most
            if not (difference <= limit).all():
                if not expected.smooth[place] and (difference > limit).mean() < 0.02:
                    continue
                raise Fault(f"{label}: values", f"{name} differs by {np.nanmax(difference):.3g}, wanted {limit:.3g}")


def _check_batch(label: str, opened: Any, expected: Expected) -> None:
    feed = _batch_of_two(expected.subject)
    try:
        found = opened.run(None, feed)
    except Exception as error:
        raise Fault(f"{label}: does not run with a batch of two", _first_lines(error)) from error
    wanted = run(expected.model, feed)
    _check_shapes(label, [found], [wanted], expected.names)
    for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
        if expected.smooth[place] and snr_db(other, one) < snr_of_one(opened, expected, place) - MARGIN_DB:
            raise Fault(f"{label}: values with a batch of two", expected.names[place])


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
        try:
            core.compile_model(core.read_model(expected.subject.model.SerializeToString()), "CPU")
        except Exception:
            return  # it does not take the model either
        raise Fault(f"{label}: OpenVINO does not load it", _first_lines(error)) from error


def _proto(graph: Any) -> onnx.ModelProto:
    import onnx_ir

    return nameless(onnx_ir.to_proto(graph))


def int8_spread(target: Target, planned: Planned, expected: Expected) -> list[Spread]:
    """Returns what half a step on every quantized tensor and weight makes of the outputs, and checks the grids."""
    graph, plan = planned.graph, planned.plan
    inputs = {each.name for each in graph.graph.input}
    constants = {each.name: each for each in graph.graph.initializer}
    computed = [name for name in (*plan.tensors, *plan.tied) if name not in inputs and name not in constants]
    values = observed(graph, computed, expected.feeds)
    every = [{**feed, **each} for feed, each in zip(expected.feeds, values, strict=True)]
    _check_grids(target, {**plan.tensors, **plan.tied}, every)
    nodes = {node.name: node for node in planned.named.graph.node}
    weights = {}
    for name, weight in plan.weights.items():
        source = nodes[name].input[1]
        scale = np.asarray(weight.scale, np.float32)
        if weight.axis is not None:
            scale = scale.reshape([-1 if axis == weight.axis else 1 for axis in range(weight.integers.ndim)])
        off = np.abs(weight.dequantize() - numpy_helper.to_array(constants[source])) / scale
        if off.max(initial=0) > 0.51:
            raise Fault(f"int8 for {target.name}: weights", f"{name}: off by {off.max():.2f} steps")
        weights[source] = np.broadcast_to(scale / 2, weight.integers.shape).astype(np.float32)
    tensors = [name for name in plan.tensors if name in computed and name not in expected.jumping]

    def half(name: str, array: NDArray[Any]) -> NDArray[Any]:
        return np.full(array.shape, plan.tensors[name].scale / 2, array.dtype)

    halves = [{name: half(name, each[name]) for name in tensors} for each in values]
    moved = [{name: half(name, feed[name]) for name in feed if name in plan.tensors} for feed in expected.feeds]
    return spreads(Noisy(graph, tensors, list(weights)), expected.feeds, expected.outputs, halves, weights, moved)


def _check_grids(target: Target, grids: dict[str, Any], values: Sequence[Arrays]) -> None:
    """Checks that every grid covers what its tensors hold, and nothing else."""
    members: dict[Any, list[str]] = {}
    for name, grid in grids.items():
        members.setdefault(grid, []).append(name)
    for grid, names in members.items():
        arrays = [each[name] for each in values for name in names if name in each and each[name].size]
        if not arrays:
            continue
        low, high = min(float(each.min()) for each in arrays), max(float(each.max()) for each in arrays)
        least, most = grid.ends
        if low < least - 1.01 * grid.scale or high > most + 1.01 * grid.scale:
            raise Fault(
                f"int8 for {target.name}: a grid that cuts off",
                f"{names} hold {low:.4g}..{high:.4g}, the grid {least:.4g}..{most:.4g}",
            )


def dynamic_spread(model: FloatModel, target: Target, expected: Expected) -> list[Spread]:
    """Returns what half a step of ranges measured at every run makes of the outputs."""
    graph = engine_graph(model, target)
    proto = _proto(graph)
    nodes = [node for node in graph.graph if weight_of(node) is not None]
    inputs = {each.name for each in proto.graph.input}
    read = list(dict.fromkeys(str(node.inputs[0].name) for node in nodes if node.inputs[0] is not None))
    constants = {each.name for each in proto.graph.initializer}
    tensors = [name for name in read if name not in inputs | constants | expected.jumping]
    values = observed(proto, tensors, expected.feeds)
    weights = {}
    for node in nodes:
        weight = weight_of(node)
        assert weight is not None and node.inputs[1] is not None
        weights[str(node.inputs[1].name)] = np.full(weight.shape, np.abs(weight).max(initial=0) / 254, np.float32)

    def half(array: NDArray[Any]) -> NDArray[Any]:
        step = (max(array.max(initial=0), 0) - min(array.min(initial=0), 0)) / 255
        return np.full(array.shape, step / 2, array.dtype)

    halves = [{name: half(each[name]) for name in tensors} for each in values]
    moved = [{name: half(array) for name, array in feed.items() if name in read} for feed in expected.feeds]
    return spreads(Noisy(proto, tensors, list(weights)), expected.feeds, expected.outputs, halves, weights, moved)
