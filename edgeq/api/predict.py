"""`edgeq.predict`: what a file finds in images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeq.api.arguments import (
    FilePath,
    Listener,
    Names,
    class_names,
    names,
    optional_path,
    path,
    paths,
    reporting,
    require_positive,
    scored_data,
)
from edgeq.devices.config import LOCAL
from edgeq.errors import InputError
from edgeq.evaluation.findings import ImagePrediction
from edgeq.verbs.predict import PredictOptions
from edgeq.verbs.predict import predict as run


def predict(
    model: FilePath,
    images: FilePath | Sequence[FilePath] | None = None,
    out: FilePath | None = None,
    *,
    data: FilePath | None = None,
    split: str | None = None,
    allow_outside: bool = False,
    map: Mapping[str, str] | None = None,
    preset: FilePath | None = None,
    labels: FilePath | Sequence[str] | None = None,
    threshold: float | None = None,
    compare: FilePath | None = None,
    annotations: FilePath | None = None,
    format: Names | None = None,
    every: int | None = None,
    runtime: str | None = None,
    compute: str | None = None,
    threads: int | None = None,
    device: str = LOCAL,
    progress: Listener = None,
) -> list[ImagePrediction]:
    """Returns what a file finds in each image: `prediction.shown`, or `.findings` with those of low scores too.

    Findings of a detector are boxes in the image's pixels; those of a classifier its best classes; docs/predict.md says
    what the other tasks find.

    Args:
        model: A file of `edgeq.export`, an engine of `edgeq build`, or an `.onnx` or `.tflite` file of another tool
            with a `preset`.
        images: Image files, folders, or text files of paths; or one video.
        data: Instead of images, a data set of any format that `edgeq data` knows; its truth is drawn too.
        split: Split of it to take; by default `val`, or else `test`.
        allow_outside: Whether files may be read that it names outside its own folder.
        map: Class name of the model -> name of the same class in `data`.
        out: Folder for a picture of each image; by default none is drawn.
        preset: For files without a manifest: how images are prepared and outputs are read.
        labels: For files without a manifest: class names, or the path of a file of them.
        threshold: Score from which findings are shown, 0..1; by default the task's: .3 for a detector.
        compare: Another file, whose findings are compared (`prediction.compared`) and drawn next to the first's.
        annotations: The truth about the images of one folder, drawn too.
        format: Files for other programs to write into `out`: `yolo`, `coco`, or what else the task has.
        every: Of a video, every so many-th frame is taken.
        runtime: `onnxruntime`, `openvino`, `litert` or `tensorrt`; by default the first of the file's target that is
            installed.
        compute: Precision that float layers are computed in (openvino): `f32` or `bf16`.
        threads: CPU threads of the engine; by default one per physical core.
        device: `local`, `ssh://[user@]host[:port]`, or a name of `devices.toml`.
        progress: Called for each job, returns an `edgeq.Progress`.

    Raises:
        InputError: an argument cannot be used, or no image can be read.
        MismatchError: a file is not the one that its manifest describes.
        ModelError: the decoder does not know the model's outputs.
        MissingDependencyError: an engine, or PyAV for a video, is not installed.
        EngineError: an engine refuses or fails to run a file.
        DeviceError: the device cannot be reached.
    """
    require_positive(threads, "threads")
    require_positive(every, "every")
    if threshold is not None and not (isinstance(threshold, int | float) and 0 <= threshold <= 1):
        raise InputError(f"`threshold` is {threshold!r}; wanted a score from 0 to 1")
    opened = scored_data(data, split, allow_outside, map, others=(images, annotations))
    if opened is None and images is None:
        raise InputError("`images` is missing; give images, or `data`")
    options = PredictOptions(
        preset=None if preset is None else str(path(preset, "preset")),
        labels=class_names(labels),
        runtime=runtime,
        compute=compute,
        threads=threads,
        device=device,
        threshold=threshold,
        compare=optional_path(compare, "compare"),
        annotations=optional_path(annotations, "annotations"),
        data=opened,
        formats=tuple(names(format)),
        every=every,
    )
    found: dict[int, ImagePrediction] = {}
    with reporting(progress):
        sources = () if images is None else paths(images, "images")
        run(path(model, "model"), sources, optional_path(out, "out"), options, found.__setitem__)
    return [found[number] for number in sorted(found)]
