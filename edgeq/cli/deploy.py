"""The command that writes deployment folders: parse, call a verb, print. `edgeq.cli.app` registers it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.cli.bundles import any_bundle
from edgeq.cli.names import TARGET, with_patterns
from edgeq.cli.options import JsonFile, refuse_given, require_writable_json, write_json_file
from edgeq.cli.printing import say

if TYPE_CHECKING:
    from edgeq.verbs.deploy import DeployResult


def deploy(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Files that `edgeq export` wrote for the target, or one bundle.",
            callback=with_patterns,
        ),
    ],
    target: Annotated[
        str | None,
        typer.Option(
            help="Device: jetson-orin, jetson-orin-trt11, x86 (or x86-openvino, x86-ort), or arm; by default the one "
            "that the files were exported for. For a bundle onnxruntime-genai or openvino-genai.",
            **TARGET,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier deployment in it is replaced.")] = Path(
        "deploy"
    ),
    results: Annotated[
        list[Path] | None,
        typer.Option(
            "--results",
            metavar="RUNS",
            help="Results of `edgeq bench` and `edgeq eval` about the files, for the README; repeatable.",
        ),
    ] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", metavar="POINTS", help="Limit that run.sh passes to `edgeq gate`.")
    ] = 1.0,
    latency_ratio: Annotated[
        float, typer.Option("--latency-ratio", metavar="RATIO", help="Limit that run.sh passes to `edgeq gate`.")
    ] = 1.0,
    json_file: JsonFile = None,
) -> None:
    """Write the folder to carry to a device: models, scripts, DeepStream, Triton and OVMS files, digests, README."""
    from edgeq.deploying.base import GateLimits
    from edgeq.verbs.deploy import deploy_files

    require_writable_json(json_file)
    if any_bundle(files):
        refuse_given(
            context,
            {"results", "max_drop", "latency_ratio"},
            "is for files that `edgeq gate` judges, and a bundle is named",
        )
        found = _bundle(files, target, out)
    else:
        limits = GateLimits(max_drop, latency_ratio)
        found = deploy_files(files, target, out, results=results or (), limits=limits)
    for path in found.models:
        say(f"{found.folder / path}")
    state = "wrote" if found.changed else "unchanged:"
    say(f"{state} {found.folder}: {len(found.files)} files, results stated: {found.expected}; see README.md")
    write_json_file(json_file, found.to_json())


def _bundle(files: list[Path], target: str | None, out: Path) -> DeployResult:
    from edgeq.errors import InputError
    from edgeq.verbs.deploy_bundle import deploy_bundle

    if len(files) != 1:
        raise InputError(f"{len(files)} paths: a bundle is deployed alone; name one folder")
    return deploy_bundle(files[0], target, out)
