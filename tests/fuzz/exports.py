"""The files that edgeq writes of a drawn model, through the functions that `edgeq export` calls."""

from __future__ import annotations

import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx

from edgeq.calibration.calibrate import calibrate
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import EdgeqError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.jobs import FileJob, PlannedModel
from edgeq.exporting.onnx.writer import FloatModel, engine_graph
from edgeq.exporting.planning.keep import resolve_keep
from edgeq.exporting.planning.plan import QuantPlan
from edgeq.sources.formats import ONNX, TENSORRT_CACHE
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import Target, get_target
from tests.fuzz.forms import write_model
from tests.fuzz.grammar import Subject
from tests.fuzz.noise import nameless

TARGETS = ("x86", "x86-ort", "jetson-orin", "jetson-orin-trt11", "arm")
"""Targets that take ONNX files."""

PRECISIONS = ("fp32", "fp16", "int8", "dynamic")

MOST_LINE = 500
"""Longest message of a refusal."""


class FaultError(Exception):
    """Something that does not hold.

    Attributes:
        kind: What, without names and numbers: two faults of one kind are probably one.
        detail: What was found.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


class RefusedError(FaultError):
    """A model that edgeq does not take, in its own words.

    Attributes:
        message: The words.
    """

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(f"refused ({stage}): {_pattern(message)}", message)
        self.message = message


@dataclass(frozen=True)
class Planned:
    """The graph that an INT8 file was made from, without Q/DQ pairs, and its plan."""

    named: onnx.ModelProto
    plan: QuantPlan

    @cached_property
    def graph(self) -> onnx.ModelProto:
        """The graph as ONNX Runtime takes it."""
        return nameless(self.named)


@dataclass(frozen=True)
class Written:
    """A file that was written.

    Attributes:
        artifact: The file.
        model: The float model that it was made from.
        target: Whose rules it follows.
        planned: What a static INT8 file was made from.
    """

    artifact: Artifact
    model: FloatModel
    target: Target
    planned: Planned | None

    @property
    def label(self) -> str:
        """What faults call it."""
        return f"{self.artifact.precision} for {self.target.name}"


@dataclass
class Exports:
    """A model with its files, which are made when they are asked for.

    Attributes:
        subject: The model.
        folder: Where they go.
    """

    subject: Subject
    folder: Path
    _opened: dict[int, tuple[FloatModel, Ranges]] = field(default_factory=dict)

    def files(self, name: str, precisions: Sequence[str] = PRECISIONS) -> Iterator[Written]:
        """Yields the files for a target, one a precision that it takes.

        Raises:
            RefusedError: edgeq does not take the model, and says so.
            FaultError: it raises something else.
        """
        target = get_target(name)
        model, ranges = self._open(target)
        with stage("keep"):
            kept = resolve_keep(engine_graph(model, target))
        planned: list[Planned] = []

        def keep_plan(job: PlannedModel, _folder: Path) -> dict[str, Any]:
            import onnx_ir

            planned[:] = [Planned(onnx_ir.to_proto(job.graph), job.plan)]
            return {}

        companions = (keep_plan, *((TENSORRT_CACHE.function("write"),) if target.rules.calibration_cache else ()))
        for precision in precisions:
            if precision == "dynamic" and not target.rules.takes_dynamic:
                continue
            with stage(f"write {precision} for {target.name}"):
                job = FileJob(
                    model, target, self.folder, ranges=ranges, kept=kept, companions=companions, precision=precision
                )
                artifact = ONNX.function("write")(job)
            yield Written(artifact, model, target, planned[0] if precision == "int8" else None)

    def _open(self, target: Target) -> tuple[FloatModel, Ranges]:
        """Returns the float model in a target's opset, and its ranges."""
        opset = target.rules.opset
        if opset not in self._opened:
            path = self.folder / "model.onnx"
            write_model(self.subject.model, path, external=self.subject.form.external)
            preset = self.folder / "preset.toml"
            preset.write_text(_preset(self.subject), encoding="utf-8")
            request = ModelRequest(str(path), preset=str(preset), opset=opset, dynamic_batch=self.subject.keeps_batch)
            with stage("open"):
                model = open_model(request).model
            with stage("calibrate"):
                ranges = calibrate(model, self.subject.arrays, method="minmax", threads=1).ranges
            self._opened[opset] = model, ranges
        return self._opened[opset]


@contextmanager
def quiet() -> Iterator[None]:
    """Lets edgeq's warnings pass."""
    logger = logging.getLogger("edgeq")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
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
            raise FaultError(f"{name}: an error of several lines", message) from error
        raise RefusedError(name, message) from error
    except FaultError:
        raise
    except Exception as error:
        frames = [each for each in traceback.extract_tb(error.__traceback__) if "/edgeq/" in each.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "?"
        line = first_lines(error)
        raise FaultError(f"{name}: {type(error).__name__} in {where}: {_pattern(line)[:80]}", line) from error


def first_lines(error: BaseException) -> str:
    """Returns the beginning of a message on one line."""
    return " | ".join(str(error).strip().splitlines()[:4])[:600]


def _pattern(message: str) -> str:
    """Returns a message without names and numbers."""
    message = re.sub(r"'[^']*'|\"[^\"]*\"|\[[^]]*\]|\([^)]*\)", "…", message)
    message = re.sub(r"\b[tcwn]\d+\w*|\bimage\w*|/\S+", "…", message)
    return re.sub(r"-?\d+(\.\d+)?(e[-+]?\d+)?", "#", message)[:160]


def _preset(subject: Subject) -> str:
    image = subject.arrays[0]
    return subject.form.preset(subject.input.name, image.shape[1] if image.ndim > 1 else 1)
