"""What `edgeq tune` prints of a search: the files that were tried, the one to take, and the reason for each layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgeq.cli.printing import say
from edgeq.wording import compared_with_fp32

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeq.results.tuning import TunedFile, TunedGroup, TuningResult

_SHOWN_GROUPS = 12


def print_tuning(result: TuningResult) -> None:
    """Prints a result: a table of files, the fastest first, and below it what was chosen and why."""
    from edgeq.cli.console import print_table

    usage = [name for name in _USAGE if any(_USAGE[name](each) for each in result.files)]
    scored = ("file", result.score, "points lost", "95 %", "images")
    head = (*scored, "time over FP32", "MB", *usage, "int8 layers", "of 4 bits", "")
    print_table([head, *(_row(each, result, usage) for each in result.files)])
    chosen = result.chosen
    proof = "" if result.proved else ", which so few images do not prove"
    named = f"{chosen.name} ({chosen.recipe})" if chosen.recipe else chosen.name
    say(f"recommended: {named}, {_lost(chosen)}{proof}, {compared_with_fp32(chosen.latency.ratio)}")
    if result.images_to_prove is not None:
        say(
            f"{result.unproved} is faster, and within the budget by its estimate alone; about {result.images_to_prove} "
            "images would prove that, or give --unproved"
        )
    kept = [group for group in result.groups if group.precision == "float" and chosen.int8_layers]
    _print_groups(sorted(kept, key=lambda group: -group.points), f"{result.by}s in float")
    narrow = [group for group in result.groups if group.precision == "w4a8"]
    _print_groups(sorted(narrow, key=lambda group: -group.size_bytes), f"{result.by}s with weights of 4 bits")
    share = result.images_scored / max(result.images_of_all, 1)
    ended = "; the time limit ended the search" if result.stopped == "time" else ""
    say(f"{result.trials} files, {result.images_scored} images scored ({share:.0%} of all for all files){ended}")
    say(f"times of layers: {result.time_source}; those of files without an interval are estimated from them")
    if result.devices:
        say(f"files timed on {', '.join(result.devices)}: {result.timed_in}, {result.timed_on}")
    say(f"{result.obtained}: {result.environment.setup}")


def _print_groups(groups: Sequence[TunedGroup], what: str) -> None:
    for group in groups[:_SHOWN_GROUPS]:
        say(f"  {group.name}: {group.reason}")
    if len(groups) > _SHOWN_GROUPS:
        say(f"  and {len(groups) - _SHOWN_GROUPS} more {what}; --json says why")


def _memory(file: TunedFile) -> str:
    return "" if file.memory_bytes is None else f"{file.memory_bytes / 1e6:.4g}"


def _energy(file: TunedFile) -> str:
    return "" if file.j_per_image is None else f"{file.j_per_image:.3g}"


_USAGE: dict[str, Callable[[TunedFile], str]] = {"memory MB": _memory, "J per image": _energy}
"""Columns of what was measured of some file only -> their cells."""


def _row(file: TunedFile, result: TuningResult, usage: Sequence[str]) -> tuple[str, ...]:
    loss, latency = file.loss, file.latency
    spread = "" if latency.low is None or latency.high is None else f" ({latency.low:.2f} to {latency.high:.2f})"
    notes = [
        *(["recommended"] if file.name == result.recommended else []),
        *(["front"] if file.on_front else []),
        *([f"dropped: {file.dropped}"] if file.dropped else []),
    ]
    return (
        file.name,
        "-" if file.score is None else f"{file.score:.4f}",
        "-" if loss is None else f"{loss.points:+.2f}",
        "-" if loss is None else f"{loss.low:+.2f} to {loss.high:+.2f}",
        str(result.images if loss is None and file.score is not None else 0 if loss is None else loss.images),
        f"{'' if spread else '~'}{latency.ratio:.3f}{spread}",
        f"{file.size_bytes / 1e6:.3g}",
        *(_USAGE[name](file) for name in usage),
        str(file.int8_layers),
        str(file.w4a8_layers or "-"),
        ", ".join(notes),
    )


def _lost(file: TunedFile) -> str:
    if file.loss is None:
        return "no points lost"
    return f"{file.loss.points:+.2f} points lost ({file.loss.low:+.2f} to {file.loss.high:+.2f})"
