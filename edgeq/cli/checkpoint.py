"""`edgeq export FOLDER --format gptq`: what a checkpoint takes of the options of `export`, and what is printed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgeq.cli.options import refuse_given, write_json_file
from edgeq.cli.printing import say
from edgeq.errors import InputError
from edgeq.wording import counted

if TYPE_CHECKING:
    from edgeq.verbs.export_checkpoint import CheckpointResult

_TAKEN = frozenset(
    {
        "model",
        "out",
        "formats",
        "precision",
        "calib",
        "num",
        "weight_method",
        "group_size",
        "skip",
        "threads",
        "json_file",
        "download",
        "progress",
    }
)
_MB = 1e6


def export_checkpoint_command(context: typer.Context) -> None:
    """Writes the checkpoint that the options of `export` ask for.

    Raises:
        InputError: an option is not for checkpoints, or several formats are asked for.
    """
    from edgeq.verbs.export_checkpoint import export_checkpoint

    values: Mapping[str, Any] = context.params
    formats = values["formats"]
    if len(formats) > 1:
        raise InputError(f"`format` {', '.join(formats)}: a checkpoint has one layout; export each to its own folder")
    refuse_given(context, values.keys() - _TAKEN, f"is for files that engines run, and {formats[0]} is a checkpoint")
    result = export_checkpoint(
        Path(values["model"]),
        Path(values["out"]),
        layout=formats[0],
        precision=values["precision"],
        group_size=values["group_size"],
        weight_method=values["weight_method"],
        skip=values["skip"] or None,  # typer has an empty list for what was not given
        calib=values["calib"],
        num=values["num"],
        threads=values["threads"],
    )
    for line in describe_checkpoint(result):
        say(line)
    write_json_file(values["json_file"], result.to_json())


def describe_checkpoint(result: CheckpointResult) -> list[str]:
    """Returns what was written, what was left in FP16 and what it weighs."""
    before, after = result.bytes_before / _MB, result.bytes_after / _MB
    left = ", ".join(result.left) or "no linear layer"
    return [
        f"{result.folder}: {result.format}, {counted(result.layers, 'layer')} with weights of {result.bits} bits in "
        f"groups of {result.group_size}, by {result.weight_method}",
        f"in FP16: {left}, tables and norms",
        f"{after:,.1f} MB; the model has {before:,.1f} MB",
    ]
