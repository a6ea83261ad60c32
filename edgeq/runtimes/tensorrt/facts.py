"""What an engine was built by and for. Engines run only where the same versions meet the same GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeq.boundary import Count, convert
from edgeq.errors import MismatchError
from edgeq.exporting.artifact import Artifact
from edgeq.runtimes.cuda import Cuda
from edgeq.runtimes.tensorrt.gpus import gpu_of
from edgeq.runtimes.tensorrt.library import TENSORRT, Library, short_version
from edgeq.sensors import power_mode

_KEY = "build"


@dataclass(frozen=True)
class Platform:
    """What an engine is bound to, and what decides its speed.

    Attributes:
        tensorrt: Version of the library.
        cuda: Version of the CUDA runtime; this and the GPU's facts are empty of an engine for kinds of GPU.
        gpu: Name of the GPU.
        compute_capability: `major.minor` of the GPU.
        power_mode: The board's power mode as `nvpmodel -q` says it; `None` where there is no such program.
    """

    tensorrt: str
    cuda: str
    gpu: str
    compute_capability: str
    power_mode: str | None = None


@dataclass(frozen=True)
class BuildFacts:
    """How an engine was built; its manifest holds this.

    Attributes:
        platform: By and for what.
        route: `explicit` (Q/DQ nodes), `implicit` (scales by tensor) or `float`.
        strongly_typed: Whether the network's types decided, and no flags.
        scales_from: Where implicit scales came from: `cache`, `ranges` or `images`; `None` for other routes.
        built_from: File name -> SHA-256 of everything that went in.
        dla_core: The DLA core it was built for; `None` for the GPU.
        missing_scales: Tensors that TensorRT found no scale for, which keeps their layers out of INT8.
        float_layers: Layers that were kept out of INT8 on request.
        layers: Precision -> number of layers, as the engine inspector tells them; empty where it does not.
        library: The Python module that it was built with.
        gpus: Kinds of GPU that it was built for; empty of an engine for the GPU that it was built on.
    """

    platform: Platform
    route: str
    strongly_typed: bool
    scales_from: str | None = None
    built_from: Mapping[str, str] = field(default_factory=dict)
    dla_core: Count | None = None
    missing_scales: tuple[str, ...] = ()
    float_layers: tuple[str, ...] = ()
    layers: Mapping[str, Count] = field(default_factory=dict)
    library: str = TENSORRT.module
    gpus: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the entry of `Artifact.quantization` that holds it."""
        return {_KEY: dataclasses.asdict(self)}

    @classmethod
    def of(cls, artifact: Artifact) -> BuildFacts:
        """Returns how an engine was built, from its manifest.

        Raises:
            InputError: the manifest does not tell.
        """
        return convert(
            artifact.quantization.get(_KEY),
            cls,
            source=artifact.manifest_path,
            kind="the manifest of an engine, which says what it was built by",
            advice="build it again with `edgeq build`",
            place=f"$.quantization.{_KEY}",
        )


def read_platform(trt: Any, cuda: Cuda) -> Platform:
    """Returns the facts about this device."""
    facts = cuda.facts()
    return Platform(str(trt.__version__), facts.cuda, facts.gpu, facts.compute_capability, power_mode.read(Path("/")))


def check_platform(artifact: Artifact, built: BuildFacts, here: Platform, library: Library) -> None:
    """Checks that an engine may run here.

    Raises:
        MismatchError: it was built by another version or library, or for another GPU.
    """
    was = built.platform
    differences = [
        f"{label} {before}, here is {now}"
        for label, before, now in (
            ("the library", built.library, library.module),
            (library.title, short_version(was.tensorrt), short_version(here.tensorrt)),
            *(() if built.gpus else (("compute capability", was.compute_capability, here.compute_capability),)),
            *(() if built.gpus else (("the GPU", was.gpu, here.gpu),)),
        )
        if before != now
    ]
    advice = "rebuild on this device with `edgeq build`"
    if built.gpus:
        found = gpu_of(here.compute_capability)
        advice = f"rebuild it with `edgeq build` for `sm` {found.lower()}"
        if found not in built.gpus:
            differences.append(f"{', '.join(built.gpus)}, here is {found} ({here.gpu})")
    if differences:
        raise MismatchError(f"{artifact.path}: was built by or for {'; '.join(differences)}; {advice}")
