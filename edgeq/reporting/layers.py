"""The layers of files: what each takes by the engine's profiler, and what it leaves of the float model's signal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgeq.exporting.signal.ratio import LayerSignal
from edgeq.reporting.document import LayerRow, LayerTable
from edgeq.results.measurement import LayerProfile
from edgeq.results.rows import Row


def layer_tables(rows: Sequence[Row]) -> tuple[LayerTable, ...]:
    """Returns the layers of each row that tells of them; rows are numbered from 1.

    A file whose layers were timed in no engine is listed once, however many engines ran it: its signal is the file's.
    """
    tables = []
    timed = {row.digest for row in rows if row.timing is not None and row.timing.layers is not None}
    for number, row in enumerate(rows, start=1):
        profile = None if row.timing is None else row.timing.layers
        signal = next((each.signal for each in row.results if each.signal), ())
        if profile is not None:
            tables.append(_timed(number, profile, signal))
        elif signal and row.digest not in timed:
            tables.append(LayerTable(number, "", 0, {}, tuple(map(_untimed, signal))))
            timed.add(row.digest)
    return tuple(tables)


def _timed(number: int, profile: LayerProfile, signal: Sequence[LayerSignal]) -> LayerTable:
    total_ms = profile.total_ms or 1.0
    layers = list(_joined(profile, signal, total_ms))
    shares: dict[str, float] = {}
    for layer in layers:
        if layer.share is not None:
            shares[layer.precision] = shares.get(layer.precision, 0.0) + layer.share
    ordered = dict(sorted(shares.items(), key=lambda entry: -entry[1]))
    return LayerTable(number, profile.profiler, profile.runs, ordered, tuple(layers))


def _joined(profile: LayerProfile, signal: Sequence[LayerSignal], total_ms: float) -> Iterator[LayerRow]:
    """Yields the engine's layers with the signal behind the last node of each; then what the engine does not name."""
    left = {each.name: each for each in signal}
    for layer in profile.layers:
        found = [left.pop(name).snr_db for name in dict.fromkeys((layer.name, *layer.nodes)) if name in left]
        snr_db = found[-1] if found else None
        nodes = tuple(name for name in layer.nodes if name != layer.name)
        yield LayerRow(layer.name, layer.kind, layer.precision, layer.ms, layer.ms / total_ms, snr_db, nodes)
    yield from map(_untimed, left.values())


def _untimed(signal: LayerSignal) -> LayerRow:
    return LayerRow(signal.name, signal.op_type, "", None, None, signal.snr_db)
