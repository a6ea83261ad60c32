"""A plot of a file's layers along the network: their time by precision, and the signal that is left behind each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeq.reporting.document import Document, LayerRow, LayerTable
from edgeq.reporting.plots import INK, MUTED, SERIES, Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = {"fp32": 0, "int8": 1, "fp16": 2, "bf16": 5}
_OTHER = len(SERIES) - 1
_WIDTH, _HEIGHT = 4.7, 1.7
_NAMED = 3
_LEAST = 0.005


def layer_plots(document: Document) -> dict[int, str]:
    """Returns number of a row -> plot of its layers."""
    found = {}
    for table in document.layers:
        entry = document.entry(table.entry)
        title = f"Layers of {entry.artifact} in {entry.engine}, in the order in which they run"
        found[table.entry] = plot_layers(table, title)
    return found


def plot_layers(table: LayerTable, title: str) -> str:
    """Returns the time of each layer as bars, and below it the signal-to-noise ratio; what is unknown is left out."""
    measured = [(number, layer) for number, layer in enumerate(table.layers) if layer.snr_db is not None]
    drawn = [bool(table.timed), bool(measured)]
    with Plot(_WIDTH, _HEIGHT * sum(drawn)) as plot:
        grid = plot.figure.subplots(sum(drawn), 1, squeeze=False, sharex=True)
        places = [row[0] for row in grid]
        if table.timed:
            _draw_times(places[0], table)
            plot.figure.legend(loc="outside upper left", ncols=4, handlelength=1.0, borderpad=0, labelcolor=INK)
        if measured:
            axes = places[-1]
            axes.plot(
                [number for number, _ in measured], [layer.snr_db for _, layer in measured], "o-",
                color=SERIES[1], markersize=3.5, linewidth=1.0,
            )  # fmt: skip
            axes.set_ylim(bottom=min(0.0, *(layer.snr_db or 0.0 for _, layer in measured)))
            axes.set_ylabel("signal, dB")
        places[-1].set_xlabel("layer, in the order of the network")
        return plot.svg(f"{title}. {_words(table, [layer for _, layer in measured])}")


def _draw_times(axes: Axes, table: LayerTable) -> None:
    for precision, share in table.shares.items():
        color = SERIES[_COLORS.get(precision, _OTHER)]
        members = [(number, layer.ms) for number, layer in enumerate(table.layers) if layer.precision == precision]
        timed = [(number, ms) for number, ms in members if ms is not None]
        label = f"{precision or 'not stated'}  {'<1%' if share < _LEAST else f'{share:.0%}'}"
        axes.bar([number for number, _ in timed], [ms for _, ms in timed], width=0.8, color=color, label=label)
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("ms")
    axes.tick_params(axis="x", color=MUTED)


def _words(table: LayerTable, measured: Sequence[LayerRow]) -> str:
    """Returns for those who do not see the plot which layers are slowest, and which are noisiest."""
    slow = sorted(table.timed, key=lambda layer: -(layer.ms or 0.0))[:_NAMED]
    noisy = sorted(measured, key=lambda layer: layer.snr_db or 0.0)[:_NAMED]
    parts = [f"{layer.name} {layer.ms:.3f} ms" for layer in slow]
    said = [f"Slowest: {', '.join(parts)}"] if parts else []
    parts = [f"{layer.name} {layer.snr_db:.1f} dB" for layer in noisy]
    return ". ".join([*said, f"Noisiest: {', '.join(parts)}"] if parts else said)
