"""The commands that run files: parse, call a verb, print. `edgeq.cli.app` registers them."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import edgeq
from edgeq.cli import bundles
from edgeq.cli.data_set import open_for_evaluation
from edgeq.cli.names import PRESET, RUNTIME, TARGET, with_patterns
from edgeq.cli.options import (
    AllowOutside,
    ClassMap,
    Data,
    JsonFile,
    Labels,
    SplitName,
    Threads,
    refuse_given,
    require_writable_json,
    write_json_file,
)
from edgeq.cli.printing import say

if TYPE_CHECKING:
    from edgeq.results.reading import Result
    from edgeq.results.rows import Row
    from edgeq.results.table import Column
    from edgeq.verbs.on_devices import Outcome

Artifacts = Annotated[
    list[Path],
    typer.Argument(
        metavar="ARTIFACT...",
        help="Files or bundles of `edgeq export`, engines of `edgeq build`, or .onnx and .tflite files of other tools.",
        callback=with_patterns,
    ),
]
RuntimeOption = Annotated[
    list[str] | None,
    typer.Option("--runtime", help="onnxruntime, openvino, litert, tensorrt or tensorrt-rtx; repeatable.", **RUNTIME),
]
Compute = Annotated[
    list[str] | None,
    typer.Option(help="Precision that float layers are computed in: f32 or bf16 (openvino); repeatable."),
]
Attach = Annotated[
    bool, typer.Option("--attach", help="Keep the figures in the files' manifests too; `edgeq inspect` shows them.")
]
DeviceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Where to run: local (the default), ssh://[user@]host[:port] or a name of devices.toml; repeatable.",
    ),
]

_OF_FILES = frozenset(
    {
        "annotations", "split", "allow_outside", "class_map", "preset", "labels", "simulate", "compute", "reference",
        "engine", "device", "store", "worst", "worst_dir", "attach",
    }
)  # fmt: skip
"""What `eval` takes for models in one file alone."""


def bench(
    context: typer.Context,
    artifacts: Artifacts,
    runtime: RuntimeOption = None,
    threads: Threads = None,
    compute: Compute = None,
    cpus: Annotated[
        str | None, typer.Option(metavar="LIST", help="The only CPUs to run on, for example 0,2-3.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="Minimum measuring time per artifact, in seconds.")] = 3.0,
    hint: Annotated[
        Literal["latency", "throughput"],
        typer.Option(help="openvino: tune for one request at a time, or for several at the same time."),
    ] = "latency",
    layers: Annotated[
        bool, typer.Option("--layers", help="Time each layer too, by the engine's own profiler; for `edgeq report`.")
    ] = False,
    device: DeviceOption = None,
    prompt_tokens: bundles.PromptTokens = 128,
    new_tokens: bundles.NewTokens = 32,
    attach: Attach = False,
    json_file: JsonFile = None,
) -> None:
    """Measure latency, throughput, memory and cold start, artifacts interleaved so that their ratios hold.

    For TensorRT engines the environment decides: EDGEQ_CUDA=pycuda, cudart or torch forces a CUDA binding,
    EDGEQ_ZERO_COPY=1 lets the GPU work in the host's memory, EDGEQ_CUDA_GRAPH=1 launches all kernels in one call.
    """
    from edgeq.devices.config import find_devices
    from edgeq.machine import parse_cpus
    from edgeq.measurement.timed_file import Sampling
    from edgeq.results.table import TIMING
    from edgeq.verbs.on_devices import bench_on_devices

    require_writable_json(json_file)
    if bundles.any_bundle(artifacts):
        refuse_given(context, {"compute", "cpus", "hint", "layers", "device", "attach"}, bundles.NOT_FOR_BUNDLES)
        from edgeq.generation.benchmark import GenerationSampling
        from edgeq.verbs.bundles import time_bundles

        wanted = GenerationSampling(prompt_tokens, new_tokens, seconds=seconds)
        timed = time_bundles(artifacts, runtime or (), threads=threads, sampling=wanted)
        bundles.print_speed(timed)
        _write(timed, json_file)
        return
    refuse_given(context, {"prompt_tokens", "new_tokens"}, bundles.FOR_BUNDLES)
    _require_attachable(artifacts, attach)
    outcomes = bench_on_devices(
        find_devices(device or ["local"]),
        artifacts,
        runtime or (),
        compute_precisions=compute or (),
        threads=threads,
        cpus=None if cpus is None else parse_cpus(cpus),
        sampling=Sampling(min_s=seconds, layers=layers),
        hint=hint,
        on_results=lambda results: _write(results, json_file),
    )
    _attach(artifacts, [result for outcome in outcomes for result in outcome.results], attach)
    _show(outcomes, lambda _rows: TIMING)


def evaluate(
    context: typer.Context,
    artifacts: Artifacts,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images, or one with a sub-folder for each class.")
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="COCO .json for detectors, a .json or text file of image and class, or as docs/tasks.md says."
        ),
    ] = None,
    data: Data = None,
    split: SplitName = None,
    allow_outside: AllowOutside = False,
    class_map: ClassMap = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="For files without a manifest: how images are prepared and outputs are read (a name or .toml file); "
            "by default it is recognised, and proven on the annotations.",
            **PRESET,
        ),
    ] = None,
    labels: Labels = None,
    runtime: RuntimeOption = None,
    simulate: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET", help="Simulate the engine of this target on the CPU: jetson-orin or rtx.", **TARGET
        ),
    ] = None,
    threads: Threads = None,
    compute: Compute = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Float model to compare embeddings with; by default the fp32 file among ARTIFACT..."),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="COCO evaluator: pycocotools, or faster (extra `faster`).")
    ] = "pycocotools",
    device: DeviceOption = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep predictions in this store: what it has is not computed again."),
    ] = None,
    worst: Annotated[
        int | None,
        typer.Option(
            "--save-worst",
            min=1,
            metavar="N",
            help="Draw the N images on which each file differs most from FP32, and say which kinds of error changed.",
        ),
    ] = None,
    worst_dir: Annotated[Path, typer.Option(help="Folder for the pictures of --save-worst.")] = Path("worst"),
    task: bundles.TaskOption = None,
    prompt: bundles.PromptOption = "",
    max_tokens: bundles.MaxTokens = 32,
    beams: bundles.Beams = 1,
    batch: bundles.Batch = 8,
    stride: bundles.Stride = None,
    answers: bundles.AnswersDir = Path("answers"),
    attach: Attach = False,
    json_file: JsonFile = None,
) -> None:
    """Score models on images: detectors (COCO's twelve numbers), classifiers (top-1, top-5) and other tasks."""
    if bundles.any_bundle(artifacts):
        refuse_given(context, _OF_FILES, bundles.NOT_FOR_BUNDLES)
        bundles.evaluate_bundles(
            artifacts, task=task, data=data, images=images, runtimes=runtime or (), threads=threads, template=prompt,
            max_tokens=max_tokens, beams=beams, batch=batch, stride=stride, answers=answers, json_file=json_file,
        )  # fmt: skip
        return
    refuse_given(context, {"task", "prompt", "max_tokens", "beams", "batch", "stride", "answers"}, bundles.FOR_BUNDLES)
    _require_attachable(artifacts, attach)
    from edgeq.cli.console import print_classes, print_worst
    from edgeq.devices.config import find_devices
    from edgeq.results.evaluation import EvalResult
    from edgeq.results.table import evaluation_columns
    from edgeq.verbs.on_devices import evaluate_on_devices
    from edgeq.verbs.worst import diagnosed, reader, require_two, save_worst

    require_writable_json(json_file)
    if worst is not None:
        require_two(artifacts)
    else:
        refuse_given(context, {"worst_dir"}, "is for the pictures of --save-worst, which is not given")
    opened = open_for_evaluation(data, split, allow_outside, class_map or (), annotations=annotations, images=images)
    outcomes = evaluate_on_devices(
        find_devices(device or ["local"]),
        artifacts,
        annotations,
        images,
        data=opened,
        runtimes=runtime or (),
        simulate=simulate,
        compute_precisions=compute or (),
        threads=threads,
        engine=engine,
        preset=preset,
        labels=labels,
        reference=reference,
        store=store,
        on_results=lambda results: _write(results, json_file),
    )
    found = [result for outcome in outcomes for result in outcome.results if isinstance(result, EvalResult)]
    scores = [result.score for result in found]
    _attach(artifacts, found, attach)
    _show(outcomes, evaluation_columns, [f"task: {score.task}" for score in scores[:1]])
    if len(scores) == 1:
        print_classes(scores[0])
    if worst is not None:
        results = [result for outcome in outcomes for result in outcome.results]
        print_worst(save_worst(results, reader(images, opened), worst, worst_dir))
        _write(diagnosed(results), json_file)
    doubtful = [result.artifact for result in found if any(each.meaningless for each in result.suspicions)]
    if doubtful:
        say(f"error: the figures of {', '.join(dict.fromkeys(doubtful))} are meaningless: see above", err=True)
        raise typer.Exit(1)


def _require_attachable(artifacts: Sequence[Path], attach: bool) -> None:
    """Refuses `--attach` for what has no manifest, before anything is run."""
    if attach:
        from edgeq.verbs.attach import require_attachable

        require_attachable(artifacts)


def _attach(artifacts: Sequence[Path], results: Sequence[Result], attach: bool) -> None:
    """Keeps results in the manifests of their files, if that was asked for."""
    if attach:
        from edgeq.verbs.attach import attach_results

        attach_results(artifacts, list(map(_stamped, results)))


def _stamped(result: Result) -> Result:
    """Returns a result with the command that made it."""
    return dataclasses.replace(result, edgeq=edgeq.__version__, command=shlex.join(["edgeq", *sys.argv[1:]]))


def _write(results: Sequence[Result], json_file: Path | None) -> None:
    """Writes results with the command that made them: one object for one artifact, a list for several."""
    from edgeq.results.serialization import to_json

    written = [to_json(_stamped(result)) for result in results]
    write_json_file(json_file, written[0] if len(written) == 1 else written)


def _show(
    outcomes: Sequence[Outcome], columns: Callable[[Sequence[Row]], Sequence[Column]], lines: Sequence[str] = ()
) -> None:
    """Prints the results of all devices as a table, lines below it, and which devices failed, which is exit code 1."""
    from edgeq.cli.console import print_failures, print_report
    from edgeq.results.rows import merge

    results = [result for outcome in outcomes for result in outcome.results]
    if results:
        rows = merge(results)
        print_report(rows, columns(rows))
    for line in lines:
        say(line)
    errors = {outcome.device: str(outcome.error) for outcome in outcomes if outcome.error}
    if errors:
        print_failures(errors)
        raise typer.Exit(1)
