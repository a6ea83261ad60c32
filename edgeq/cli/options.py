"""Options that several commands have, and what is done with them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeq.cli.names import METHOD, MODEL, PRESET

if TYPE_CHECKING:
    from edgeq.sources.model import ModelRequest

FLOAT_MODEL = typer.Argument(
    metavar="MODEL", help="Zoo name, package.module:factory, an .onnx or a float .tflite file.", **MODEL
)
ImagesDir = Annotated[Path | None, typer.Option("--images", help="Folder of the images of a COCO annotation file.")]
CalibrationMethod = Annotated[
    str | None,
    typer.Option(
        help="minmax, percentile, entropy, mse, lp (the default), or best: per tensor, the method with the least "
        "layer error on held-out images.",
        **METHOD,
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(help="Class names: a COCO .json, a text file with one name per line, or a comma-separated list."),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of the engine; by default one per physical core.")
]
CalibrationImages = Annotated[
    int, typer.Option("--num", min=1, help="Maximum number of calibration images (sampled evenly).")
]
ScoredImages = Annotated[int | None, typer.Option("--images", min=1, help="Maximum number of images to score on.")]
TrialStore = Annotated[
    Path | None,
    typer.Option(
        "--store", metavar="FILE", help="Where trials are kept, for `edgeq runs`; by default trials.sqlite in --out."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        metavar="N",
        help="Predict images, or answer questions, in N processes here, each with one thread by default.",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option("--scheduler", metavar="ADDRESS", help="Do so on the workers of a Dask cluster, as tcp://host:8786."),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="A data set: COCO, YOLO, Pascal VOC, CVAT, Label Studio or DOTA, text, masks, depth maps, a folder per "
        "class, a CSV, .npz, a folder of images, or a video.",
    ),
]
SplitName = Annotated[
    str | None,
    typer.Option("--split", metavar="NAME", help="Split of --data: by default train to calibrate, val to score."),
]
AllowOutside = Annotated[
    bool, typer.Option("--allow-outside", help="Read files that --data names outside its own folder too.")
]
ClassMap = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="MODEL=DATA", help="Class name of the model, and its name in --data; repeatable."),
]
PickOption = Annotated[
    str | None,
    typer.Option("--pick", help="Calibration images: even (evenly spaced, the default) or spread (by coverage)."),
]
Weights = Annotated[Path | None, typer.Option(help="Weights of a torch model: .safetensors or .pth.")]
PresetOption = Annotated[
    str | None,
    typer.Option(
        help="How images are prepared and outputs are read: a preset (see `edgeq presets`) or a .toml file, "
        "with single settings behind commas (yolov8,channel_order=bgr). By default the family is recognised.",
        **PRESET,
    ),
]
TrustedDecoders = Annotated[
    list[str] | None,
    typer.Option(
        "--decoder",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="A function that presets and manifests may name as decoder; repeatable. Files name no other code.",
    ),
]
Size = Annotated[str | None, typer.Option(metavar="HxW", help="Input size in pixels, if the model does not fix it.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results as JSON.")]


def refuse_given(context: typer.Context, names: Collection[str], why: str) -> None:
    """Refuses options that are given on the command line, or by its environment, and would change nothing.

    Args:
        context: Of the command.
        names: The parameters of the command's function.
        why: What the options are for, or why they have no place here.

    Raises:
        InputError: one of them is given.
    """
    from edgeq.errors import InputError

    for parameter in context.command.params:
        if parameter.name in names and is_given(context, parameter.name):
            is_off = context.params.get(parameter.name) is False and parameter.secondary_opts
            option = (parameter.secondary_opts if is_off else parameter.opts)[0]
            raise InputError(f"{option}: {why}; omit it")


def is_given(context: typer.Context, name: str) -> bool:
    """Returns whether a parameter of a command is given by who calls it, and not by a default or `edgeq.toml`."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


def model_request(
    model: str,
    weights: Path | None,
    preset: str | None,
    size: str | None,
    labels: str | None,
    *,
    opset: int | None = None,
    target: str = "x86",
    dynamic_batch: bool = False,
    take_scales: bool = False,
) -> ModelRequest:
    """Returns the model that a command's options name.

    Raises:
        InputError: the size cannot be read, or there is no such target.
    """
    from edgeq.sources.model import ModelRequest, parse_size
    from edgeq.targets import get_target

    return ModelRequest(
        reference=model,
        weights=weights,
        preset=preset,
        size=None if size is None else parse_size(size),
        labels=labels,
        opset=opset or get_target(target).rules.opset,
        dynamic_batch=dynamic_batch,
        take_scales=take_scales,
    )


def require_writable_json(json_file: Path | None) -> None:
    """Checks that what `--json` names, if it was given, can be written, before long work goes into it.

    Raises:
        InputError: it cannot.
    """
    from edgeq.files import require_writable

    if json_file is not None:
        require_writable(json_file)


def write_json_file(json_file: Path | None, document: Any) -> None:
    """Writes what `--json` names, if it was given."""
    from edgeq.files import write_json

    if json_file is not None:
        write_json(json_file, document)
