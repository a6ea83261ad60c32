"""`edgeq export`: from a model to the files of a target, each compared with the model it came from."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeq.calibrators.ranges import FORMAT, Ranges
from edgeq.detection import get_decoder
from edgeq.detection.shapes import draw_image
from edgeq.errors import EdgeqError, EngineError, InputError, ModelError
from edgeq.export.artifact import Artifact
from edgeq.export.onnx_writer import FloatModel, write_dynamic, write_fp16, write_fp32, write_int8
from edgeq.export.topology import choose
from edgeq.files import require_writable
from edgeq.images import list_images, read_image
from edgeq.model_source import ModelRequest, OpenedModel, open_model
from edgeq.preprocessing import Placement, preprocess
from edgeq.runtimes import open_session
from edgeq.targets import get_target
from edgeq.verbs.calibrate import DEFAULT_METHOD, calibrate

PRECISIONS = ("fp32", "fp16", "int8", "dynamic")

TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2}
"""Largest allowed difference to the model's own outputs, as a share of the largest of them."""

_COMPARED_IMAGES = 2
_LOG_FATAL = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """How an exported file differs from the model it was made from, on real inputs in ONNX Runtime.

    Attributes:
        reference: What it was compared with.
        max_abs_difference: Largest difference of any output value.
        max_abs_output: Largest magnitude of any output value of the reference.
        cosine: Smallest cosine similarity of an output.
        images: How many images were run.
    """

    reference: str
    max_abs_difference: float
    max_abs_output: float
    cosine: float
    images: int


@dataclass(frozen=True)
class Exported:
    """A written file and its comparison with the model."""

    artifact: Artifact
    comparison: Comparison


@dataclass(frozen=True)
class ExportResult:
    """What `edgeq export` did.

    Attributes:
        model: The float model.
        folded_batchnorm: BatchNormalization nodes that were folded by the explicit pass.
        unfolded_batchnorm: Those that were not, with the reason.
        files: The written files.
        ranges_path: Where the ranges lie that INT8 files were made from.
    """

    model: FloatModel
    folded_batchnorm: int
    unfolded_batchnorm: dict[str, str]
    files: tuple[Exported, ...]
    ranges_path: Path | None


@dataclass(frozen=True)
class CalibrationSource:
    """Where INT8 ranges come from.

    Attributes:
        source: A ranges file, or images (a folder, a text file of paths, a COCO annotation file).
        images_dir: Folder of a COCO file's images.
        method: Calibration method; `None` keeps that of a ranges file.
        num: The most images to take.
    """

    source: Path
    images_dir: Path | None = None
    method: str | None = None
    num: int = 512


def export_model(
    request: ModelRequest,
    target_name: str,
    precisions: Sequence[str],
    out: Path,
    *,
    calibration: CalibrationSource | None = None,
    keep: Sequence[str] = (),
    threads: int | None = None,
) -> ExportResult:
    """Writes a model's files for one target and returns them with their comparisons.

    Args:
        request: The model.
        target_name: A name of `edgeq.targets.TARGETS`.
        precisions: Any of `PRECISIONS`.
        out: Folder for the files.
        calibration: Where the ranges for `int8` come from.
        keep: Nodes that stay in float.
        threads: CPU threads for calibration.

    Raises:
        InputError: a precision is unknown, `int8` is asked for without calibration, `keep` matches nothing, or the
            folder cannot be written.
        ModelError: the decoder does not know the model's outputs, or an exported file does not compute what the model
            computes; that file is removed.
        MismatchError: the ranges belong to another model or other pre-processing.
    """
    unknown = [precision for precision in precisions if precision not in PRECISIONS]
    if unknown or not precisions:
        raise InputError(f"--precision {','.join(unknown) or '(none)'}: known are {', '.join(PRECISIONS)}")
    if "int8" in precisions and calibration is None:
        raise InputError("int8 needs ranges: give --calib with images, or with a ranges file of `edgeq calibrate`")
    target = get_target(target_name)
    require_writable(out / "a file")
    opened = open_model(request)
    choose(opened.model.graph, target.rules, keep)  # tells of a wrong `keep` before the long work
    inputs, placement = _real_inputs(opened.model, calibration)
    reference = _reference_outputs(opened, request, inputs)
    _check_decoder(opened.model, reference, placement)
    ranges, ranges_path = _ranges(opened.model, calibration, out, threads) if "int8" in precisions else (None, None)
    writers: dict[str, Callable[[], Artifact]] = {
        "fp32": lambda: write_fp32(opened.model, target, out),
        "fp16": lambda: write_fp16(opened.model, target, out),
        "int8": lambda: write_int8(opened.model, target, out, _known(ranges), keep),
        "dynamic": lambda: write_dynamic(opened.model, target, out, keep),
    }
    if "dynamic" in precisions and _has_convolutions(opened.model):
        _log.warning("dynamic measures ranges at every run and is slower than fp32 for convolutions; int8 is static")
    files = []
    for precision in dict.fromkeys(precisions):
        artifact = writers[precision]()
        try:
            comparison = _compare(artifact, inputs, reference)
        except EdgeqError:
            artifact.path.unlink()
            artifact.manifest_path.unlink()
            raise
        files.append(Exported(artifact, comparison))
    return ExportResult(opened.model, opened.folded.folded, opened.folded.left, tuple(files), ranges_path)


