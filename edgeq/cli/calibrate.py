"""`edgeq calibrate`: parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgeq.cli import data_set
from edgeq.cli.options import (
    FLOAT_MODEL,
    AllowOutside,
    CalibrationImages,
    CalibrationMethod,
    Data,
    ImagesDir,
    PickOption,
    PresetOption,
    Size,
    SplitName,
    Threads,
    Weights,
    model_request,
    refuse_given,
)
from edgeq.cli.printing import say
from edgeq.wording import counted

if TYPE_CHECKING:
    from edgeq.inputs.coverage import Pick


def calibrate(
    context: typer.Context,
    model: Annotated[str | None, FLOAT_MODEL] = None,
    source: Annotated[
        Path | None,
        typer.Argument(metavar="IMAGES", help="A folder, a text file of paths, or a COCO .json with --images."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The ranges file to write.")] = Path("ranges.json"),
    method: CalibrationMethod = None,
    num: CalibrationImages = 512,
    images: ImagesDir = None,
    data: Data = None,
    split: SplitName = None,
    allow_outside: AllowOutside = False,
    pick: PickOption = None,
    earlier: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Earlier ranges file to apply another method to; needs no images."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Serve this target too; needed for installed ones only, edgeq's own are served; repeatable."),
    ] = None,
    percentile: Annotated[
        float | None, typer.Option(help="Percentage of the values that method percentile keeps.")
    ] = None,
    keep_samples: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Inputs to keep in the file, for tensors that only another format's files have, and as many to judge "
            "files on; 0 keeps none.",
        ),
    ] = 8,
    weights: Weights = None,
    preset: PresetOption = None,
    size: Size = None,
    threads: Threads = None,
) -> None:
    """Collect the ranges of a model's activations on representative images, once for every target and method."""
    if percentile is not None and method != "percentile":
        raise typer.BadParameter("requires --method percentile", param_hint="--percentile")
    options = {} if percentile is None else {"percentile": percentile}
    if earlier is not None:
        from edgeq.calibrators.ranges import Ranges

        refused = {"MODEL": model, "--images": images, "--weights": weights, "--preset": preset, "--size": size,
                   "--target": target, "--data": data, "--pick": pick}  # fmt: skip
        for name, value in refused.items():
            if value is not None:
                raise typer.BadParameter(f"cannot be combined with {name}: no model is run", param_hint="--from")
        unread = {"num", "keep_samples", "split", "allow_outside", "threads"}
        refuse_given(context, unread, f"says how a model is run on images, and {earlier} needs none")
        ranges = Ranges.load(earlier)
        changed = ranges.with_method(method or ranges.method, **options)
        changed.save(out)
        tensors = counted(len(changed.tensors), "tensor")
        say(f"{out}: {tensors} by {changed.method}, from {earlier}; no image was read")
        return
    if model is None or (source is None and data is None):
        raise typer.BadParameter("give MODEL and --data or IMAGES, or --from FILE")
    from edgeq.calibration.calibrate import DEFAULT_METHOD
    from edgeq.calibration.calibrate import calibrate as run
    from edgeq.evaluation.preset_proof import AnnotatedImages, proven_request
    from edgeq.inputs.images import list_images
    from edgeq.sources.model import open_float_model
    from edgeq.targets import get_target

    opened_data = data_set.open_for_calibration(data, split, allow_outside, calib=source, images=images)
    found = list_images(cast("Path", source), images) if opened_data is None else opened_data.items
    annotated = AnnotatedImages.of(source, images, opened_data)
    request = proven_request(model_request(model, weights, preset, size, None), annotated)
    opened = open_float_model(request)
    targets = [get_target(name) for name in target or ()]
    result = run(
        opened, found, out, method=method or DEFAULT_METHOD, options=options, num=num, threads=threads, targets=targets,
        keep_samples=keep_samples, pick=cast("Pick", pick or "even"),
    )  # fmt: skip
    resumed = f" ({result.resumed} of them in an interrupted run)" if result.resumed else ""
    skipped = f"; unreadable and skipped: {len(result.skipped)}" if result.skipped else ""
    inputs = {*result.ranges.samples, *result.ranges.strongest}
    kept = f"; inputs kept: {len(inputs)}" if inputs else ""
    say(
        f"{out}: {counted(len(result.ranges.tensors), 'tensor')} by {result.ranges.method}; "
        f"images counted: {result.images}{resumed}{skipped}{kept}"
    )
