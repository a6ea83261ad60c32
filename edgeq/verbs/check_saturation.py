"""`edgeq check --isa avx2`: which layers of a file x86 CPUs without VNNI can get wrong, and which they do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.calibration.source import CalibrationSource
from edgeq.errors import InputError
from edgeq.evaluation.preset_proof import open_recognised
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.saturation.integer_layers import integer_layers
from edgeq.exporting.saturation.kernels import ENGINES, Engine
from edgeq.progress import progress_bar
from edgeq.results.serialization import RESULTS_VERSION, to_json
from edgeq.runtimes import get_runtime
from edgeq.runtimes.simulated_avx2 import LayerLosses, SimulatedAvx2Session
from edgeq.sources.artifact_file import open_artifact
from edgeq.targets.isa import parse_isa

DEFAULT_NUM = 16
"""Images that are taken, evenly spaced."""


@dataclass(frozen=True)
class LayerAtRisk:
    """A layer with sums that 16 bits cannot hold.

    Attributes:
        name: Name of the node.
        channels: How many output channels it has.
        can_saturate: Which of them could with some input.
        saturated: Which of them did on the images.
        share: Which part of all its sums was wrong on the images.
        snr_db: Its exact sums over what they lost on the images; `None` where they lost nothing.
    """

    name: str
    channels: int
    can_saturate: tuple[int, ...]
    saturated: tuple[int, ...] = ()
    share: float = 0.0
    snr_db: float | None = None


@dataclass(frozen=True)
class EngineAtRisk:
    """What an engine gets wrong.

    Attributes:
        engine: Name of its runtime.
        int8_layers: How many layers its 16-bit kernels compute.
        layers: Those that can saturate.
        snr_db: The least over the outputs: exact over what the images lost; `None` where they lost nothing.
    """

    engine: str
    int8_layers: int
    layers: tuple[LayerAtRisk, ...]
    snr_db: float | None = None

    @property
    def saturated(self) -> list[LayerAtRisk]:
        """The layers that lost something on the images, the worst first."""
        found = [layer for layer in self.layers if layer.saturated]
        return sorted(found, key=lambda layer: math.inf if layer.snr_db is None else layer.snr_db)


@dataclass(frozen=True)
class SaturationResult:
    """A checked file.

    Attributes:
        path: The file.
        isa: The CPUs that were asked for.
        written_for: The CPUs that its manifest names; `None` if it names none.
        images: How many images it was run on.
        engines: What each engine gets wrong on such CPUs; nothing where all sums are exact.
    """

    path: Path
    isa: str
    written_for: str | None
    images: int
    engines: tuple[EngineAtRisk, ...]

    @property
    def is_wrong(self) -> bool:
        """Whether a sum was wrong on the images."""
        return any(engine.saturated for engine in self.engines)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of a JSON file."""
        facts = {"file": self.path.name, "isa": self.isa, "written_for": self.written_for, "images": self.images}
        return {"results_version": RESULTS_VERSION, **facts, "engines": to_json(list(self.engines))}


def check_question(
    isa: str | None,
    target: str | None,
    tensorrt: str | None,
    images: object | None,
    preset: str | None,
    compiles: bool = False,
    sm: str | None = None,
) -> None:
    """Refuses a question about x86 CPUs and TensorRT at once, or what only a question about x86 CPUs takes.

    Raises:
        InputError: the arguments belong to different questions.
    """
    if isa is None and (images is not None or preset is not None):
        raise InputError("`images` and `preset`: are for `isa`; give `isa` avx2")
    if isa is not None and (target is not None or tensorrt is not None or compiles):
        raise InputError("`isa`: is for x86 engines; omit `target`, `tensorrt` and `compile`")
    if sm is not None and not compiles:
        raise InputError("`sm`: is what `compile` compiles for; give `compile` too")


