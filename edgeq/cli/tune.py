"""The commands that look for better files: parse, call a verb, print. `edgeq.cli.app` registers them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgeq.cli.data_set import open_for_evaluation
from edgeq.cli.names import MODEL, RUNTIME, TARGET
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
    from edgeq.results.sensitivity import ScoreChange, SensitivityResult


def tune(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Zoo name, package.module:factory, or an .onnx file.", **MODEL),
    ],
    data: Annotated[
        Path, typer.Option("--data", metavar="PATH", help="The data set to score on, of any format of `edgeq data`.")
    ],
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity", help="Show what each layer costs the score of the task in INT8, or as --precision says."
        ),
    ] = False,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            help="Points of the score that the file may lose against FP32; 0.5 without another limit.",
        ),
    ] = None,
    latency: Annotated[
        str | None, typer.Option(metavar="TIME", help="Maximum time per run: 12ms, or 0.5x of FP32's.")
    ] = None,
    file_size: Annotated[
        str | None, typer.Option(metavar="BYTES", help="Maximum size of the file: 4MB, or 0.5x of FP32's.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="Maximum memory while the engine runs the file: 80MB, or 0.5x of FP32's."),
    ] = None,
    energy: Annotated[
        str | None,
        typer.Option(metavar="JOULES", help="Maximum energy per image, if a sensor counts it: 20mJ, or 0.5x."),
    ] = None,
    unproved: Annotated[
        bool, typer.Option("--unproved", help="Judge --max-drop by the estimate, not by its 95 % interval.")
    ] = False,
    time_limit: Annotated[
        str | None, typer.Option("--time", metavar="TIME", help="Take the best so far after this time: 90s, 30m, 2h.")
    ] = None,
    by: Annotated[Literal["layer", "block"], typer.Option(help="What has one precision.")] = "layer",
    target: Annotated[
        str, typer.Option(help="Device whose INT8 layers are tried: x86, arm, jetson-orin, ...", **TARGET)
    ] = "x86",
    runtime: Annotated[
        str | None,
        typer.Option(
            "--runtime",
            help="Engine to score in; by default the target's first installed one for ONNX files. For arm litert tries "
            "TFLite files.",
            **RUNTIME,
        ),
    ] = None,
    images: ScoredImages = None,
    matters: Annotated[
        float,
        typer.Option(
            metavar="POINTS", help="With --sensitivity: loss from which a layer matters, in points of the score."
        ),
    ] = 0.5,
    precision: Annotated[
        Literal["int8", "w4a8"],
        typer.Option(help="With --sensitivity: what layers are tried in; w4a8 is weights of 4 bits, computed in INT8."),
    ] = "int8",
    calib: Annotated[
        Path | None,
        typer.Option(help="Ranges: a ranges file or images; by default the train split of --data."),
    ] = None,
    num: CalibrationImages = 512,
    split: SplitName = None,
    allow_outside: AllowOutside = False,
    class_map: ClassMap = None,
    weights: Weights = None,
    preset: PresetOption = None,
    size: Size = None,
    labels: Labels = None,
    seed: Annotated[int, typer.Option(help="Draws the order of the images.")] = 0,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the file, the ranges and the picture.")] = Path(
        "tuning"
    ),
    front: Annotated[
        bool, typer.Option("--front", help="Write all files of the front to --out/front, not only the recommended one.")
    ] = False,
    rounding: Annotated[
        Literal["nearest", "reconstruct"],
        typer.Option(help="reconstruct also learns how the weights of one more file are rounded, which takes minutes."),
    ] = "nearest",
    store: TrialStore = None,
    threads: Threads = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    mlflow: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="Log trials to this MLflow server or database (http://host:5000, sqlite:///mlflow.db); env for "
            "MLFLOW_TRACKING_URI.",
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            metavar="DEVICE",
            help="Where files are timed: local (the default), ssh://[user@]host[:port] or a name of devices.toml; "
            "several of one kind share the work.",
        ),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Find the best file of a model for a budget, or which of its layers are sensitive to INT8; rerun to resume."""
    from edgeq.cli.tuned import print_tuning
    from edgeq.results.serialization import to_json
    from edgeq.tuning.search_budget import Budget, parse_seconds
    from edgeq.tuning.search_choice import SearchOptions
    from edgeq.tuning.sensitivity import SensitivityOptions
    from edgeq.tuning.timing_devices import find_timing_devices
    from edgeq.tuning.workers import executing
    from edgeq.verbs.sensitivity import calibration_of, find_sensitivity
    from edgeq.verbs.tune import tune_model

    limits = (max_drop, latency, file_size, memory, energy)
    if sensitivity and (unproved or any(each is not None for each in (*limits, time_limit))):
        raise typer.BadParameter("--sensitivity knows no budget; omit --sensitivity, or the limits")
    if sensitivity and mlflow is not None:
        raise typer.BadParameter("is for a search; omit --sensitivity, or --mlflow", param_hint="--mlflow")
    if sensitivity and device:
        raise typer.BadParameter("--sensitivity times nothing; omit --device")
    if sensitivity and (front or rounding != "nearest"):
        raise typer.BadParameter("--sensitivity writes no files of a model; omit --front and --rounding")
    if precision != "int8" and not sensitivity:
        raise typer.BadParameter(
            "is for --sensitivity; a search takes 4 bits where --file-size asks for it", param_hint="--precision"
        )
    if not sensitivity:
        refuse_given(context, {"matters"}, "is for --sensitivity, which is not given")
    budget, devices = Budget.of(*limits), find_timing_devices(device or ())
    if unproved and budget.max_drop is None:
        raise InputError("--unproved: is for --max-drop, and no loss is limited; give --max-drop, or omit --unproved")
    seconds = None if time_limit is None else parse_seconds(time_limit)
    require_writable_json(json_file)
    scored = open_for_evaluation(data, split, allow_outside, class_map or (), annotations=None, images=None)
    assert scored is not None  # noqa: S101 - `data` is given
    request = model_request(model, weights, preset, size, labels, target=target)
    source = calibration_of(data, calib, num, allow_outside=allow_outside)
    if not source.has_images:
        refuse_given(context, {"num"}, f"says how many images are read, and {calib} holds ranges")
    paths: tuple[Path | None, ...]
    with executing(workers, scheduler) as executor:
        if sensitivity:
            asked = SensitivityOptions(
                matters=matters, images=images, runtime=runtime, seed=seed, threads=threads, precision=precision
            )
            found = find_sensitivity(
                request, target, scored, source, out, by=by, options=asked, store=store, executor=executor
            )
            _print(found.result)
            paths, document = (found.ranges, found.picture), to_json(found.result)
        else:
            wanted = SearchOptions(
                images=images, runtime=runtime, seed=seed, threads=threads, budget=budget, unproved=unproved
            )
            tuned = tune_model(
                request,
                target,
                scored,
                source,
                out,
                by=by,
                options=wanted,
                seconds=seconds,
                store=store,
                executor=executor,
                mlflow=mlflow,
                devices=devices,
                front=front,
                rounding=rounding,
            )
            print_tuning(tuned.result)
            paths, document = (tuned.ranges, tuned.picture, tuned.artifact.path), to_json(tuned.result)
    for path in paths:
        if path is not None:
            say(str(path))
    command = shlex.join(["edgeq", *sys.argv[1:]])
    write_json_file(json_file, {**document, "command": command})


