"""The command line: parse, call a verb, print. No work happens here, and nothing heavy is imported early."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import edgeq
from edgeq.cli import (
    board,
    calibrate,
    data_set,
    deploy,
    export,
    machine,
    measure,
    memory_plan,
    predict,
    presets,
    quickstart,
    results,
    runs,
    score,
    study,
    tune,
)
from edgeq.cli.commands import Commands
from edgeq.cli.events import with_progress
from edgeq.cli.log import configure_logging, is_debugging
from edgeq.cli.options import TrustedDecoders
from edgeq.cli.printing import say
from edgeq.cli.progress import terminal_progress
from edgeq.cli.signals import interrupted_by_signals
from edgeq.cli.words import said_of
from edgeq.progress import reporting_to

app = typer.Typer(
    cls=Commands,
    name="edgeq",
    help="Calibrate a vision model once, export it to every engine, measure what it costs.",
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    decoder: TrustedDecoders = None,
) -> None:
    """Calibrate a vision model once, export it to every engine, measure what it costs."""
    if decoder:
        from edgeq.tasks.detection.decoders import trust_decoders

        trust_decoders(decoder)
    if version:
        say(f"edgeq {edgeq.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        from edgeq.verbs.quickstart import has_model

        if has_model(Path()):
            quickstart.quickstart()
            return
        typer.echo(context.get_help())
        raise typer.Exit(2)


app.command()(quickstart.quickstart)
app.command()(with_progress(export.export))
app.command()(with_progress(calibrate.calibrate))
app.command()(with_progress(measure.bench))
app.command("eval")(with_progress(measure.evaluate))
app.command("data")(data_set.data)
app.command()(with_progress(predict.predict))
app.command()(presets.presets)
app.command()(results.report)
app.command()(results.gate)
app.command()(board.check)
app.command()(with_progress(board.build))
app.command()(board.inspect)
app.command()(deploy.deploy)
app.command()(memory_plan.plan)
app.command()(score.score)
app.command()(with_progress(tune.tune))
app.command()(with_progress(study.study))
app.command()(runs.runs)
app.command()(machine.doctor)
app.command()(machine.demo)


def main() -> None:
    """Runs the command line; an error is one line and exit code 1, with a traceback only under `EDGEQ_DEBUG=1`."""
    configure_logging()
    try:
        with interrupted_by_signals(), reporting_to(terminal_progress):
            app(prog_name="edgeq")
    except Exception as error:
        if is_debugging():
            raise
        say(f"error: {said_of(error)}", err=True)
        sys.exit(1)
