"""What callers may write for the same thing, as one type."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from edgeq.datasets import Split, open_split
from edgeq.errors import InputError
from edgeq.progress import Progress, reporting_to

FilePath: TypeAlias = "str | os.PathLike[str]"
"""The path of a file or folder."""

Names: TypeAlias = "str | Sequence[str]"
"""One name, several in one text with commas between them, or a sequence of names."""

Listener: TypeAlias = "Callable[[], Progress] | None"
"""Called once for each job: returns what the job reports its progress to. `None` listens to nothing new."""


_log = logging.getLogger(__name__)


def names(given: Names | None) -> tuple[str, ...]:
    """Returns names without those that are empty."""
    parts = given.split(",") if isinstance(given, str) else given or ()
    return tuple(part.strip() for part in parts if part.strip())


def path(given: object, parameter: str) -> Path:
    """Returns a path.

    Raises:
        InputError: it is of another type; the error names the parameter.
    """
    if not isinstance(given, str | os.PathLike):
        raise InputError(f"`{parameter}` is of type {type(given).__name__}; wanted a path")
    return Path(given)


def optional_path(given: object, parameter: str) -> Path | None:
    """Returns a path, or `None` for `None`; raises `InputError` as `path` does."""
    return None if given is None else path(given, parameter)


def paths(given: object, parameter: str) -> list[Path]:
    """Returns the paths of one file or of a sequence of files; raises `InputError` as `path` does."""
    if isinstance(given, str | os.PathLike) or not isinstance(given, Sequence):
        return [path(given, parameter)]
    return [path(each, parameter) for each in given]


def class_names(given: FilePath | Sequence[str] | None) -> str | tuple[str, ...] | None:
    """Returns class names as a tuple, and a path, or one text with commas, as a text.

    Raises:
        InputError: they are of another type.
    """
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, os.PathLike):
        return os.fspath(given)
    if not isinstance(given, Sequence) or not all(isinstance(name, str) for name in given):
        raise InputError(
            f"`labels` is of type {type(given).__name__}; wanted class names, or the path of a file of them"
        )
    return tuple(given)


def require_positive(given: int | None, parameter: str) -> None:
    """Raises `InputError` for what is neither `None` nor a whole number from 1 on."""
    if given is not None and (not isinstance(given, int) or isinstance(given, bool) or given < 1):
        raise InputError(f"`{parameter}` is {given!r}; wanted a whole number, at least 1")


def calibration_split(data: Path, split: str | None, allow_outside: bool) -> Split:
    """Returns the part of a data set that calibration takes; logs what it was taken for.

    Raises:
        InputError: there is no such data set or split.
    """
    found = open_split(data, "calibration", split, allow_outside=allow_outside)
    _log.info("data: %s", found.describe())
    return found


@contextlib.contextmanager
def reporting(progress: Listener) -> Iterator[None]:
    """Has the jobs of the block report to a listener, if there is one."""
    if progress is None:
        yield
        return
    if not callable(progress):
        raise InputError(
            f"`progress` is of type {type(progress).__name__}; wanted a class or function that returns an object with "
            "the methods start, advance and end (edgeq.progress.Progress)"
        )
    with reporting_to(progress):
        yield


def scored_data(
    data: FilePath | None,
    split: str | None,
    allow_outside: bool,
    class_map: Mapping[str, str] | None,
    *,
    others: Sequence[object],
) -> Split | None:
    """Returns the part of a data set to score on; `None` if none is given.

    Args:
        data: The data set.
        split: The split to take instead of the usual one.
        allow_outside: See `edgeq.datasets.find_dataset`.
        class_map: Class name of the model -> name in the data.
        others: The images and annotations that it takes the place of.

    Raises:
        InputError: an argument has no effect, or there is no such data set or split.
    """
    if data is None:
        if split is not None or class_map:
            raise InputError("`split` and `map`: are for `data`, and there is none; omit them")
        return None
    if any(other is not None for other in others):
        raise InputError("`data` takes the place of `images` and `annotations`; omit them")
    opened = open_split(path(data, "data"), "evaluation", split, allow_outside=allow_outside)
    return dataclasses.replace(opened, class_map=dict(class_map or {}))
