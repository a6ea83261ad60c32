"""`edgeq plan`: parses, calls a verb, prints a memory plan. `edgeq.cli.app` registers it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgeq.cli.options import JsonFile, require_writable_json, write_json_file
from edgeq.cli.printing import say
from edgeq.cli.words import as_options

if TYPE_CHECKING:
    from edgeq.results.memory_plan import MeasuredMemory, MemoryAdvice, MemoryPlan

_BAR_CELLS = 64
_MB = 1e6
_REST = "."


def plan(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A local Hugging Face folder, or its config.json; nothing else is read."),
    ],
    device: Annotated[
        str,
        typer.Option(help="orin-nano-4, orin-nano, orin-nx-8, orin-nx, agx-orin-32, agx-orin, or local: this machine."),
    ] = "orin-nx",
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of the device if it differs: 16GB, 7.4GiB.")
    ] = None,
    reserved: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What system and engine take of it; by default a stated assumption."),
    ] = None,
    context: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="Tokens, the image's included; by default 2048.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size of an image in pixels; by default the model's own.")
    ] = None,
    kv: Annotated[Literal["float", "int8"], typer.Option(help="What keys and values are stored in.")] = "float",
    part: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART=PRECISION",
            help="Fix a part's precision, such as vision=fp16 or decoder=w4g32a; repeatable.",
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also run the model here in FP32 with transformers, and compare.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Plan a language or vision-language model's memory on a device, from its config.json alone.

    Parameters and bytes per part, keys and values, activations, engine and system; the best precision per part that
    fits; and what to change if none does, which is exit code 1.
    """
    from edgeq.memory.boards import parse_bytes
    from edgeq.results.serialization import to_json
    from edgeq.sources.model import parse_size
    from edgeq.verbs.memory_plan import parse_pinned, plan_model

    require_writable_json(json_file)
    found = plan_model(
        model,
        device=device,
        memory_bytes=None if memory is None else parse_bytes(memory, "`memory`"),
        reserved_bytes=None if reserved is None else parse_bytes(reserved, "`reserved`"),
        context=context,
        image=None if image is None else parse_size(image, "`image`"),
        kv=kv,
        pinned=parse_pinned(tuple(part or ())),
        measure=measure,
    )
    print_memory_plan(found)
    write_json_file(json_file, to_json(found))
    if not found.fits:
        raise typer.Exit(1)


def print_memory_plan(plan: MemoryPlan) -> None:
    """Prints a plan: its parts, what is in memory, a bar of it, what was tried, and what is assumed."""
    from edgeq.cli.console import print_table

    say(_head(plan))
    print_table(_parts(plan))
    say()
    print_table(_use(plan))
    say(memory_bar(plan))
    say()
    print_table(_tried(plan))
    say(_verdict(plan))
    for each in plan.advice:
        say(f"  {each.change}: {each.precision} takes {each.total_bytes / 1e9:.2f} GB ({_options(each)})")
    for line in (*plan.assumptions, *_measured(plan.measured)):
        say(as_options(line))


def memory_bar(plan: MemoryPlan) -> str:
    """Returns a line of cells, each a share of the memory, with the first letter of what it holds.

    Letters in capitals are weights; what goes beyond the memory is behind its end.
    """
    pieces = _pieces(plan)
    scale = max(plan.budget_bytes, plan.use.total) / _BAR_CELLS
    cells, reached = "", 0
    for letter, size in pieces:
        reached += size
        cells += letter * (round(reached / scale) - len(cells))
    end = round(plan.budget_bytes / scale)
    cells = cells.ljust(end, _REST)
    return f"[{cells[:end]}]{cells[end:]}"


def _pieces(plan: MemoryPlan) -> list[tuple[str, int]]:
    use = plan.use
    further = [("k", use.cache), ("a", use.activations), ("e", use.engine), ("s", use.system)]
    return [*((name[0].upper(), size) for name, size in use.weights.items()), *further]


