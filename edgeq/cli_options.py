"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Labels = Annotated[
    str | None, typer.Option(help="Class names: a COCO .json, a text file with one a line, or names with commas.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of the engine; by default one a physical core.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results as JSON.")]
