"""`edgeq runs`: the trials of a store; parses, calls, prints. `edgeq.cli.app` registers it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.cli.options import refuse_given
from edgeq.cli.printing import say

if TYPE_CHECKING:
    from edgeq.tuning.store import Selection, Store, TrialRow

_SHOWN = 50
_DESCENDING = ":desc"
_CHOOSE, _EXPORT = ("model", "plan", "sort", "limit"), ("csv_file", "parquet_file")


def runs(
    context: typer.Context,
    store: Annotated[Path, typer.Argument(metavar="STORE", help="What `edgeq tune` wrote: DIR/trials.sqlite.")],
    model: Annotated[str, typer.Option(metavar="TEXT", help="Only trials of models with this in their name.")] = "",
    plan: Annotated[str, typer.Option(metavar="TEXT", help="Only trials with this in their plan.")] = "",
    sort: Annotated[
        str | None,
        typer.Option(metavar="MEASURE[:desc]", help="Order by a measure, or by ms: the smallest or largest first."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="Maximum number of trials: the newest, or the first by --sort. 50 are printed by default."
        ),
    ] = None,
    compare: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="A B", help="Compare two trials by their numbers: measures, and equal predictions."),
    ] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the trials as CSV.")] = None,
    parquet_file: Annotated[
        Path | None, typer.Option("--parquet", metavar="FILE", help="Write the trials as Parquet.")
    ] = None,
    salvaged: Annotated[
        Path | None,
        typer.Option("--salvage", metavar="FILE", help="Copy what can be read of a damaged store to a new one."),
    ] = None,
) -> None:
    """List the trials of a store, compare two of them, export them, or salvage a damaged store."""
    from edgeq.files import require_writable
    from edgeq.tuning.store import Selection, Store
    from edgeq.tuning.store_exports import write_csv, write_parquet

    if salvaged is not None:
        refuse_given(context, {*_CHOOSE, *_EXPORT, "compare"}, "is for a store that is whole; salvage it first")
        _salvage(store, salvaged)
        return
    exports = [(path, write) for path, write in ((csv_file, write_csv), (parquet_file, write_parquet)) if path]
    if compare is not None and not exports:
        refuse_given(context, _CHOOSE, "chooses trials to list or to write, and --compare names two")
    for path, _ in exports:
        require_writable(path)
    with Store(store, create=False) as opened:
        measure = None if sort is None else sort.removesuffix(_DESCENDING)
        selection = Selection(model, plan, measure, sort is not None and sort.endswith(_DESCENDING), limit)
        if compare is None:
            _list(opened, selection)
        else:
            _compare(opened, *compare)
        for path, write in exports:
            write(opened, selection, path)
            say(str(path))


def _salvage(damaged: Path, out: Path) -> None:
    """Copies what can be read of a store, and prints how much that is."""
    from edgeq.tuning.store_salvage import salvage
    from edgeq.wording import counted

    found = salvage(damaged, out)
    say(
        f"{out}: {counted(found.trials, 'trial')}, {counted(found.predictions, 'prediction')}, "
        f"{counted(found.measures, 'measure')}"
    )


def _list(store: Store, selection: Selection) -> None:
    """Prints trials, a line each, and below them how many there are if these are not all."""
    import dataclasses

    from edgeq.cli.console import print_table
    from edgeq.tuning.store import TIME

    rows = store.rows(dataclasses.replace(selection, limit=selection.limit or _SHOWN))
    if selection.sort is not None and not rows:
        known = [TIME, *store.measure_names()]
        if selection.sort not in known:
            raise typer.BadParameter(
                f"no trial has the measure {selection.sort!r}; known: {', '.join(known[:20])}", param_hint="--sort"
            )
    cells = [
        (str(row.number), row.facts.get("plan", ""), row.facts.get("model", ""), str(row.images), _figures(row))
        for row in rows
    ]
    print_table([("trial", "plan", "model", "images", "measured"), *cells])
    if len(rows) < (total := store.count()):
        say(f"{len(rows)} of {total:,} trials; see --model, --plan, --sort and --limit")


def _compare(store: Store, one: int, other: int) -> None:
    """Prints what was measured of two trials, with the change."""
    from edgeq.cli.console import print_table
    from edgeq.tuning.store import Selection

    rows = store.find((one, other))
    for number in (one, other):
        if number not in rows:
            newest = next((row.number for row in store.rows(Selection(limit=1))), 0)
            raise typer.BadParameter(
                f"trial {number} is missing; the store's newest is {newest}", param_hint="--compare"
            )
    first_values, second_values = _measured(rows[one]), _measured(rows[other])
    pairs = [(name, value, second_values[name]) for name, value in first_values.items() if name in second_values]
    cells = [(name, f"{first:.5g}", f"{second:.5g}", f"{second - first:+.4g}") for name, first, second in pairs]
    print_table([("measure", *(rows[number].facts.get("plan", "") for number in (one, other)), "change"), *cells])
    both, same = store.agreement(one, other)
    say(f"predictions of both: {both} images, the same on {same}")


def _figures(row: TrialRow) -> str:
    """Returns the measures and the time of a trial in one cell, but for the noise of single outputs."""
    return ", ".join(f"{name} {value:.4g}" for name, value in _measured(row).items() if "." not in name)


def _measured(row: TrialRow) -> dict[str, float]:
    """Returns name -> value of what was measured of a trial, its time included."""
    timing = row.timing
    if timing is None:
        return dict(row.measures)
    ratio = {} if timing.ratio is None else {"time by float's": timing.ratio}
    return {**row.measures, "ms": timing.median_ms, **ratio}