def _options(advice: MemoryAdvice) -> str:
    return " ".join(f"--{name} {value}" for name, values in advice.options.items() for value in values)


def _head(plan: MemoryPlan) -> str:
    head = f"{plan.model} ({plan.family}), {plan.parameters:,} parameters, on {plan.device}"
    texts = f"; context {plan.context:,} of {plan.most_tokens:,} tokens" if plan.most_tokens else ""
    if not plan.image:
        return head + texts
    takes = f" takes {plan.image_tokens:,} of them" if plan.image_tokens else ""
    attended = f", {plan.attended_tokens:,} more are attended to" if plan.attended_tokens else ""
    return f"{head}{texts}; an image of {plan.image[0]}x{plan.image[1]}{takes}{attended} ({plan.image_note})"


def _parts(plan: MemoryPlan) -> list[tuple[str, ...]]:
    precisions = list(plan.parts[0].bytes_by_precision)
    rows = [("part", "parameters", *(f"{each} MB" for each in precisions))]
    rows += [
        (each.name, f"{each.parameters:,}", *(_mb(each.bytes_by_precision[name]) for name in precisions))
        for each in plan.parts
    ]
    sums = [sum(each.bytes_by_precision[name] for each in plan.parts) for name in precisions]
    return [*rows, ("all", f"{plan.parameters:,}", *map(_mb, sums))]


def _use(plan: MemoryPlan) -> list[tuple[str, ...]]:
    use, chosen = plan.use, plan.shown
    rows: list[tuple[str, ...]] = [(f"in memory: {chosen.name}", "", "MB", "")]
    rows += [
        (f"{name} weights", chosen.precisions[name], _mb(size), name[0].upper()) for name, size in use.weights.items()
    ]
    if plan.cache_type:
        rows.append(("keys and values", plan.cache_type, _mb(use.cache), "k"))
    rows += [("activations", "", _mb(use.activations), "a"), ("engine", "", _mb(use.engine), "e")]
    rows += [("system", "", _mb(use.system), "s"), ("total", f"of {_mb(plan.budget_bytes)}", _mb(use.total), "")]
    return rows


def _tried(plan: MemoryPlan) -> list[tuple[str, ...]]:
    names = [part.name for part in plan.parts]
    rows = [("precision", *names, "weights GB", "total GB", "")]
    for each in plan.precisions:
        verdict = "fits" if each.fits else "does not fit"
        risk = ", risky: never recommended" if each.risky else ""
        stored = (each.precisions[name] for name in names)
        sizes = (f"{size / 1e9:.2f}" for size in (each.weight_bytes, each.total_bytes))
        rows.append((each.name, *stored, *sizes, f"{verdict}{risk}"))
    return rows


def _verdict(plan: MemoryPlan) -> str:
    if plan.chosen is None:
        return f"nothing fits in {plan.budget_bytes / 1e9:.2f} GB; what would:"
    left = (plan.budget_bytes - plan.use.total) / 1e9
    room = f", room for a context of {plan.most_context:,} tokens" if plan.most_context and plan.most_tokens else ""
    return f"recommended: {plan.chosen}, {left:.2f} GB left{room}"


def _measured(found: MeasuredMemory | None) -> list[str]:
    if found is None:
        return []
    pairs = (
        ("weights", found.weights, found.planned_weights),
        ("keys and values", found.cache, found.planned_cache),
        ("activations", found.activations, found.planned_activations),
        ("peak", found.peak, found.planned_peak),
    )
    figures = "; ".join(f"{name} {_mb(size)} MB, planned {_mb(planned)}" for name, size, planned in pairs)
    drawn = "drawn weights" if found.random_weights else "the folder's weights"
    image = " and an image" if found.with_image else ""
    return [
        f"measured here in FP32 with {found.engine} on {drawn}, {found.context:,} tokens{image}: {figures}; before it "
        f"had a model, the process took {_mb(found.engine_bytes)} MB"
    ]


def _mb(size: int) -> str:
    return f"{size / _MB:,.1f}"
