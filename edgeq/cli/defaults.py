"""Defaults of commands by `edgeq.toml`: a project's model, data, target and limits; the command line goes first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from edgeq.project import Project, read_project

_VALUES: Mapping[str, Callable[[Project], Any]] = {
    "model": lambda project: project.model,
    "data": lambda project: project.data,
    "target": lambda project: next(iter(project.targets), None),
    "precision": lambda project: ",".join(project.precisions) or None,
    "max_drop": lambda project: project.limits.max_drop,
    "per_class": lambda project: project.limits.per_class,
    "small": lambda project: project.limits.small,
    "latency_ratio": lambda project: project.limits.latency_ratio,
}
_TAKEN: Mapping[str, Collection[str]] = {
    "calibrate": ("model", "data"),
    "deploy": ("target", "max_drop", "latency_ratio"),
    "eval": ("data",),
    "export": ("model", "data", "target", "precision"),
    "gate": ("max_drop", "per_class", "small", "latency_ratio"),
    "report": ("max_drop",),
    "study": ("model", "data"),
    "tune": ("model", "data", "target"),
}
"""Command -> its parameters that a project has defaults for."""
_INSTEAD: Mapping[str, Collection[str]] = {
    "data": ("calib", "source", "images", "annotations", "earlier", "task"),
    "model": ("earlier",),
}
"""Parameter -> those that, if they are given, leave no place for its default."""


def project_defaults(command: str, given: Collection[str]) -> dict[str, Any]:
    """Returns parameter -> value of what `edgeq.toml` says for a command and the command line leaves open.

    Args:
        command: Its name.
        given: The parameters that the command line states.

    Raises:
        InputError: `edgeq.toml` cannot be read.
    """
    if command not in _TAKEN:
        return {}
    project = read_project()
    values = {
        name: _VALUES[name](project) for name in _TAKEN[command] if not {name, *_INSTEAD.get(name, ())} & {*given}
    }
    return {name: value for name, value in values.items() if value is not None}