def check_saturation(
    path: Path, isa: str, images: Path | None = None, num: int = DEFAULT_NUM, preset: str | None = None
) -> SaturationResult:
    """Returns which layers of an ONNX file saturate on an x86 CPU.

    Args:
        path: An ONNX file of any tool, or the manifest of one of ours.
        isa: `avx2`, `vnni`, `amx`, or `any`, which means the weakest.
        images: A folder of images that the file is run on, in a simulation of each engine.
        num: The most images to take.
        preset: How a file without a manifest takes images.

    Raises:
        InputError: the file is no ONNX file, there is no such `isa`, or nothing says how the file takes images.
        ModelError: the file holds no graph.
    """
    artifact = open_artifact(path, preset) if images is None else open_recognised(path, preset, None, None)
    if artifact.format != "onnx":
        raise InputError(f"{path}: its format is {artifact.format}, and LiteRT's sums are exact; give an .onnx file")
    facts = artifact.quantization_facts.saturation
    written_for = None if facts is None else facts.isa
    if parse_isa(isa) in ("vnni", "amx"):
        return SaturationResult(artifact.path, isa, written_for, 0, ())
    inputs = [] if images is None else _inputs(artifact, images, num)
    engines = tuple(_at_risk(artifact, engine, inputs) for engine in ENGINES)
    return SaturationResult(artifact.path, isa, written_for, len(inputs), engines)


def _inputs(artifact: Artifact, images: Path, num: int) -> list[np.ndarray]:
    if artifact.preprocessing is None or len(artifact.inputs) != 1:
        raise InputError(f"{artifact.path}: nothing says how it takes images; give `preset`, or omit `images`")
    found = CalibrationSource(images).inputs(artifact.preprocessing, num)
    arrays = [artifact.inputs[0].encode(array) for array, _ in found]
    if not arrays:
        raise InputError(f"{images}: no image in it can be read")
    return arrays


def _at_risk(artifact: Artifact, engine: Engine, inputs: Sequence[np.ndarray]) -> EngineAtRisk:
    layers = integer_layers(read_onnx(artifact.path), engine)
    risks = {layer.name: np.flatnonzero(layer.can_saturate()) for layer in layers}
    plain = [
        LayerAtRisk(layer.name, len(layer.paired.rows), tuple(risks[layer.name].tolist()))
        for layer in layers
        if risks[layer.name].size
    ]
    if not inputs or not plain:
        return EngineAtRisk(engine, len(layers), tuple(plain))
    feed = artifact.inputs[0].name
    signal, noise = dict[str, float](), dict[str, float]()
    with (
        get_runtime(f"simulated-avx2-{engine}")(artifact) as session,
        get_runtime("simulated-narrow")(artifact) as reference,
        progress_bar(len(inputs), f"{engine} on AVX2") as advance,
    ):
        assert isinstance(session, SimulatedAvx2Session)  # noqa: S101 - the runtimes of that name
        for array in inputs:
            found, exact = session.run({feed: array}), reference.run({feed: array})
            for name, values in exact.items():
                wanted = values.astype(np.float64)
                signal[name] = signal.get(name, 0) + float(np.square(wanted).sum())
                noise[name] = noise.get(name, 0) + float(np.square(wanted - found[name]).sum())
            advance(1)
        losses = session.losses
    measured = tuple(_with_losses(layer, losses) for layer in plain)
    least = min(10 * math.log10(signal[name] / lost) for name, lost in noise.items() if lost and signal[name])
    return EngineAtRisk(engine, len(layers), measured, least if any(layer.saturated for layer in measured) else None)


def _with_losses(layer: LayerAtRisk, losses: Mapping[str, LayerLosses]) -> LayerAtRisk:
    lost = losses[layer.name]
    channels = tuple(np.flatnonzero(lost.channels).tolist())
    share = float(lost.channels.sum()) / (lost.sums * layer.channels)
    ratio = round(lost.snr_db, 1) if channels else None
    return LayerAtRisk(layer.name, layer.channels, layer.can_saturate, channels, share, ratio)
