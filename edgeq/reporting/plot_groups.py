"""Which rows of a report share a plot."""

from __future__ import annotations

from edgeq.reporting.document import Curve, Document, Entry, Errors, LatencySeries
from edgeq.reporting.plots import plot_errors, plot_latency, plot_scores, plot_tradeoff
from edgeq.results.rows import LOCAL


def tradeoffs(document: Document) -> list[tuple[str, str]]:
    """Returns title and plot for each model, data set and device that has several timed and scored rows."""
    groups: dict[tuple[str, str | None, str], list[Entry]] = {}
    for entry in document.entries:
        if entry.p50_ms is not None and entry.score is not None:
            groups.setdefault((entry.model, entry.data, entry.device), []).append(entry)
    engines = list(dict.fromkeys(entry.runtime for entries in groups.values() for entry in entries))
    return [
        (
            _place(document, model, device),
            plot_tradeoff(entries, engines, f"Accuracy against latency, {model} on {device}"),
        )
        for (model, _, device), entries in groups.items()
        if len(entries) > 1
    ]


def score_plots(document: Document) -> list[tuple[str, str]]:
    """Returns title and plot for each model and device: FP32 and its fastest and worst companions."""
    groups: dict[tuple[str, str], list[tuple[Entry, Curve]]] = {}
    for curve in document.curves:
        entry = document.entry(curve.entry)
        groups.setdefault((entry.model, entry.device), []).append((entry, curve))
    plots = []
    for (model, device), members in groups.items():
        moved = [member for member in members if member[1].shift is not None]
        if not moved:
            continue
        worst = max(moved, key=lambda member: abs(member[1].shift or 0))
        reference = [member for member in members if member[0].number == worst[0].reference]
        title = f"F1 against the score threshold, {model} on {device}"
        plots.append((_place(document, model, device), plot_scores([*reference, worst], title)))
    return plots


def error_plots(document: Document) -> list[tuple[str, str]]:
    """Returns title and plot for each model and device: FP32 and the file whose scores are least reliable."""
    groups: dict[tuple[str, str], list[tuple[Entry, Errors]]] = {}
    for errors in document.errors:
        if errors.diagnosis.reliability:
            entry = document.entry(errors.entry)
            groups.setdefault((entry.model, entry.device), []).append((entry, errors))
    plots = []
    for (model, device), members in groups.items():
        worst = max(members, key=lambda member: member[1].diagnosis.calibration_error or 0.0)
        reference = [member for member in members if member[0].number == worst[1].reference]
        title = f"Precision by recall and reliability of scores, {model} on {device}"
        drawn = [(entry, errors.diagnosis) for entry, errors in [*reference, worst]]
        plots.append((_place(document, model, device), plot_errors(drawn, title)))
    return plots


def latency_plots(document: Document) -> list[tuple[str, str]]:
    """Returns title and plot for each model and device."""
    groups: dict[tuple[str, str], list[tuple[Entry, LatencySeries]]] = {}
    for series in document.latency:
        entry = document.entry(series.entry)
        groups.setdefault((entry.model, entry.device), []).append((entry, series))
    return [
        (_place(document, model, device), plot_latency(members, f"Latency of every run, {model} on {device}"))
        for (model, device), members in groups.items()
    ]


def _place(document: Document, model: str, device: str) -> str:
    return model if {entry.device for entry in document.entries} == {LOCAL} else f"{model} on {device}"
