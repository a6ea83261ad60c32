"""`edgeq predict`: parse, call the verb, print. `edgeq.cli.app` registers it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.cli.data_set import open_for_prediction
from edgeq.cli.names import RUNTIME, with_patterns
from edgeq.cli.options import AllowOutside, ClassMap, Data, Labels, SplitName, Threads
from edgeq.cli.printing import say
from edgeq.wording import counted

if TYPE_CHECKING:
    from edgeq.evaluation.findings import ImagePrediction


def predict(
    model: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A file of `edgeq export`, an engine, or a file of another tool."),
    ],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGES...",
            help="Images, folders, text files of paths; or a video (extra `video`).",
            callback=with_patterns,
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for the pictures, which have the names of the images.")],
    data: Data = None,
    split: SplitName = None,
    allow_outside: AllowOutside = False,
    class_map: ClassMap = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="For files without a manifest: how images are prepared and outputs are read (a name or .toml file)."
        ),
    ] = None,
    labels: Labels = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Score from which findings are drawn, by default 0.3; files hold all."),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw what another file finds next to it, and mark where they differ."),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(help="Draw the truth about a folder too, and say of differences whether they are right."),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="Also write yolo, coco, icdar or png, as the task has them; repeatable."),
    ] = None,
    every: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of a video, draw every N-th frame; by default each.")
    ] = None,
    runtime: Annotated[str | None, typer.Option(help="onnxruntime, openvino, litert or tensorrt.", **RUNTIME)] = None,
    compute: Annotated[
        str | None, typer.Option(help="Precision that float layers are computed in: f32 or bf16 (openvino).")
    ] = None,
    threads: Threads = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="DEVICE",
            help="Where to run: local (the default), ssh://[user@]host[:port] or a name of devices.toml.",
        ),
    ] = "local",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write what was found: one line of JSON per image.")
    ] = None,
) -> None:
    """Draw what a model finds in images. After an interruption, rerun the command to resume."""
    from edgeq.cli.options import require_writable_json
    from edgeq.files import write_text
    from edgeq.results.serialization import to_json
    from edgeq.verbs.predict import PredictOptions
    from edgeq.verbs.predict import predict as run

    require_writable_json(json_file)
    opened = open_for_prediction(
        data, split, allow_outside, class_map or (), annotations=annotations, images=images or ()
    )
    lines: dict[int, str] = {}

    def note(number: int, prediction: ImagePrediction) -> None:
        if json_file is not None:
            lines[number] = json.dumps(to_json(prediction))

    options = PredictOptions(
        preset=preset, labels=labels, runtime=runtime, compute=compute, threads=threads, device=device,
        threshold=threshold, compare=compare, annotations=annotations, data=opened, formats=tuple(formats or ()),
        every=every,
    )  # fmt: skip
    result = run(model, images or (), out, options, note)
    if json_file is not None:
        write_text(json_file, "".join(f"{lines[number]}\n" for number in sorted(lines)))
    resumed = f" ({result.resumed} of them by an interrupted run)" if result.resumed else ""
    say(
        f"{out}: {counted(result.images, 'picture')}{resumed}, "
        f"{counted(result.shown, 'finding')} shown from a score of {result.threshold:g}"
    )
