"""Data sets on the command line: `edgeq data`, and what `--data` opens for other commands."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.cli.options import AllowOutside, JsonFile, require_writable_json, write_json_file
from edgeq.cli.printing import say
from edgeq.cli.words import as_options

if TYPE_CHECKING:
    from edgeq.datasets import Split
    from edgeq.verbs.data import SplitSummary

_SHOWN_CLASSES = 20


def data(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A data set: a file or folder.")],
    split: Annotated[str | None, typer.Option(metavar="NAME", help="Look at this split only.")] = None,
    allow_outside: AllowOutside = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write a contact sheet per split here.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Show what a data set is: format, splits, classes, sizes, and everything that is odd about it."""
    from edgeq.verbs.data import examine_data

    require_writable_json(json_file)
    summary = examine_data(path, split, allow_outside=allow_outside, out=out)
    for each in summary.splits:
        for line in _lines(each):
            say(as_options(line))
    for name, error in summary.broken.items():
        say(as_options(f"split {name} cannot be read: {error}"))
    write_json_file(json_file, summary.to_json())


def _lines(split: SplitSummary) -> Iterator[str]:
    """Yields what is printed of a split."""
    yield f"data: {split.description}"
    if split.sizes_px:
        smallest, median, largest = (f"{width}x{height}" for width, height in split.sizes_px)
        many = f"{smallest} to {largest}, median {median}, {split.distinct_sizes} sizes"
        yield f"  image sizes: {smallest if split.distinct_sizes == 1 else many}"
    if split.median_box_px is not None:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in split.box_shares.items())
        yield f"  box sizes: {shares}; median {split.median_box_px:.0f} pixels square"
    if split.classes:
        counts = sorted(split.classes.items(), key=lambda pair: -pair[1])
        shown = ", ".join(f"{name} {count:,}" for name, count in counts[:_SHOWN_CLASSES])
        rest = len(counts) - _SHOWN_CLASSES
        yield f"  classes: {shown}{f' and {rest} more; --json has all' if rest > 0 else ''}"
    for found in split.findings:
        yield f"  odd: {found.line}"
    if split.contact_sheet is not None:
        yield f"  contact sheet: {split.contact_sheet}"


def open_for_calibration(
    path: Path | None, split: str | None, allow_outside: bool, *, calib: Path | None, images: Path | None
) -> Split | None:
    """Returns the part of `--data` to calibrate on and says what it was taken for; `None` without `--data`.

    Raises:
        InputError: there is none.
        BadParameter: an option has no effect.
    """
    from edgeq.datasets import open_split

    if path is None:
        _require_unused(split, allow_outside)
        return None
    if calib is not None or images is not None:
        raise typer.BadParameter(
            "takes the place of images and ranges that --calib, --images or IMAGES name; give one of them",
            param_hint="--data",
        )
    found = open_split(path, "calibration", split, allow_outside=allow_outside)
    say(f"data: {found.describe()}")
    return found


def open_for_evaluation(
    path: Path | None,
    split: str | None,
    allow_outside: bool,
    class_map: Sequence[str],
    *,
    annotations: Path | None,
    images: Path | None,
) -> Split | None:
    """Returns the part of `--data` to score on and says what it was taken for; `None` without `--data`.

    Raises:
        InputError: there is none, or `--map` has another form.
        BadParameter: an option has no effect, or nothing says what to score on.
    """
    if path is None:
        _require_unused(split, allow_outside, class_map)
        if images is None:
            raise typer.BadParameter("give --data, or --images with --annotations")
        return None
    if annotations is not None or images is not None:
        raise typer.BadParameter("takes the place of --annotations and --images; omit them", param_hint="--data")
    return _opened(path, split, allow_outside, class_map)


def open_for_prediction(
    path: Path | None,
    split: str | None,
    allow_outside: bool,
    class_map: Sequence[str],
    *,
    annotations: Path | None,
    images: Sequence[Path],
) -> Split | None:
    """Returns the part of `--data` to draw and says what it was taken for; `None` without `--data`.

    Raises:
        InputError: there is none, or `--map` has another form.
        BadParameter: an option has no effect, or nothing says what to draw.
    """
    if path is None:
        _require_unused(split, allow_outside, class_map)
        if not images:
            raise typer.BadParameter("give IMAGES, or --data")
        return None
    if annotations is not None or images:
        raise typer.BadParameter("takes the place of IMAGES and --annotations; omit them", param_hint="--data")
    return _opened(path, split, allow_outside, class_map)


def _opened(path: Path, split: str | None, allow_outside: bool, class_map: Sequence[str]) -> Split:
    """Returns the part of a data set that is scored on, and says what it was taken for."""
    from edgeq.datasets import open_split
    from edgeq.datasets.class_names import parse_class_map

    found = open_split(path, "evaluation", split, allow_outside=allow_outside)
    say(f"data: {found.describe()}")
    return dataclasses.replace(found, class_map=parse_class_map(class_map))


def _require_unused(split: str | None, allow_outside: bool, class_map: Sequence[str] = ()) -> None:
    given = {"--split": split is not None, "--allow-outside": allow_outside, "--map": bool(class_map)}
    for option, is_given in given.items():
        if is_given:
            raise typer.BadParameter("is for --data, and there is none; omit it", param_hint=option)
