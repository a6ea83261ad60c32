"""`edgeq build`: engines of TensorRT, on the device that is to run them, by one route to INT8 or by the better of two.

Explicit: from the Q/DQ nodes of the INT8 file. Implicit: from the float file and a scale for each tensor, which come
from a calibration cache, from ranges, or from images on the device. From TensorRT 11 on there is only the first.

Engines of TensorRT for RTX are built for named kinds of GPU, on any machine, and only by the first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import InputError, MismatchError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.tensorrt.cache import ENTROPY, MINMAX, parse_cache
from edgeq.files import require_writable, sha256_file, write_bytes
from edgeq.inputs import Item, UnreadableImages, evenly_spaced, image_files, model_input, prepared_samples
from edgeq.inputs.images import list_images
from edgeq.measurement.engine_comparison import RouteResult, better, compare_engines
from edgeq.notes import log_of
from edgeq.runtimes.cuda import Cuda, open_cuda
from edgeq.runtimes.runner import make_inputs
from edgeq.runtimes.tensorrt.build_options import (
    DEFAULT_WORKSPACE_BYTES,
    BuildOptions,
    Calibration,
    FromCache,
    FromImages,
    FromScales,
)
from edgeq.runtimes.tensorrt.builder import Plan, build_plan, can_calibrate, has_qdq
from edgeq.runtimes.tensorrt.engine import save_engine
from edgeq.runtimes.tensorrt.facts import BuildFacts, Platform, read_platform
from edgeq.runtimes.tensorrt.gpus import parse_gpus, require_precision, this_gpu
from edgeq.runtimes.tensorrt.inspector import inspect_session
from edgeq.runtimes.tensorrt.library import TENSORRT, TENSORRT_RTX, Library, describe
from edgeq.runtimes.tensorrt.session import TensorRtSession
from edgeq.sources.artifact_file import open_artifact
from edgeq.sources.formats import TENSORRT_CACHE
from edgeq.targets import get_target
from edgeq.verbs.build_library import choose_library

Route = Literal["explicit", "implicit", "both", "float"]

_ALGORITHMS = {"entropy": ENTROPY, "minmax": MINMAX}
_LEVELS = 127
# Images that two engines are compared on.
_COMPARED_IMAGES = 8
# Images that are prepared while TensorRT calibrates on earlier ones.
_AHEAD = 2

_log = log_of(__name__)


@dataclass(frozen=True)
class BuildRequest:
    """What a user asks for.

    Attributes:
        out: Folder for the engines; `None` is that of each ONNX file.
        route: Way to INT8; `None` takes explicit for a Q/DQ file, implicit for a float file with `calibration`, and no
            INT8 otherwise.
        calibration: For the implicit route: a calibration cache, a ranges file, or images (folder, list of paths, COCO
            file); `None` takes the cache that was exported beside the INT8 file.
        images_dir: Folder of a COCO file's images.
        algorithm: Of TensorRT's own calibration on images: `entropy` or `minmax`.
        num: The most images to calibrate on.
        workspace_bytes: The most temporary memory that a layer may take.
        dla_core: A DLA core instead of the GPU.
        batch: Size of a free batch dimension.
        timing_cache: File of measured kernels.
        cuda: CUDA binding.
        runtime: `tensorrt` or `tensorrt-rtx`; by default what runs the files of their target.
        sm: For `tensorrt-rtx`: kinds of GPU to build for, `sm86` for example; by default the GPU of this machine.
    """

    out: Path | None = None
    route: Literal["explicit", "implicit", "both"] | None = None
    calibration: Path | None = None
    images_dir: Path | None = None
    algorithm: str = "entropy"
    num: int = 512
    workspace_bytes: int = DEFAULT_WORKSPACE_BYTES
    dla_core: int | None = None
    batch: int = 1
    timing_cache: Path | None = None
    cuda: str | None = None
    runtime: str | None = None
    sm: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuildResult:
    """A built engine.

    Attributes:
        artifact: The engine.
        facts: How it was built.
        device_memory_bytes: Memory that running it takes, besides the weights; `None` where it was not opened.
        compared: The engines it was chosen from, where there were two.
    """

    artifact: Artifact
    facts: BuildFacts
    device_memory_bytes: int | None
    compared: tuple[RouteResult, ...] = ()


def build_engines(paths: Sequence[Path], request: BuildRequest) -> list[BuildResult]:
    """Returns the engines of ONNX files, in their order; each is written with its manifest, or not at all.

    Raises:
        InputError: a file or an option cannot be used.
        MismatchError: a calibration belongs to another model, or TensorRT does not know the route.
        ModelError: TensorRT's parser does not take a file.
        EngineError: TensorRT or CUDA are missing, or failed.
    """
    if not paths:
        raise InputError("no file to build; name at least one .onnx file that `edgeq export` wrote")
    if request.algorithm not in _ALGORITHMS:
        raise InputError(f"`method` {request.algorithm}: TensorRT's own calibrators are {', '.join(_ALGORITHMS)}")
    artifacts = [open_artifact(path) for path in paths]
    for artifact in artifacts:
        if artifact.format != "onnx":
            raise InputError(f"{artifact.path}: is of the format {artifact.format}; engines are built from .onnx files")
    libraries = [_library(artifact, request) for artifact in artifacts]
    build = {
        library.runtime: _builder_for_gpus(request) if library.names_gpus else _builder_on_board(request)
        for library in libraries
    }
    return [build[library.runtime](artifact) for artifact, library in zip(artifacts, libraries, strict=True)]


def _library(artifact: Artifact, request: BuildRequest) -> Library:
    """Returns what builds a file, and refuses options that it does not know."""
    route = request.route if request.route in ("implicit", "both") else None
    on_board = {"route": route, "calib": request.calibration, "images": request.images_dir, "dla": request.dla_core}
    return choose_library(artifact, request.runtime, request.sm, on_board)


def _builder_on_board(request: BuildRequest) -> Callable[[Artifact], BuildResult]:
    trt, cuda = TENSORRT.load(), open_cuda(request.cuda)
    board = _Board(trt, cuda, read_platform(trt, cuda))
    return lambda artifact: _build(artifact, request, board)


def _builder_for_gpus(request: BuildRequest) -> Callable[[Artifact], BuildResult]:
    trt = TENSORRT_RTX.load()
    gpus = parse_gpus(trt, request.sm) if request.sm else (this_gpu(trt, request.cuda),)
    return lambda artifact: _build_for_gpus(artifact, request, trt, gpus)


def _build_for_gpus(artifact: Artifact, request: BuildRequest, trt: Any, gpus: tuple[str, ...]) -> BuildResult:
    """Returns an engine that was built but not opened, as no GPU is needed for it."""
    require_precision(artifact.name, artifact.precision, gpus)
    route = _route(artifact, request)
    path = (request.out or artifact.path.parent) / f"{_stem(artifact, route)}.{'-'.join(gpus).lower()}.engine"
    require_writable(path)
    job = _job(artifact, route, request, trt)
    options = dataclasses.replace(job.options, gpus=gpus)
    plan = build_plan(trt, None, job.source.path, job.source.inputs, options)
    platform = Platform(str(trt.__version__), "", "", "")
    built = save_engine(job.source, path, plan, options, platform, job.built_from, library=TENSORRT_RTX)
    return BuildResult(built, BuildFacts.of(built), None)


@dataclass(frozen=True)
class _Board:
    trt: Any
    cuda: Cuda
    platform: Platform


@dataclass(frozen=True)
class _Job:
    """One engine to build: its file, its options, and what goes into it."""

    source: Artifact
    options: BuildOptions
    built_from: Mapping[str, str]


@dataclass(frozen=True)
class _Trial:
    """An engine in a temporary folder, opened once to see that it runs."""

    job: _Job
    plan: Plan
    artifact: Artifact
    layers: Mapping[str, int]
    device_memory_bytes: int


def _build(artifact: Artifact, request: BuildRequest, board: _Board) -> BuildResult:
    route = _route(artifact, request)
    folder = request.out or artifact.path.parent
    path = folder / f"{_stem(artifact, route)}.engine"
    require_writable(path)
    routes: tuple[Route, ...] = ("explicit", "implicit") if route == "both" else (route,)
    jobs = [_job(artifact, each, request, board.trt) for each in routes]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build.") as temporary:
        trials = [_try(job, Path(temporary) / f"{number}.engine", board) for number, job in enumerate(jobs)]
        compared: tuple[RouteResult, ...] = ()
        chosen = trials[0]
        if len(trials) > 1:
            engines = [trial.artifact for trial in trials]
            inputs = _comparison_inputs(trials[0].artifact, request)
            compared = compare_engines(engines, jobs[-1].source, inputs)
            chosen = trials[better(compared)]
    job, plan = chosen.job, chosen.plan
    built = save_engine(job.source, path, plan, job.options, board.platform, job.built_from, chosen.layers)
    if plan.cache is not None and isinstance(job.options.calibration, FromImages):
        write_bytes(path.with_suffix(".calibrated.cache"), plan.cache)  # beside the cache that was exported
    return BuildResult(built, BuildFacts.of(built), chosen.device_memory_bytes, compared)


def _route(artifact: Artifact, request: BuildRequest) -> Route:
    explicit = has_qdq(artifact.path.read_bytes())
    route: Route = request.route or ("explicit" if explicit else "implicit" if request.calibration else "float")
    if route in ("explicit", "both") and not explicit:
        raise InputError(
            f"{artifact.path}: has no Q/DQ nodes, which `route` {route} builds from; export it with `precision` int8"
        )
    if route == "explicit" and request.calibration is not None:
        raise InputError(
            f"{artifact.path}: has its scales in Q/DQ nodes; omit `calib`, or give `route` implicit or both"
        )
    return route


def _stem(artifact: Artifact, route: Route) -> str:
    """Returns the engine's name: the file's, with `int8` where INT8 comes in only now."""
    stem = artifact.path.name.removesuffix(".onnx")
    head, _, precision = stem.rpartition(".")
    if route == "implicit" and head and precision in ("fp32", "fp16"):
        return f"{head}.int8"
    return stem


def _job(artifact: Artifact, route: Route, request: BuildRequest, trt: Any) -> _Job:
    is_rtx = _library(artifact, request).names_gpus
    strong = artifact.target != "" and get_target(artifact.target).rules.fp16 == "graph"
    if artifact.target and not strong and artifact.precision != "fp32" and not hasattr(trt.BuilderFlag, "FP16"):
        raise MismatchError(
            f"{artifact.path}: is written for TensorRT 8 to 10; {describe(trt)} would compute its float layers in "
            f"FP32, export it with `target` {'rtx' if is_rtx else 'jetson-orin-trt11'}"
        )
    source = artifact
    calibration: Calibration | None = None
    built_from: dict[str, str] = {}
    if route == "implicit":
        if not can_calibrate(trt):
            raise MismatchError(
                f"{artifact.path}: {describe(trt)} has no implicit quantization; build the Q/DQ file by "
                "`route` explicit"
            )
        source = _float_file(artifact)
        calibration, built_from = _calibration(artifact, source, request)
    facts = artifact.quantization_facts
    options = BuildOptions(
        int8=route != "float",
        fp16=route != "float" or source.precision != "fp32",
        calibration=calibration,
        strongly_typed=strong,
        float_layers=frozenset(facts.float_nodes),
        fp32_layers=frozenset(facts.fp16_islands),
        workspace_bytes=request.workspace_bytes,
        dla_core=request.dla_core,
        batch=request.batch,
        timing_cache=request.timing_cache,
    )
    return _Job(source, options, {source.name: sha256_file(source.path), **built_from})


def _float_file(artifact: Artifact) -> Artifact:
    """Returns the float file whose tensors implicit scales name."""
    if not has_qdq(artifact.path.read_bytes()):
        return artifact
    cache = artifact.quantization_facts.calibration_cache
    if cache is None:
        raise InputError(
            f"{artifact.path}: `route` implicit builds from a float file, and its manifest names none; export it with "
            "`target` jetson-orin, or build the float file with `calib`"
        )
    path = artifact.path.with_name(Path(cache.float_file).name)
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; `route` implicit builds from it, export with `precision` fp32,int8 and copy both"
        )
    return Artifact.load(path)


def _calibration(artifact: Artifact, source: Artifact, request: BuildRequest) -> tuple[Calibration, dict[str, str]]:
    """Returns where implicit scales come from, and the digests of the files that hold them."""
    path = request.calibration
    if path is None:
        cache = artifact.quantization_facts.calibration_cache
        path = None if cache is None else artifact.path.with_name(Path(cache.file).name)
    if path is None:
        raise InputError(
            f"{artifact.path}: `route` implicit needs scales; give `calib` with a calibration cache, ranges or images"
        )
    given = CalibrationSource(path, request.images_dir)
    if given.is_ranges_file:
        ranges = Ranges.load(path)
        if source.source_digest and source.preprocessing is not None:
            ranges.check(model_digest=source.source_digest, preprocessing_digest=source.preprocessing.digest)
        scales = {name: ranges.threshold(name) / _LEVELS for name in ranges.tensors}
        return FromScales(scales), {path.name: sha256_file(path)}
    if given.is_cache or path.suffix == TENSORRT_CACHE.suffix:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"{path}: the calibration cache cannot be read ({error.strerror}); copy it next to the INT8 file, or "
                "give `calib`"
            ) from error
        return FromCache(parse_cache(content, str(path))), {path.name: sha256_file(path)}
    images = evenly_spaced(list_images(path, request.images_dir), request.num)
    if source.preprocessing is None:
        raise InputError(f"{source.path}: its manifest does not say how images are prepared; export it with `preset`")
    _log.info("%s: TensorRT calibrates on %d images", source.name, len(images))
    return FromImages(_inputs(images, source), _ALGORITHMS[request.algorithm]), {}


def _inputs(images: Sequence[Path], source: Artifact) -> Iterator[np.ndarray]:
    """Yields model inputs; as in every calibration, at most 5 % of the images may be unreadable."""
    spec, encoding = source.preprocessing, source.inputs[0]
    assert spec is not None  # noqa: S101 - the callers have looked

    def prepare(_position: int, item: Item, content: np.ndarray) -> np.ndarray:
        return encoding.encode(model_input(content, spec, item.name)[0])

    unreadable = UnreadableImages(len(images))
    with ThreadPoolExecutor(1) as reader:
        for sample in prepared_samples(
            image_files(images), prepare, pool=reader, ahead=_AHEAD, on_unreadable=unreadable.add
        ):
            yield sample.prepared


def _try(job: _Job, path: Path, board: _Board) -> _Trial:
    plan = build_plan(board.trt, board.cuda, job.source.path, job.source.inputs, job.options)
    artifact = save_engine(job.source, path, plan, job.options, board.platform, job.built_from)
    with contextlib.closing(TensorRtSession(artifact)) as session:
        layers = inspect_session(session).counts
        memory = session.device_memory_bytes
    if plan.missing_scales:
        _log.warning(
            "%s: TensorRT found no scale for %d tensors, which keeps layers out of INT8: %s",
            job.source.name,
            len(plan.missing_scales),
            ", ".join(plan.missing_scales[:5]) + (", ..." if len(plan.missing_scales) > 5 else ""),
        )
    if job.options.int8 and not layers.get("int8"):
        _log.warning("%s: no layer of the engine runs in INT8 (%s)", job.source.name, layers)
    return _Trial(job, plan, artifact, layers, memory)


def _comparison_inputs(engine: Artifact, request: BuildRequest) -> list[dict[str, np.ndarray]]:
    """Returns a few of the calibration's images, or noise where it has none."""
    path = request.calibration
    (spec, *others) = engine.inputs
    batch = spec.shape[0]
    if path is not None and engine.preprocessing is not None and not others and batch == 1:
        source = CalibrationSource(path, request.images_dir)
        if not source.is_ranges_file and not source.is_cache:
            chosen = evenly_spaced(list_images(path, request.images_dir), _COMPARED_IMAGES)
            return [{spec.name: array} for array in _inputs(chosen, engine)]
    _log.warning("%s: the routes are compared on noise; give `calib` with images to compare on those", engine.name)
    return [make_inputs(engine)]
