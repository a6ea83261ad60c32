"""The commands for boards with TensorRT: parse, call a verb, print. `edgeq.cli.app` registers them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from edgeq.cli import edge_llm, model_parts
from edgeq.cli.names import TARGET, with_patterns
from edgeq.cli.options import CalibrationImages, JsonFile, refuse_given, require_writable_json, write_json_file
from edgeq.cli.printing import say

CudaOption = Annotated[
    str | None, typer.Option(help="CUDA binding: pycuda, cudart or torch; by default the first that works.")
]

_OF_FILES = frozenset({"target", "tensorrt", "isa", "images", "preset", "compile", "sm"})
"""What `check` takes for single files alone."""


def check(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An .onnx file of any tool, or the folder of a bundle.")],
    target: Annotated[
        str | None,
        typer.Option(
            help="Target whose rules apply: jetson-orin (default), or jetson-orin-trt11 for strong typing.", **TARGET
        ),
    ] = None,
    tensorrt: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="TensorRT's version, 10.3 for example; by default the target's."),
    ] = None,
    isa: Annotated[
        str | None,
        typer.Option(metavar="ISA", help="x86 instead: list the layers that saturate on such CPUs (avx2)."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="With --isa: run the file on these images, in a simulation of such a CPU.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="With --images, for a file without a manifest: how it takes images.")
    ] = None,
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the file with TensorRT for RTX too, without a GPU, and compare the precision of every layer; "
            "needs edgeq[rtx]. It is not the TensorRT of a Jetson.",
        ),
    ] = False,
    sm: Annotated[
        str | None,
        typer.Option(
            "--sm",
            metavar="SM",
            help="With --compile: compute capability, by default sm86, the nearest to Orin's 8.7; "
            "for FP8 sm89, for FP4 sm120.",
        ),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Check a Q/DQ file: exit 1 if TensorRT would reject it or compute it differently, or if an x86 CPU saturates.

    Of a bundle, which has a file per part: exit 1 if a file is missing, was exchanged, or does not open. Of a
    language model's folder for Jetson: exit 1 if a file is missing or was exchanged.
    """
    from edgeq.bundles.edge_llm import is_edge_llm_folder
    from edgeq.bundles.manifest import is_bundle
    from edgeq.cli.check_console import print_check, print_saturation
    from edgeq.runtimes.tensorrt.compile import Compiler
    from edgeq.verbs.check import check_file
    from edgeq.verbs.check_compile import default_gpu
    from edgeq.verbs.check_saturation import check_question, check_saturation

    require_writable_json(json_file)
    if is_bundle(file) or is_edge_llm_folder(file):
        refuse_given(context, _OF_FILES, f"is for single files, and {file} is a folder of one model's parts")
    if is_bundle(file):
        model_parts.check(file, json_file)
        return
    if is_edge_llm_folder(file):
        edge_llm.check(file, json_file)
        return
    check_question(isa, target, tensorrt, images, preset, compile, sm)
    if isa is not None:
        found = check_saturation(file, isa, images, preset=preset)
        print_saturation(found)
        write_json_file(json_file, found.to_json())
        if found.is_wrong:
            raise typer.Exit(1)
        return
    with Compiler(sm or default_gpu(file)) if compile else nullcontext() as compiler:
        result = check_file(file, target or "jetson-orin", tensorrt, compiler)
    print_check(result)
    write_json_file(json_file, result.to_json())
    if result.is_wrong:
        raise typer.Exit(1)


def build(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help=".onnx files that `edgeq export` wrote for a Jetson or an RTX GPU.",
            callback=with_patterns,
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for the engines; by default that of each file.")] = None,
    route: Annotated[
        Literal["explicit", "implicit", "both"] | None,
        typer.Option(
            help="To INT8: explicit by Q/DQ nodes, implicit by a scale for each tensor, or the better of both."
        ),
    ] = None,
    calib: Annotated[
        Path | None,
        typer.Option(
            help="Scales for --route implicit: a calibration cache, a ranges file or images; by default the cache that "
            "was exported with the file."
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the images of a COCO annotation file.")
    ] = None,
    method: Annotated[str, typer.Option(help="TensorRT's own calibration on images: entropy or minmax.")] = "entropy",
    num: CalibrationImages = 512,
    workspace: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="Maximum temporary memory per layer, in MiB.")
    ] = 1024,
    dla: Annotated[
        int | None, typer.Option(min=0, metavar="CORE", help="DLA core to build for; the GPU takes what it cannot run.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size, if the file does not fix it.")] = 1,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            "--timing-cache", metavar="FILE", help="Keep kernel timings in this file: later builds are faster."
        ),
    ] = None,
    cuda: CudaOption = None,
    runtime: Annotated[
        str | None, typer.Option(help="tensorrt or tensorrt-rtx; by default what runs the files of their target.")
    ] = None,
    sm: Annotated[
        str | None,
        typer.Option(
            metavar="SM,...",
            help="tensorrt-rtx: GPUs to build for, on any machine (sm86,sm89); by default the one of this machine.",
        ),
    ] = None,
) -> None:
    """Build TensorRT engines from exported files: on the board that will run them, or for named RTX GPUs anywhere."""
    from edgeq.cli.console import describe_engine
    from edgeq.verbs.build import BuildRequest, build_engines

    if calib is None:
        refuse_given(context, {"images", "method", "num"}, "says how --calib is read, which is not given")
    request = BuildRequest(
        out=out,
        route=route,
        calibration=calib,
        images_dir=images,
        algorithm=method,
        num=num,
        workspace_bytes=workspace << 20,
        dla_core=dla,
        batch=batch,
        timing_cache=timing_cache,
        cuda=cuda,
        runtime=runtime,
        sm=tuple(name for name in (sm or "").split(",") if name.strip()),
    )
    for built in build_engines(files, request):
        for line in describe_engine(built):
            say(line)


def inspect(
    engine: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="An engine that `edgeq build` wrote here, another file of edgeq, or a bundle's folder."
        ),
    ],
    json_file: JsonFile = None,
) -> None:
    """Show the life of a file: source, calibration images, plan, losses, where it ran; of an engine its layers.

    Layers of an engine by precision, Reformat layers, and their shares of the profiled time. What `edgeq bench` and
    `edgeq eval` attached to a file. Of a bundle: its parts, what feeds what, and the precision and size of each.
    """
    from edgeq.bundles.manifest import is_bundle
    from edgeq.cli.console import print_inspection
    from edgeq.cli.file_life import describe_life
    from edgeq.runtimes.tensorrt.session import session_of
    from edgeq.verbs.file_life import read_life
    from edgeq.verbs.inspect import inspect_engine

    require_writable_json(json_file)
    if is_bundle(engine):
        model_parts.inspect(engine, json_file)
        return
    life = read_life(engine)
    for line in describe_life(life):
        say(line)
    if session_of(life.artifact) is None:
        write_json_file(json_file, life.to_json())
        return
    report = inspect_engine(engine)
    print_inspection(report)
    write_json_file(json_file, report.to_json())
