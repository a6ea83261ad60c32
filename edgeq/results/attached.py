"""What was measured of a file, kept in its manifest: figures with machine, versions, date and intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgeq.boundary import Count, convert, read_json
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.files import alone_in, write_json
from edgeq.results.serialization import OMIT_EMPTY, to_json

_KEY = "results"
_KIND = "an edgeq manifest"
_ADVICE = "export the file again"


@dataclass(frozen=True, kw_only=True)
class AttachedResult:
    """The figures of one run of a file.

    Attributes:
        kind: What was run: `bench` or `eval`.
        device: Name of the device.
        machine: Its board or CPU.
        system: Its operating system and Python.
        runtime: Name of the runtime.
        engine: The engine with its version.
        compute: What the engine computed float layers in.
        threads: CPU threads of the engine.
        task: Name of the task; empty for `bench`.
        data: Name of the file or folder that holds the truth; empty for `bench`.
        images: How many images were scored.
        obtained: `measured`, `simulated` or `emulated`.
        figures: Name of a figure in a result -> the figure.
        intervals: Name of a figure -> its 95 % interval: of `drop_points`, hundredths of the score that are lost from
            FP32, and of `ratio_to_fp32`.
        date: When it was attached, ISO 8601 with the offset from UTC.
        edgeq: Version of edgeq.
        command: The command that measured it.
    """

    kind: Literal["bench", "eval"]
    device: str
    machine: str
    system: str = ""
    runtime: str
    engine: str = ""
    compute: str = ""
    threads: Count | None = None
    task: str = field(default="", metadata=OMIT_EMPTY)
    data: str = field(default="", metadata=OMIT_EMPTY)
    images: Count | None = field(default=None, metadata=OMIT_EMPTY)
    obtained: Literal["measured", "simulated", "emulated"] = "measured"
    figures: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict, metadata=OMIT_EMPTY)
    date: str
    edgeq: str = ""
    command: str = field(default="", metadata=OMIT_EMPTY)

    @property
    def place(self) -> tuple[str, ...]:
        """What it says: figures of the same machine, engine and data take the place of earlier ones."""
        return self.kind, self.device, self.machine, self.runtime, self.compute, self.task, self.data


@dataclass(frozen=True)
class _Stated:
    results: tuple[AttachedResult, ...] = ()


def attached_to(artifact: Artifact) -> tuple[AttachedResult, ...]:
    """Returns what is attached to a file, in the order in which it was measured first; nothing without a manifest.

    Raises:
        InputError: the manifest cannot be read, or holds results of another form.
    """
    if not artifact.manifest_path.is_file():
        return ()
    return convert(_manifest(artifact), _Stated, source=artifact.manifest_path, kind=_KIND, advice=_ADVICE).results


def attach(artifact: Artifact, results: Iterable[AttachedResult]) -> None:
    """Adds figures to a file's manifest; those of the same machine, engine and data are replaced.

    Raises:
        InputError: the file has no manifest, or it cannot be read or written.
    """
    require_manifest(artifact)
    with alone_in(artifact.manifest_path.parent):
        by_place = {each.place: each for each in (*attached_to(artifact), *results)}
        write_json(artifact.manifest_path, _manifest(artifact) | {_KEY: [_stated(each) for each in by_place.values()]})


def require_manifest(artifact: Artifact) -> None:
    """Raises `InputError` if a file has no manifest that something can be attached to."""
    if not artifact.manifest_path.is_file():
        raise InputError(
            f"`attach`: {artifact.path} has no manifest ({artifact.manifest_path.name}) to keep results in; attach to "
            "files that `edgeq export` wrote"
        )


def _manifest(artifact: Artifact) -> dict[str, Any]:
    return read_json(artifact.manifest_path, dict[str, Any], kind=_KIND, advice=_ADVICE)


def _stated(result: AttachedResult) -> dict[str, Any]:
    found: dict[str, Any] = to_json(result)
    return {name: value for name, value in found.items() if value != ""}
