"""`edgeq study`: parses, calls, prints."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgeq.cli import bundles
from edgeq.cli.data_set import open_for_evaluation
from edgeq.cli.names import MODEL
from edgeq.cli.options import (
    AllowOutside,
    CalibrationImages,
    ClassMap,
    JsonFile,
    Labels,
    PresetOption,
    Scheduler,
    ScoredImages,
    Size,
    SplitName,
    Threads,
    TrialStore,
    Weights,
    Workers,
    model_request,
    refuse_given,
    require_writable_json,
    write_json_file,
)
from edgeq.cli.printing import say
from edgeq.errors import InputError

if TYPE_CHECKING:
    from edgeq.results.study import StudyPoint, StudyResult
    from edgeq.studying.costs import StudyCost
    from edgeq.studying.trials import Planned
    from edgeq.verbs.study import StudyFiles
    from edgeq.verbs.study_engines import EngineStudy

_SHOWN = 20

_OF_IMAGES = frozenset({"split", "allow_outside", "class_map", "weights", "preset", "size", "labels"})
"""What `study` takes for models that images are shown to."""

_OF_TRIALS = frozenset(
    {
        "space", "axis", "blocks", "mixed", "sample", "trials", "max_drop", "margin", "useful_drop", "dry_run", "seed",
        "store", "measure", "workers", "scheduler",
    }
)  # fmt: skip
"""What `study` takes for trials of weights."""


def study(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Zoo name, package.module:factory, an .onnx file, or a bundle in FP32.", **MODEL
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="PATH",
            help="The data set to score on, of any format of `edgeq data`; of a bundle the questions.",
        ),
    ],
    space: Annotated[
        Path | None, typer.Option("--space", metavar="FILE", help="The axes, as TOML; see docs/study.md.")
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            metavar="NAME",
            help="A study that ships with edgeq: weights-bits, vit-layers, vlm-components for a bundle, or "
            "detector-edge, which scores and times a model's precisions in each engine.",
        ),
    ] = None,
    axis: Annotated[
        list[str] | None,
        typer.Option(
            "--axis",
            metavar="NAME=VALUES",
            help="Values of an axis: bits, granularity, method, calibration, activation, component, block or layer "
            "(bits=2,3,4); "
            "repeatable.",
        ),
    ] = None,
    blocks: Annotated[
        int | None, typer.Option(min=1, help="Number of groups of blocks; 3 are front, middle and end.")
    ] = None,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Each component, group of blocks and kind of layer has its own bits.")
    ] = False,
    sample: Annotated[
        Literal["grid", "random", "sobol", "adaptive"],
        typer.Option(help="Try all choices, or some: drawn, spread evenly, or chosen where the front is in doubt."),
    ] = "grid",
    trials: Annotated[int | None, typer.Option(min=1, help="How many to try, for all but grid.")] = None,
    max_drop: Annotated[
        float, typer.Option(metavar="POINTS", help="Points of the score that a recommended trial may lose.")
    ] = 0.5,
    margin: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="POINTS",
            help="Points within which it must hold on the other half of the images; by default what so many can "
            "confirm.",
        ),
    ] = None,
    useful_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="POINTS",
            help="A trial that loses as many points is useless; by default a tenth of FP32's score.",
        ),
    ] = None,
    images: ScoredImages = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many trials there are, and how many hours they take.")
    ] = False,
    calib: Annotated[
        Path | None,
        typer.Option(
            help="Images that methods go by, of a bundle questions with answers; by default the train split of --data."
        ),
    ] = None,
    num: CalibrationImages = 256,
    split: SplitName = None,
    allow_outside: AllowOutside = False,
    class_map: ClassMap = None,
    weights: Weights = None,
    preset: PresetOption = None,
    size: Size = None,
    labels: Labels = None,
    seed: Annotated[int, typer.Option(help="Draws trials, halves of the images and forests.")] = 0,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the report and the weights.")] = Path("study"),
    store: TrialStore = None,
    threads: Threads = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Write and time the files of the front's points.")
    ] = True,
    workers: Workers = None,
    scheduler: Scheduler = None,
    task: bundles.TaskOption = None,
    prompt: bundles.PromptOption = "",
    max_tokens: bundles.MaxTokens = 32,
    json_file: JsonFile = None,
) -> None:
    """Study what weights of few bits cost, by component, depth, kind of layer and method; rerun to resume."""
    from edgeq.studying.space import DETECTOR_EDGE, parse_axis, read_space, with_axes
    from edgeq.tuning.workers import executing
    from edgeq.verbs.sensitivity import calibration_of
    from edgeq.verbs.study import StudyOptions, study_cost, study_model
    from edgeq.verbs.study_bundle import BundleSubject, bundle_study_cost, study_bundle
    from edgeq.verbs.study_engines import study_engines

    require_writable_json(json_file)
    if template == DETECTOR_EDGE and not bundles.any_bundle([Path(model)]):
        refuse_given(context, _OF_TRIALS, f"is not for {DETECTOR_EDGE}, which compares files in engines")
    else:
        asked = with_axes(read_space(space, template), dict(map(parse_axis, axis or ())), blocks, mixed or None)
    options = StudyOptions(sample, trials, images, max_drop, margin, useful_drop, seed, threads, measure)
    if bundles.any_bundle([Path(model)]):
        refuse_given(context, _OF_IMAGES, "is not for a bundle, which answers the questions of --data")
        if task is None:
            raise InputError("a bundle answers questions; give `task`, and `data` with the questions")
        subject = BundleSubject(Path(model), task, data, calib, num, prompt, max_tokens)
        if dry_run:
            _show_cost(*bundle_study_cost(subject, asked, out, options=options, store=store), json_file)
            return
        with executing(workers, scheduler) as executor:
            parts = study_bundle(subject, asked, out, options=options, store=store, executor=executor)
        _show(parts, json_file)
        return
    refuse_given(
        context, {"task", "prompt", "max_tokens"}, "is not for a model in one file, whose preset says what it is for"
    )
    scored = open_for_evaluation(data, split, allow_outside, class_map or (), annotations=None, images=None)
    assert scored is not None  # noqa: S101 - `data` is given
    request = model_request(model, weights, preset, size, labels, target="x86-ort")
    source = calibration_of(data, calib, num, allow_outside=allow_outside)
    if not source.has_images:
        refuse_given(context, {"num"}, f"says how many images are read, and {calib} holds ranges")
    if template == DETECTOR_EDGE:
        _show_engines(study_engines(request, scored, source, out, images=images, threads=threads), json_file)
        return
    if dry_run:
        _show_cost(*study_cost(request, scored, source, asked, out, options=options, store=store), json_file)
        return
    with executing(workers, scheduler) as executor:
        found = study_model(request, scored, source, asked, out, options=options, store=store, executor=executor)
    _show(found, json_file)


def _show_engines(found: EngineStudy, json_file: Path | None) -> None:
    from edgeq.cli.console import print_table
    from edgeq.results.serialization import to_json

    print_table(found.cells())
    for line in (*found.notes, *map(str, found.files)):
        say(line)
    command = shlex.join(["edgeq", *sys.argv[1:]])
    write_json_file(json_file, {"entries": to_json(found.entries), "notes": list(found.notes), "command": command})


def _show(found: StudyFiles, json_file: Path | None) -> None:
    from edgeq.results.serialization import to_json

    _print(found.result)
    for path in found.files:
        say(str(path))
    command = shlex.join(["edgeq", *sys.argv[1:]])
    write_json_file(json_file, {**to_json(found.result), "command": command})


def _show_cost(planned: Planned, cost: StudyCost, json_file: Path | None) -> None:
    from edgeq.results.serialization import to_json
    from edgeq.studying.trials import described

    write_json_file(json_file, {"cost": to_json(cost), "trials": [each.name for each in planned.trials]})

    say(
        f"{cost.trials:,} trials of {planned.space:,} in the space, {cost.known:,} of them in the store: "
        f"{described(planned.cells)}"
    )
    for note in planned.notes:
        say(note)
    if planned.to_come:
        say(f"{planned.to_come:,} of the trials are chosen once others are scored; their weights are not counted")
    say(
        f"about {cost.hours:.2f} hours in one process: {cost.images:,} images per trial, {cost.image_ms:.2f} ms per "
        f"image (measured), and {cost.quantizing_s / 60:.1f} min to quantize"
    )
    say(
        f"shared: {cost.weights:,} weights of layers are quantized once, which trials take {cost.used:,} times "
        f"({cost.weight_bytes / 1e6:,.0f} MB on the disk)"
    )


def _print(result: StudyResult) -> None:
    """Prints the front, what is recommended, and what was left out."""
    from edgeq.cli.console import print_table

    timed = any(each.measured is not None for each in result.front)
    times = ("ms", "time / FP32", "peak MB") if timed else ()
    head = ("trial", "bits per weight", "MB", result.score, "points lost", "95 %", "gained, 95 %", *times)
    rows = [
        (
            each.name,
            f"{each.bits_per_weight:.2f}",
            f"{each.size_bytes / 1e6:.3g}",
            f"{each.score:.4f}",
            f"{each.loss.points:+.2f}",
            f"{each.loss.low:+.2f} to {each.loss.high:+.2f}",
            "" if each.gain is None else f"{each.gain.low:+.2f} to {each.gain.high:+.2f}",
            *(_times(each) if timed else ()),
        )
        for each in result.front[:_SHOWN]
    ]
    print_table([head, *rows])
    on_front = f"{len(result.front)} of {len(result.points):,} trials on the front and useful"
    say(f"{on_front}; {result.score} in FP32 {result.float_score:.4f}")
    for each in result.useless_front:
        say(f"on the front but useless: {each.name}, {each.useless}")
    for found in result.importance:
        shares = ", ".join(f"{each.part} {each.consensus:.2f}" for each in found.parts)
        say(
            f"importance by {found.axis}, {found.method}: {shares} (R² {found.forest_r2:.2f} out of bag, linear "
            f"{found.linear_r2:.2f})"
        )
    for advice in result.advice:
        say(advice.text)
        if advice.command:
            say(f"  {advice.command}")
    for note in result.notes:
        say(note)
    say(f"{result.obtained}: {result.environment.setup}")


def _times(point: StudyPoint) -> tuple[str, str, str]:
    """Returns time, time over FP32's and memory of a point; `~` marks times of a machine that was not steady."""
    found = point.measured
    if found is None:
        return "-", "-", "-"
    memory = "-" if found.peak_rss_bytes is None else f"{found.peak_rss_bytes / 1e6:.0f}"
    return f"{'' if found.steady else '~'}{found.p50_ms:.2f}", f"{found.ratio:.2f}", memory
