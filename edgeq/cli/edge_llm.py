"""What the command line says of folders for Jetson: ONNX files for TensorRT and a checkpoint for TensorRT Edge-LLM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeq.cli.options import write_json_file
from edgeq.cli.printing import say

if TYPE_CHECKING:
    from edgeq.bundles.edge_llm import EdgeLlmFolder
    from edgeq.bundles.export import BundleRequest

_TITLES = ("part", "precision", "MB", "off PyTorch by", "quantization adds", "file")


def export(request: BundleRequest, out: Path, json_file: Path | None) -> None:
    """Writes the folder of a model for Jetson, and prints what is in it."""
    from edgeq.verbs.export_edge_llm import export_edge_llm

    found = export_edge_llm(request, out)
    print_folder(found)
    write_json_file(json_file, found.to_json())


def check(path: Path, json_file: Path | None) -> None:
    """Compares a folder with its manifest; exit code 1 if a file is missing or another one."""
    from edgeq.bundles.edge_llm import EdgeLlmFolder
    from edgeq.results.serialization import RESULTS_VERSION

    found = EdgeLlmFolder.load(path)
    problems = found.problems()
    write_json_file(json_file, {"results_version": RESULTS_VERSION, "model": found.name, "problems": problems})
    for problem in problems:
        say(problem)
    if problems:
        raise typer.Exit(1)
    print_folder(found)
    say(f"{path}: its files are those of the manifest")


def print_folder(found: EdgeLlmFolder) -> None:
    """Prints the parts of a folder, the boards that hold the model, and the commands that follow."""
    from edgeq.bundles.edge_llm import DECODER, OWN_VISION
    from edgeq.cli.console import print_table

    sizes = {file.file: file.size_bytes for file in found.files}
    rows = [
        (
            *(name, f"{part.precision} {part.method}".strip(), f"{sizes[part.file] / 1e6:.2f}"),
            *(f"{part.max_difference:.1e}", "-" if not part.output_error else f"{100 * part.output_error:.2f} %"),
            part.file,
        )
        for name, part in found.images.items()
    ]
    checkpoint = found.checkpoint
    held = sum(size for file, size in sizes.items() if file.startswith(f"{DECODER}/")) / 1e6
    print_table(
        [_TITLES, *rows, (DECODER, f"{checkpoint.precision} {checkpoint.method}", f"{held:.2f}", "-", "-", DECODER)]
    )
    smallest = found.fits[0]
    say(
        f"fits {', '.join(each.board for each in found.fits)}; {smallest.board}: {smallest.total_bytes / 1e9:.2f} of "
        f"{smallest.budget_bytes / 1e9:.2f} GB with {smallest.context:,} tokens, at most {smallest.most_context:,}"
    )
    if found.family in OWN_VISION:
        say("the vision part is in the checkpoint: TensorRT Edge-LLM writes it itself")
    for part in found.images.values():
        say(f"next, on the board: edgeq build {found.folder / part.file}")
    say(f"next, on a PC: tensorrt-edgellm-export {found.folder / DECODER} onnx")
