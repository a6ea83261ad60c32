"""What a deployment is: the files that an engineer carries to a kind of device, besides the models themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgeq.deploying.packed import Packed
from edgeq.results.rows import Row


@dataclass(frozen=True)
class GateLimits:
    """What `run.sh` allows a file on the device, compared with FP32.

    Attributes:
        max_drop: Points by which the main score may be below FP32's.
        latency_ratio: Maximum latency as a multiple of FP32's.
    """

    max_drop: float = 1.0
    latency_ratio: float = 1.0

    @property
    def options(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Options of `edgeq gate`: the one that needs scores, and the one that needs times."""
        return ("--max-drop", f"{self.max_drop:g}"), ("--latency-ratio", f"{self.latency_ratio:g}")


@dataclass(frozen=True)
class DeployJob:
    """What a folder is made of.

    Attributes:
        target: Name of the target.
        models: The models, in the order in which the user named them.
        rows: Results about them: what to expect.
        limits: What the device may cost.
    """

    target: str
    models: tuple[Packed, ...]
    rows: tuple[Row, ...]
    limits: GateLimits

    @property
    def can_gate(self) -> bool:
        """Whether a model is there in FP32 and in another precision, which is what `edgeq gate` compares."""
        floats, others = (
            {(model.artifact.source_digest, model.runtime) for model in self.models if is_float(model) is wanted}
            for wanted in (True, False)
        )
        return bool(floats & others)

    @property
    def can_score(self) -> bool:
        """Whether all manifests say how outputs are read."""
        return all(model.artifact.postprocessing is not None for model in self.models)


def is_float(model: Packed) -> bool:
    """Returns whether a file is the FP32 one."""
    return model.artifact.precision == "fp32"


@dataclass(frozen=True)
class Section:
    """A section of the README.

    Attributes:
        title: Its heading.
        text: Markdown, without a newline at the end.
    """

    title: str
    text: str


@dataclass(frozen=True)
class Deployment:
    """How the folder for a target is made.

    Attributes:
        title: What runs there, as the README's first sentence says.
        targets: Targets whose files it takes.
        runtimes: Format of a file -> the runtime that runs it on the device.
        texts: Returns path -> text of its scripts and configurations.
        sections: Returns the README's sections about them.
    """

    title: str
    targets: frozenset[str]
    runtimes: Mapping[str, str]
    texts: Callable[[DeployJob], dict[str, str]]
    sections: Callable[[DeployJob], Sequence[Section]]

    def runtime_of(self, file_format: str, target: str) -> str | None:
        """Returns the runtime of a file, by its format and the target it was planned for; `None` if there is none."""
        return self.runtimes.get(f"{file_format}:{target}", self.runtimes.get(file_format))
