"""The commands that read results: parse, call a verb, print. `edgeq.cli.app` registers them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeq.cli.names import with_patterns
from edgeq.cli.options import refuse_given, require_writable_json, write_json_file
from edgeq.cli.printing import say
from edgeq.wording import counted

Runs = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUNS...",
        help="JSON files of `edgeq bench` and `edgeq eval`, or folders that hold them.",
        callback=with_patterns,
    ),
]


def report(
    context: typer.Context,
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUNS...",
            help="JSON files of `edgeq bench`, `edgeq eval` and `edgeq check --compile`, and ranges; or folders that "
            "hold them.",
            callback=with_patterns,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write: .html for people, .md, .csv or .json with the same figures.")
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of the scored images, for detections drawn on them (.html); repeatable."),
    ] = None,
    examples: Annotated[
        int, typer.Option(min=0, help="Images on which FP32 and the quantized file are shown side by side (.html).")
    ] = 6,
    max_drop: Annotated[
        float, typer.Option("--max-drop", metavar="POINTS", help="Points that a file may lose, for the verdict.")
    ] = 1.0,
    index: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Instead of RUNS: write index.html over the reports (.html) in this folder."
        ),
    ] = None,
) -> None:
    """Combine results of bench, eval and check --compile in one table or page that says how they were obtained."""
    from edgeq.cli.check_console import describe_compilations
    from edgeq.cli.console import print_report
    from edgeq.files import require_writable
    from edgeq.reporting.runs import read_runs
    from edgeq.reporting.write import require_format, write_report

    if index is not None:
        from edgeq.reporting.index import write_index

        if runs or out is not None:
            raise typer.BadParameter("takes the place of RUNS and --out; omit them", param_hint="--index")
        refuse_given(
            context,
            {"images", "examples", "max_drop"},
            "is for the page of RUNS, and --index lists pages that are written already",
        )
        page, count = write_index(index)
        say(f"wrote {page}: {counted(count, 'report')}")
        return
    if not runs:
        raise typer.BadParameter("give RUNS, or --index")
    if out is not None:
        require_format(out)
        require_writable(out)
    found = read_runs(runs)
    if found.rows:
        print_report(found.rows)
    for line in describe_compilations((each.name, each.compiled) for each in found.compiled):
        say(line)
    if out is not None:
        write_report(found, out, images_dirs=images or (), examples=examples, max_drop=max_drop)
        say(f"wrote {out}")


def gate(
    context: typer.Context,
    runs: Runs,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", metavar="POINTS", help="Maximum drop of AP, top-1 or cosine below FP32."),
    ] = None,
    per_class: Annotated[
        float | None, typer.Option("--per-class", metavar="POINTS", help="The same for each class's AP or top-1.")
    ] = None,
    small: Annotated[float | None, typer.Option(metavar="POINTS", help="The same for the AP of small boxes.")] = None,
    latency_ratio: Annotated[
        float | None, typer.Option("--latency-ratio", metavar="RATIO", help="Maximum latency as a multiple of FP32's.")
    ] = None,
    few: Annotated[
        int, typer.Option(min=1, help="Minimum boxes (for a classifier: images) for --per-class to judge a class.")
    ] = 10,
    strict: Annotated[bool, typer.Option("--strict", help="Also fail if the interval extends past a limit.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the verdicts as JSON.")
    ] = None,
) -> None:
    """Check results against limits; exit 1 if a limit is exceeded or was not measured.

    A point is a hundredth of the score. FP32 of the same model, runtime and device is the reference. Each figure
    comes with its 95 % interval, a paired bootstrap over the images (over the rounds, for latency). A figure within its
    limit whose interval extends past it is "not proved" and passes unless --strict.
    """
    from edgeq.cli.console import print_gate
    from edgeq.reporting.runs import read_runs
    from edgeq.verbs.gate import Limits, check_limits

    require_writable_json(json_file)
    if per_class is None:
        refuse_given(context, {"few"}, "says which classes --per-class judges, which is not given")
    result = check_limits(read_runs(runs).rows, Limits(max_drop, per_class, small, latency_ratio, few, strict))
    print_gate(result)
    write_json_file(json_file, result.to_json())
    if not result.passed:
        raise typer.Exit(1)
