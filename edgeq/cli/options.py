"""Options that several commands have, and what is done with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Labels = Annotated[
    str | None,
    typer.Option(help="Class names: a COCO .json, a text file with one name per line, or a comma-separated list."),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of the engine; by default one per physical core.")
]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results as JSON.")]


def require_writable_json(json_file: Path | None) -> None:
    """Checks that what `--json` names, if it was given, can be written, before long work goes into it.

    Raises:
        InputError: it cannot.
    """
    from edgeq.files import require_writable

    if json_file is not None:
        require_writable(json_file)


def write_json_file(json_file: Path | None, document: Any) -> None:
    """Writes what `--json` names, if it was given."""
    from edgeq.files import write_json

    if json_file is not None:
        write_json(json_file, document)