def _print(result: SensitivityResult) -> None:
    """Prints the groups as a table, the most sensitive first, and below it what they were measured with."""
    from edgeq.cli.console import print_table

    precision = result.precision.upper()
    alone, rest_float = f"alone in {precision}: points lost", "alone in float: gained"
    rows: list[tuple[str, ...]] = [(result.by, alone, "95 %", "images", "dB", "verdict", rest_float, "95 %")]
    for group in result.ranked:
        own, rest = group.quantized_alone, group.float_alone
        rows.append(
            (group.name, *_cells(own.change), f"{own.snr_db:.1f}", own.verdict, *_cells(rest.change)[:2]),
        )
    print_table(rows)
    loss, score = result.loss, result.score
    share = result.images_scored / result.images_of_all
    say(
        f"{score} float {result.float_score:.4f}, all in {precision} {result.quantized_score:.4f}: "
        f"{loss.points:+.2f} points lost ({loss.low:+.2f} to {loss.high:+.2f}) on {loss.images} images"
    )
    say(
        f"images scored: {result.images_scored} of {result.images_of_all} ({share:.0%}); what was not scored was "
        f"screened in exact arithmetic on {result.screened_images} images"
    )
    say(f"{result.obtained}: {result.environment.setup}")


def _cells(change: ScoreChange | None) -> tuple[str, str, str]:
    """Returns points, their interval and images of a scored change; dashes where the screening decided."""
    if change is None:
        return "-", "-", "-"
    return f"{change.points:+.2f}", f"{change.low:+.2f} to {change.high:+.2f}", str(change.images)
