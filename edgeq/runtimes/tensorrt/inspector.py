"""Looks into an engine: in which precision its layers run, what Reformat layers cost, and where the time goes.

"Reformat" layers convert between types and memory layouts; badly placed Q/DQ nodes show as many of them. Their share of
the time is the price.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from edgeq.boundary import parse_json
from edgeq.errors import EngineError
from edgeq.runtimes.base import Arrays
from edgeq.runtimes.tensorrt.session import TensorRtSession

REFORMAT = "reformat"
UNKNOWN = "unknown"

# Searched in "Format/Datatype", which is free text: "Thirty-two wide channel vectorized row major Int8 format", "Half".
_PRECISIONS = {
    "int8": r"int8|s8",
    "int4": r"int4",
    "fp8": r"fp8|e4m3",
    "bf16": r"bf16|bfloat16",
    "fp16": r"fp16|half|float16",
    "fp32": r"fp32|float32|float|tf32",
    "int32": r"int32|int64|bool",
}
_RUNS = 20


@dataclass(frozen=True)
class Layer:
    """A layer of an engine, after TensorRT's fusions.

    Attributes:
        name: Its name, made of those of the ONNX nodes it computes.
        kind: TensorRT's type of it (`CaskConvolution`, `Reformat`, `kgen`, ...); empty if not reported.
        precision: What it computes in, `reformat` for a conversion, `unknown` if the engine does not report it.
        ms: Median time of a run; `None` where it was not profiled.
    """

    name: str
    kind: str
    precision: str
    ms: float | None = None


@dataclass(frozen=True)
class Inspection:
    """What an engine consists of.

    Attributes:
        layers: Its layers, in the order they run.
        profiled_runs: Runs that the times are the median of; 0 where none was profiled.
    """

    layers: tuple[Layer, ...]
    profiled_runs: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Precision -> number of layers, the most frequent first."""
        return dict(Counter(layer.precision for layer in self.layers).most_common())

    @property
    def total_ms(self) -> float:
        """Sum of the layers' times. Profiling slows a network down: only shares of it mean something."""
        return sum(layer.ms or 0.0 for layer in self.layers)

    def share(self, precision: str) -> float | None:
        """Returns the share of the profiled time that layers of a precision take; `None` where nothing was timed."""
        if not self.total_ms:
            return None
        return sum(layer.ms or 0.0 for layer in self.layers if layer.precision == precision) / self.total_ms

    def to_json(self) -> dict[str, Any]:
        """Returns the same as JSON values."""
        return {
            "layers": [vars(layer) for layer in self.layers],
            "counts": self.counts,
            "shares": {name: self.share(name) for name in self.counts},
            "profiled_runs": self.profiled_runs,
        }


def inspect_session(session: TensorRtSession) -> Inspection:
    """Returns the layers of an open engine, without times.

    Raises:
        EngineError: the inspector says nothing, or something that is no JSON.
    """
    trt = session.import_engine()
    inspector = session.engine.create_engine_inspector()
    # Without a context formats of free shapes read "N/A due to dynamic shapes".
    inspector.execution_context = session.context
    text = inspector.get_engine_information(format=trt.LayerInformationFormat.JSON)
    found = parse_json(
        str(text).encode(),
        _Information,
        source=f"{session.artifact.path}: TensorRT's inspector",
        kind="a list of layers",
        advice="report it with the version of TensorRT",
        error=EngineError,
    )
    return Inspection(tuple(_layer(entry) for entry in found.layers))


def profile_session(session: TensorRtSession, inputs: Arrays, runs: int = _RUNS) -> Inspection:
    """Returns the layers of an open engine with the median time of each.

    Args:
        session: The engine; the profiler stays with its execution context, so do not time it afterwards.
        inputs: What it is run on.
        runs: Number of runs.

    Raises:
        EngineError: the engine fails, or the profiler reports nothing.
    """
    session.run(inputs)
    found = inspect_session(session)
    base: Any = session.import_engine().IProfiler
    times: dict[str, list[float]] = {}

    class Profiler(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.setdefault(layer_name, []).append(ms)

    session.profile_by(Profiler())
    for _ in range(runs):
        session.run(inputs)
    if not times:
        raise EngineError(f"{session.artifact.path}: TensorRT's profiler reported no layer")
    return Inspection(_timed(found.layers, times), runs)


def _timed(layers: Sequence[Layer], times: Mapping[str, Sequence[float]]) -> tuple[Layer, ...]:
    """Returns the layers with their times; what only the profiler knows comes last, of unknown precision."""
    medians = {name: sorted(samples)[len(samples) // 2] for name, samples in times.items()}
    timed = [Layer(layer.name, layer.kind, layer.precision, medians.pop(layer.name, 0.0)) for layer in layers]
    rest = [Layer(name, "", _precision_of_reformat(name), ms) for name, ms in medians.items()]
    return (*timed, *rest)


class _Tensor(msgspec.Struct):
    datatype: str = msgspec.field(name="Format/Datatype", default="")


class _LayerInformation(msgspec.Struct, rename="pascal"):
    """A layer as TensorRT's inspector describes it; weights are numbers, texts or objects, by layer and version."""

    name: str
    layer_type: str = ""
    weights: Any = None
    inputs: list[_Tensor] = []
    outputs: list[_Tensor] = []


class _Information(msgspec.Struct, rename="pascal"):
    layers: list[str | _LayerInformation]


def _layer(entry: str | _LayerInformation) -> Layer:
    if isinstance(entry, str):  # built without detailed verbosity
        return Layer(entry, "", _precision_of_reformat(entry))
    if entry.layer_type.lower() == REFORMAT:
        return Layer(entry.name, entry.layer_type, REFORMAT)
    return Layer(entry.name, entry.layer_type, _precision(entry))


def _precision(entry: _LayerInformation) -> str:
    """Returns what a layer computes in: the type of its weights, or else the narrowest of its inputs and outputs."""
    weights = entry.weights
    texts = [str(weights.get("Type", ""))] if isinstance(weights, Mapping) and weights.get("Count", 1) else []
    if found := _first_precision(texts):
        return found
    return _first_precision([tensor.datatype for tensor in (*entry.inputs, *entry.outputs)]) or UNKNOWN


def _first_precision(texts: Sequence[str]) -> str | None:
    for precision, pattern in _PRECISIONS.items():
        if any(re.search(rf"(?<![a-z])(?:{pattern})(?![a-z0-9])", text, re.IGNORECASE) for text in texts):
            return precision
    return None


def _precision_of_reformat(name: str) -> str:
    return REFORMAT if name.lower().startswith(("reformat", "reformatting")) else UNKNOWN
