"""`edgeq.benchmark` and `edgeq.evaluate`: files in their engines, on this machine or a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import edgeq
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
from edgeq.devices.config import LOCAL, find_devices
from edgeq.errors import InputError
from edgeq.machine import parse_cpus
from edgeq.measurement.timed_file import Sampling
from edgeq.results.evaluation import EvalResult, Score
from edgeq.results.measurement import BenchResult
from edgeq.verbs.attach import attach_results, require_attachable
from edgeq.verbs.on_devices import bench_on_devices, evaluate_on_devices
from edgeq.verbs.worst import diagnosed, reader, require_two
from edgeq.verbs.worst import save_worst as draw_worst


def benchmark(
    artifacts: FilePath | Sequence[FilePath],
    *,
    runtime: Names | None = None,
    compute: Names | None = None,
    threads: int | None = None,
    cpus: str | Sequence[int] | None = None,
    seconds: float = Sampling.min_s,
    hint: Literal["latency", "throughput"] = "latency",
    device: str = LOCAL,
    layers: bool = False,
    attach: bool = False,
    progress: Listener = None,
) -> list[BenchResult]:
    """Returns latency, throughput, memory and cold start: one result for each file, runtime and compute precision.

    The files take turns, so that their ratios hold; each runs in a process of its own.

    Args:
        artifacts: Files of `edgeq.export` (`result.paths`), engines of `edgeq build`, or `.onnx` and `.tflite` files of
            other tools.
        runtime: `onnxruntime`, `openvino`, `litert` or `tensorrt`: one, or several; by default the first of the file's
            target that is installed.
        compute: Precision that float layers are computed in (openvino): `f32`, `bf16`, or both.
        threads: CPU threads of each engine; by default one per physical core.
        cpus: The only CPUs to run on: `"0,2-3"`, or their numbers.
        seconds: Minimum measuring time per result, in seconds.
        hint: What to tune for: the `latency` of one request at a time, or the `throughput` of several (openvino).
        device: `local`, `ssh://[user@]host[:port]`, or a name of `devices.toml`.
        layers: Whether to time each layer too, by the engine's own profiler (`result.layers`).
        attach: Whether to keep the figures in the files' manifests too.
        progress: Called for each job, returns an `edgeq.Progress`.

    Raises:
        InputError: an argument cannot be used.
        MismatchError: a file is not the one that its manifest describes.
        EngineError: an engine refuses a file, or its process died; the error has the `results` of the other files, if
            there are any.
        DeviceError: the device cannot be reached.
    """
    require_positive(threads, "threads")
    if not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
        raise InputError(f"`seconds` is {seconds!r}; wanted a number of seconds, 0 or more")
    files = paths(artifacts, "artifacts")
    if attach:
        require_attachable(files)
    with reporting(progress):
        (outcome,) = bench_on_devices(
            find_devices([device]),
            files,
            names(runtime),
            compute_precisions=names(compute),
            threads=threads,
            cpus=parse_cpus(cpus) if isinstance(cpus, str) else cpus,
            sampling=Sampling(min_s=seconds, layers=layers),
            hint=hint,
        )
    found = [
        dataclasses.replace(result, edgeq=edgeq.__version__)
        for result in outcome.results
        if isinstance(result, BenchResult)
    ]
    if attach:
        attach_results(files, found)
    if outcome.error is not None:
        raise outcome.error
    return found


def evaluate(
    artifacts: FilePath | Sequence[FilePath],
    images: FilePath | None = None,
    annotations: FilePath | None = None,
    *,
    data: FilePath | None = None,
    split: str | None = None,
    allow_outside: bool = False,
    map: Mapping[str, str] | None = None,
    preset: FilePath | None = None,
    labels: FilePath | Sequence[str] | None = None,
    runtime: Names | None = None,
    simulate: str | None = None,
    threads: int | None = None,
    compute: Names | None = None,
    reference: FilePath | None = None,
    engine: str = "pycocotools",
    device: str = LOCAL,
    store: FilePath | None = None,
    save_worst: int | None = None,
    worst_dir: FilePath = "worst",
    attach: bool = False,
    progress: Listener = None,
) -> list[EvalResult[Score]]:
    """Returns scores on images: one result for each file, runtime and compute precision.

    Detectors get COCO's twelve numbers (`result.score.AP`), classifiers top-1 and top-5, embeddings their similarity to
    the float model's, and the other tasks what docs/tasks.md says.

    Args:
        artifacts: Files of `edgeq.export` (`result.paths`), engines of `edgeq build`, or `.onnx` and `.tflite` files of
            other tools with a `preset`.
        images: Folder of the images, or one with a sub-folder for each class.
        annotations: COCO `.json` for detectors; a `.json` or text file of image and class; or what docs/tasks.md
            says of the task.
        data: Instead of these two, a data set of any format that `edgeq data` knows.
        split: Split of it to take; by default `val`, or else `test`.
        allow_outside: Whether files may be read that it names outside its own folder.
        map: Class name of the model -> name of the same class in `data`.
        preset: For files without a manifest: how images are prepared and outputs are read.
        labels: For files without a manifest: class names, or the path of a file of them.
        runtime: See `benchmark`.
        simulate: Target whose engine is simulated on the CPU: `jetson-orin` or `rtx`.
        threads: CPU threads of the engine; by default one per physical core.
        compute: See `benchmark`.
        reference: Float model to compare embeddings with; by default the fp32 file among `artifacts`.
        engine: COCO evaluator: `pycocotools` or `faster`.
        device: See `benchmark`.
        store: File that predictions are kept in, which several runs may share: what it has of a file, an engine and an
            image is not computed again.
        save_worst: How many images to draw of those on which each file differs most from the fp32 file among
            `artifacts`; the results then say why they are wrong (`result.diagnosis`).
        worst_dir: Folder for these pictures.
        attach: See `benchmark`.
        progress: Called for each job, returns an `edgeq.Progress`.

    Raises:
        InputError: an argument cannot be used, a file has no decoder or other classes than the annotations, or more
            than 5 % of the images cannot be read.
        MismatchError: a file is not the one that its manifest describes.
        ModelError: the decoder does not know the model's outputs.
        EngineError: an engine refuses or fails to run a file.
        DeviceError: the device cannot be reached.
    """
    require_positive(threads, "threads")
    opened = scored_data(data, split, allow_outside, map, others=(images, annotations))
    require_positive(save_worst, "save_worst")
    files = paths(artifacts, "artifacts")
    if save_worst is not None:
        require_two(files)
    if attach:
        require_attachable(files)
    with reporting(progress):
        (outcome,) = evaluate_on_devices(
            find_devices([device]),
            files,
            optional_path(annotations, "annotations"),
            optional_path(images, "images"),
            data=opened,
            runtimes=names(runtime),
            simulate=simulate,
            compute_precisions=names(compute),
            threads=threads,
            engine=engine,
            preset=None if preset is None else str(path(preset, "preset")),
            labels=class_names(labels),
            reference=optional_path(reference, "reference"),
            store=optional_path(store, "store"),
        )
    results = outcome.results
    if save_worst is not None:
        draw_worst(results, reader(optional_path(images, "images"), opened), save_worst, path(worst_dir, "worst_dir"))
        results = diagnosed(results)
    found = [
        dataclasses.replace(result, edgeq=edgeq.__version__) for result in results if isinstance(result, EvalResult)
    ]
    if attach:
        attach_results(files, found)
    return found