def is_ranges_file(path: Path) -> bool:
    """Returns whether a file is a ranges file of `edgeq calibrate` (and not, for example, a COCO annotation file)."""
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("format") == FORMAT


def _ranges(
    model: FloatModel, calibration: CalibrationSource | None, out: Path, threads: int | None
) -> tuple[Ranges, Path]:
    assert calibration is not None  # noqa: S101 - checked before the model is opened
    if is_ranges_file(calibration.source):
        ranges = Ranges.load(calibration.source)
        ranges.check(model_digest=model.digest, preprocessing_digest=model.preprocessing.digest)
        if calibration.method not in (None, ranges.method):
            ranges = ranges.with_method(str(calibration.method))
        return ranges, calibration.source
    path = out / f"{model.name}.ranges.json"
    images = list_images(calibration.source, calibration.images_dir)
    method = calibration.method or DEFAULT_METHOD
    return calibrate(model, images, path, method=method, num=calibration.num, threads=threads).ranges, path


def _known(ranges: Ranges | None) -> Ranges:
    assert ranges is not None  # noqa: S101 - int8 is refused without calibration before anything is written
    return ranges


def _has_convolutions(model: FloatModel) -> bool:
    return any(node.op_type == "Conv" for node in model.graph.graph)


def _real_inputs(model: FloatModel, calibration: CalibrationSource | None) -> tuple[list[np.ndarray], Placement]:
    """Returns inputs `(1, 3, H, W)` of a few images, the user's or drawn ones, and where the first lies in its own."""
    images = itertools.chain(_users_images(calibration), (draw_image(1, i).pixels for i in itertools.count()))
    prepared = [preprocess(image, model.preprocessing) for image in itertools.islice(images, _COMPARED_IMAGES)]
    return [array for array, _ in prepared], prepared[0][1]


def _users_images(calibration: CalibrationSource | None) -> Iterator[np.ndarray]:
    if calibration is None or is_ranges_file(calibration.source):
        return
    for path in list_images(calibration.source, calibration.images_dir):
        with contextlib.suppress(InputError):  # calibration names it
            yield read_image(path)


def _reference_outputs(
    opened: OpenedModel, request: ModelRequest, inputs: list[np.ndarray]
) -> tuple[str, list[list[np.ndarray]]]:
    """Returns what was compared with, and the outputs of the model as it was given, in graph order, image by image."""
    if opened.module is not None:
        import torch

        with torch.no_grad():
            raw = [opened.module(torch.from_numpy(array)) for array in inputs]
        outputs = [[one.numpy() for one in (each if isinstance(each, (tuple, list)) else [each])] for each in raw]
        return f"torch {torch.__version__}", outputs
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    names = [value.name for value in opened.model.graph.graph.outputs]
    try:
        session = onnxruntime.InferenceSession(request.reference, options, providers=["CPUExecutionProvider"])
        feed = session.get_inputs()[0].name
        return Path(request.reference).name, [session.run(names, {feed: array}) for array in inputs]
    except Exception as error:
        raise EngineError(
            f"{request.reference}: onnxruntime cannot run it, so nothing can be compared: {error}"
        ) from error


def _check_decoder(model: FloatModel, reference: tuple[str, list[list[np.ndarray]]], placement: Placement) -> None:
    """Raises what the decoder would raise of the model's outputs on the device."""
    if model.postprocessing is None:
        return
    names = [str(value.name) for value in model.graph.graph.outputs]
    outputs = dict(zip(names, reference[1][0], strict=True))
    get_decoder(model.postprocessing.decoder)(outputs, model.postprocessing, placement)


def _compare(artifact: Artifact, inputs: list[np.ndarray], reference: tuple[str, list[list[np.ndarray]]]) -> Comparison:
    label, expected = reference
    difference, largest, cosine = 0.0, 0.0, 1.0
    with open_session(artifact, "onnxruntime") as session:
        for array, outputs in zip(inputs, expected, strict=True):
            found = session.run({artifact.inputs[0].name: array})
            for spec, wanted in zip(artifact.outputs, outputs, strict=True):
                got = found[spec.name].astype(np.float64)
                if got.shape != wanted.shape:
                    raise ModelError(
                        f"{artifact.name}: output {spec.name!r} has the shape {got.shape}, that of {label} "
                        f"{wanted.shape}; an output's shape must not depend on the image"
                    )
                difference = max(difference, float(np.abs(got - wanted).max(initial=0)))
                largest = max(largest, float(np.abs(wanted).max(initial=0)))
                cosine = min(cosine, _cosine(got, wanted.astype(np.float64)))
    comparison = Comparison(label, difference, largest, cosine, len(inputs))
    tolerance = TOLERANCE.get(artifact.precision)
    # NaN compares false, so the test is for what is allowed.
    if tolerance is not None and not difference <= tolerance * max(1.0, largest):
        raise ModelError(
            f"{artifact.name}: differs from {label} by {difference:.3g} where outputs reach {largest:.3g}, more than "
            f"{tolerance:g} of them; the file was removed, please report the model"
        )
    return comparison


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum() / norm) if norm > 0 else 1.0
