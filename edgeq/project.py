"""`edgeq.toml` in the working folder: what a project's commands are about, unless the command line says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edgeq.boundary import NotNegative, convert, read_toml
from edgeq.errors import InputError
from edgeq.wording import did_you_mean

FILE = Path("edgeq.toml")
_KIND = "a project's defaults"


@dataclass(frozen=True)
class ProjectLimits:
    """Limits of `edgeq gate`, by the names of its options.

    Attributes:
        max_drop: Most points of the score that may be lost.
        per_class: Most points that a class may lose.
        small: Most points that small boxes may lose.
        latency_ratio: Largest time as a multiple of FP32's.
    """

    max_drop: NotNegative | None = None
    per_class: NotNegative | None = None
    small: NotNegative | None = None
    latency_ratio: NotNegative | None = None


@dataclass(frozen=True)
class Project:
    """A project's defaults.

    Attributes:
        model: What MODEL is.
        data: The data set to calibrate and to score on.
        targets: Devices that files are exported for; the first is the default of `target`.
        precisions: Of the files.
        limits: What a file may cost.
    """

    model: str | None = None
    data: str | None = None
    targets: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    limits: ProjectLimits = ProjectLimits()

    @property
    def described(self) -> str:
        """All that it says, in one line."""
        stated = {
            "model": self.model,
            "data": self.data,
            "targets": ", ".join(self.targets),
            "precisions": ", ".join(self.precisions),
            **{each.name: getattr(self.limits, each.name) for each in fields(self.limits)},
        }
        return "; ".join(f"{name} {value}" for name, value in stated.items() if value not in (None, ""))


def read_project(source: Path = FILE) -> Project:
    """Returns the defaults of a project; none if there is no such file.

    Raises:
        InputError: the file cannot be read, or has a key or value that is not known.
    """
    if not source.is_file():
        return Project()
    stated = read_toml(source, dict[str, Any], kind=_KIND)
    _require_known(stated, fields(Project), str(source))
    if isinstance(limits := stated.get("limits"), Mapping):
        _require_known(limits, fields(ProjectLimits), f"{source}: [limits]")
    return convert(stated, Project, source=source, kind=_KIND)


def _require_known(stated: Mapping[str, Any], known: Iterable[Any], where: str) -> None:
    names = [each.name for each in known]
    for key in stated:
        if key not in names:
            raise InputError(f"{where}: unknown key {key!r}; {did_you_mean(key, names)}known: {', '.join(names)}")
