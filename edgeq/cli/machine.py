"""The commands about this machine: parse, call a verb, print. `edgeq.cli.app` registers them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeq.cli.options import JsonFile, Threads, require_writable_json, write_json_file
from edgeq.cli.printing import say
from edgeq.errors import InputError


def doctor(
    device_test: Annotated[
        bool, typer.Option("--device-test", help="On a Jetson: build, inspect and run a small INT8 engine.")
    ] = False,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Show what layers cost in each engine: measured here, or else shipped.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Show what this machine can run, and the pip command for whatever is missing."""
    from edgeq.cli.console import print_diagnosis
    from edgeq.verbs.doctor import examine

    require_writable_json(json_file)
    if kernels and device_test:
        raise InputError("--kernels and --device-test: answer different questions; give one of them")
    if kernels:
        from edgeq.cli.kernels import print_kernels
        from edgeq.machine import read_machine
        from edgeq.measurement.kernel_tables import known_tables

        tables = known_tables(read_machine())
        print_kernels(tables)
        write_json_file(json_file, {"kernels": [table.to_json() for table in tables]})
        return
    diagnosis = examine(device_test=device_test)
    print_diagnosis(diagnosis)
    write_json_file(json_file, diagnosis.to_json())
    if not diagnosis.healthy:
        raise typer.Exit(1)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for images, files and results.")] = Path("demo"),
    images: Annotated[int, typer.Option(min=8, help="Validation images to draw.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.0, help="Minimum measuring time per artifact, in seconds.")] = 3.0,
    threads: Threads = None,
) -> None:
    """Run every step on the shipped detector: draw images, export, calibrate, quantize, run, score."""
    from edgeq.cli.console import print_report
    from edgeq.verbs.demo import run_demo

    print_report(run_demo(out, images=images, seconds=seconds, threads=threads, say=typer.echo))
    say(f"wrote {out / 'report.md'}")
