"""`edgeq export`: from a model to the files of a target, each compared with the model it came from."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from edgeq.calibration.channel_extremes import channel_statistics
from edgeq.calibration.collector import calibrated_tensors
from edgeq.calibration.shared_ranges import collect_ranges, match_tensors, translate_keep
from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import EdgeqError, InputError
from edgeq.evaluation.exact_comparison import ComparedImages, Groups, measure_onnx, measure_tflite, with_signal
from edgeq.evaluation.output_difference import (
    Comparison,
    Reference,
    compare,
    real_inputs,
    reference_outputs,
    tflite_outputs,
)
from edgeq.exporting.artifact import Artifact, Postprocessing
from edgeq.exporting.graphs.transformer import find_transformer
from edgeq.exporting.onnx.writer import FloatModel, write_dynamic, write_fp16, write_fp32, write_int8
from edgeq.exporting.options import ExportOptions
from edgeq.exporting.passes.rescale import smooth_channels, unify_channels
from edgeq.exporting.planning.selection import VitPlan, kept_by_vit_plan, select_layers
from edgeq.exporting.signal.output_groups import WHOLE, output_groups
from edgeq.exporting.signal.ratio import Signal
from edgeq.exporting.tflite import writer as tflite_writer
from edgeq.exporting.tflite.writer import COMPATIBLE, STATIC_PRECISIONS, Known, Options, TfliteModel
from edgeq.files import require_writable
from edgeq.inputs import Item
from edgeq.inputs.preprocessing import Placement
from edgeq.registry import registered
from edgeq.sources.formats import FORMATS, FileFormat, get_format
from edgeq.sources.model import ModelRequest, open_model
from edgeq.sources.tflite import convert, open_tflite
from edgeq.targets import Target, get_target
from edgeq.tasks import find_decoder

PRECISIONS = {name: get_format(name).precisions for name in FORMATS}
"""File format -> the precisions that it is written in."""

RESCALINGS = {"smooth": smooth_channels, "unify": unify_channels}
"""What `rescale` takes: SmoothQuant's way and RepQ-ViT's."""

_FOR_GRAPHS = frozenset({"vit_plan", "rescale", "int8_deconv", "size", "dynamic_batch"})
"""Options that a TFLite file is too late for."""

_DEFAULT_OPSET = ModelRequest("").opset

_log = logging.getLogger(__name__)


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

    model: FloatModel | TfliteModel
    folded_batchnorm: int
    unfolded_batchnorm: dict[str, str]
    files: tuple[Exported, ...]
    ranges_path: Path | None

    @property
    def paths(self) -> list[Path]:
        """The written files, in order."""
        return [each.artifact.path for each in self.files]

    def to_json(self) -> dict[str, Any]:
        """Returns the written files, each with its manifest's path, its facts and its comparison, as a JSON object."""
        return {
            "files": [
                {
                    "file": str(each.artifact.path),
                    "manifest": str(each.artifact.manifest_path),
                    "format": each.artifact.format,
                    "target": each.artifact.target,
                    "precision": each.artifact.precision,
                    "size_bytes": each.artifact.size_bytes,
                    "digest": each.artifact.digest,
                    "comparison": dataclasses.asdict(each.comparison),
                    "quantization": dict(each.artifact.quantization),
                }
                for each in self.files
            ],
            "ranges": None if self.ranges_path is None else str(self.ranges_path),
        }


def export_model(
    request: ModelRequest,
    target_name: str,
    precisions: Sequence[str],
    out: Path,
    *,
    calibration: CalibrationSource | None = None,
    formats: Sequence[str] = (),
    options: ExportOptions | None = None,
    threads: int | None = None,
) -> ExportResult:
    """Writes a model's files for one target and returns them with their comparisons.

    Args:
        request: The model.
        target_name: A name of `edgeq.targets.TARGETS`.
        precisions: Any of `PRECISIONS`; each format writes those that it knows. Where an INT8 file comes with a
            calibration cache, the FP32 file that the cache is for is written too.
        out: Folder for the files.
        calibration: Where the ranges for `int8` and `int16x8` come from.
        formats: Which of the target's formats to write; by default all.
        options: What stays in float, what of a transformer runs in INT8, and how files are written.
        threads: CPU threads for calibration.

    Raises:
        InputError: a precision or format is unknown, ranges are missing, `keep` matches nothing, or the folder cannot
            be written.
        ModelError: the decoder does not know the model's outputs, the model cannot be converted, or an exported file
            does not compute what the model computes; that file is removed.
        MismatchError: the ranges belong to another model or other pre-processing.
    """
    target = get_target(target_name)
    options = options or ExportOptions()
    if options.int8_deconv:
        target = _with_int8_deconv(target)
    if options.vit_plan not in get_args(VitPlan):
        raise InputError(f"`vit_plan` {options.vit_plan}: wanted one of {', '.join(get_args(VitPlan))}")
    if options.rescale is not None and options.rescale not in RESCALINGS:
        raise InputError(f"`rescale` {options.rescale}: wanted one of {', '.join(RESCALINGS)}")
    is_tflite = request.reference.endswith(".tflite")
    formats = formats or (("tflite",) if is_tflite else target.formats)
    _check_formats(target, formats, is_tflite, options)
    _check_precisions(target, formats, precisions, calibration)
    _check_effects(request, target, formats, precisions, options.given)
    if target.rules.fp16 == "graph" and request.opset < target.rules.opset:
        raise InputError(
            f"opset {request.opset}: Q/DQ nodes take FP16 scales from opset {target.rules.opset} on, and {target.name} "
            "wants them; omit `opset`"
        )
    if target.rules.calibration_cache and "int8" in precisions and "fp32" not in precisions:
        precisions = ("fp32", *precisions)
    require_writable(out / "a file")
    export = _Export(request, target, tuple(dict.fromkeys(precisions)), out, calibration, options, threads)
    return export.from_tflite() if is_tflite else export.from_graph(formats)


def _check_formats(target: Target, formats: Sequence[str], is_tflite: bool, options: ExportOptions) -> None:
    for name in formats:
        if name not in target.formats and (name in FORMATS or name not in registered("format", FORMATS)):
            raise InputError(
                f"`format` {name}: the target {target.name} takes {' and '.join(target.formats)}; TFLite files are "
                "written for `target` arm, and run on x86 too"
            )
    if is_tflite and tuple(formats) != ("tflite",):
        raise InputError("a TFLite file becomes TFLite files only; start from the torch model or the ONNX file")
    if options.compat not in (None, *COMPATIBLE):
        raise InputError(f"`compat` {options.compat}: known are {', '.join(COMPATIBLE)}")
    if "tflite" not in formats and (options.integer_io or options.compat):
        raise InputError("`int8_io` and `compat` are for TFLite files; choose `target` arm")


def _with_int8_deconv(target: Target) -> Target:
    rules = target.rules
    if rules.static("ConvTranspose") is not None:
        raise InputError(f"`int8_deconv`: the target {target.name} runs ConvTranspose in INT8 by itself; omit it")
    return dataclasses.replace(target, rules=rules.requested("ConvTranspose"))


def _check_precisions(
    target: Target, formats: Sequence[str], precisions: Sequence[str], calibration: CalibrationSource | None
) -> None:
    known = list(dict.fromkeys(precision for name in formats for precision in get_format(name).precisions))
    unknown = [precision for precision in precisions if precision not in known]
    if unknown or not precisions:
        raise InputError(
            f"`precision` {','.join(unknown) or '(none)'}: known are {', '.join(known)} ({' and '.join(formats)})"
        )
    if "dynamic" in precisions and not target.rules.takes_dynamic:
        raise InputError(f"`precision` dynamic: the engines of {target.name} take no dynamic INT8 files; choose int8")
    if calibration is not None and calibration.is_cache and not target.rules.symmetric:
        raise InputError(
            f"{calibration.source}: a calibration cache holds symmetric ranges alone, which cost {target.name} half "
            "its steps; calibrate on images"
        )
    needing = [precision for precision in precisions if precision in STATIC_PRECISIONS]
    if needing and calibration is None:
        raise InputError(
            f"{needing[0]} needs ranges: give `calib` with images, or with a ranges file of `edgeq calibrate`"
        )


def _check_effects(
    request: ModelRequest, target: Target, formats: Sequence[str], precisions: Sequence[str], given: Sequence[str]
) -> None:
    """Refuses options that would change nothing in the files that are asked for.

    Args:
        request: The model.
        target: Whose rules to follow.
        formats: Of the files.
        precisions: Of the files.
        given: The options that are not at their default.
    """
    if "rescale" in given and "tflite" in formats:
        raise InputError(
            "`rescale`: a TFLite file cannot hold it, its converter moves a LayerNorm's scale into the layers behind; "
            "add `format` onnx"
        )
    for option in given:
        effects = [get_format(name).effects.get(option, frozenset()) for name in formats]
        effective = frozenset[str]().union(*effects)
        if not effective.intersection(precisions):
            wanted = ", ".join(sorted(effective)) or "no"
            raise InputError(
                f"`{option}`: changes {wanted} {' and '.join(formats)} files, and {', '.join(precisions)} is asked "
                f"for; omit `{option}`"
            )
    if request.reference.endswith(".tflite"):
        further = (("size", request.size is not None), ("dynamic_batch", request.dynamic_batch))
        for option in (*given, *(option for option, is_given in further if is_given)):
            if option in _FOR_GRAPHS:
                raise InputError(
                    f"`{option}`: cannot be combined with a TFLite file; start from the torch model or ONNX file"
                )
    if "onnx" not in formats:
        for option, is_given in (
            ("opset", request.opset not in (_DEFAULT_OPSET, target.rules.opset)),
            ("dynamic_batch", request.dynamic_batch),
        ):
            if is_given:
                raise InputError(f"`{option}`: is for ONNX files, and {', '.join(formats)} is written; omit `{option}`")


def check_calibration_options(
    target_name: str,
    precisions: Sequence[str],
    rescale: str | None,
    calib: Path | Ranges | Sequence[Item] | None,
    images: Path | None,
    method: str | None,
    num: int | None,
) -> None:
    """Refuses options about calibration, as they were written, that would change nothing.

    Images without ranges to collect stay useful: files are compared with the model on them.

    Args:
        target_name: A name of `edgeq.targets.TARGETS`.
        precisions: Of the files.
        rescale: What rescales channels, which takes images.
        calib: The source, see `CalibrationSource`.
        images: Folder of a COCO file's images.
        method: The method that is asked for.
        num: The number of images that is asked for.

    Raises:
        InputError: an option has no effect.
    """
    typed = {"images": images, "method": method, "num": num}
    given = [option for option, value in typed.items() if value is not None]
    if calib is None:
        if given:
            raise InputError(f"`{given[0]}`: says how `calib` is read, and there is none; give `calib`")
        return
    no_images = not CalibrationSource(calib).has_images
    source = f"`calib` {calib}" if isinstance(calib, Path) else "`calib`"
    if no_images and (unread := [option for option in given if option != "method"]):
        raise InputError(f"`{unread[0]}`: {source} holds ranges already, no image is read; omit `{unread[0]}`")
    if images is not None and not isinstance(calib, Path):
        raise InputError("`images`: is for a COCO annotation file, and `calib` is in memory; omit `images`")
    if images is not None and isinstance(calib, Path) and calib.is_dir():
        raise InputError(f"`images`: {calib} is a folder of images itself; omit `images`")
    if _takes_ranges(get_target(target_name), precisions):
        return
    if no_images:
        raise InputError(f"{source}: {', '.join(precisions)} files need no ranges; omit `calib`")
    if method is not None or (num is not None and rescale is None):
        option = "num" if method is None else "method"
        raise InputError(f"`{option}`: {', '.join(precisions)} files need no ranges; omit `{option}`")


def _takes_ranges(target: Target, precisions: Sequence[str]) -> bool:
    audited = "fp16" in precisions and target.rules.fp16 != "weights"
    return audited or bool(set(precisions) & set(STATIC_PRECISIONS))


@dataclass(frozen=True)
class _Export:
    """One run of `export_model`; the fields are its arguments."""

    request: ModelRequest
    target: Target
    precisions: tuple[str, ...]
    out: Path
    calibration: CalibrationSource | None
    options: ExportOptions
    threads: int | None

    def from_graph(self, formats: Sequence[str]) -> ExportResult:
        """Writes the files of a torch model or an ONNX file."""
        opened = open_model(self.request)
        model = opened.model
        self._check_graph(model)
        if self.options.rescale is not None:
            self._rescale_channels(model, self.options.rescale)
        if "onnx" in formats:
            # Tells of a wrong `keep` before the long work.
            select_layers(model.graph, self.target.rules, self.options.keep, self.options.vit_plan)
        inputs, placement = real_inputs(model.preprocessing, self.calibration, self._example)
        reference = reference_outputs(opened, self.request, inputs)
        _check_decoder([str(value.name) for value in model.graph.graph.outputs], model, reference, placement)
        converted = convert(self.request, opened) if "tflite" in formats else None
        ranges, path = self._ranges(model)
        files = []
        if converted is not None:
            options, known = self._share(model, converted, ranges, inputs)
            files += self._write_tflite(converted, options, known, inputs, reference, output_groups(model.graph))
        if "onnx" in formats:
            files += self._write_onnx(model, ranges, inputs, reference)
        for name in formats:
            files += self._write_installed(get_format(name), model, ranges, inputs, reference)
        return ExportResult(model, opened.folded.folded, opened.folded.left, tuple(files), path)

    def _check_graph(self, model: FloatModel) -> None:
        """Refuses options that mean nothing to a model."""
        if self.options.vit_plan != "balanced" and not find_transformer(model.graph).blocks:
            raise InputError(
                f"`vit_plan` {self.options.vit_plan}: the model has no attention that edgeq knows; omit `vit_plan`"
            )
        if self.options.int8_deconv and not any(node.op_type == "ConvTranspose" for node in model.graph.graph):
            raise InputError("`int8_deconv`: the model has no ConvTranspose; omit `int8_deconv`")

    @property
    def _example(self) -> np.ndarray | None:
        """An input of a model for which no image can be drawn, because no preset says how it takes them."""
        module = self.request.module
        return None if module is None or self.request.preset is not None else module.example.numpy()

    def _rescale_channels(self, model: FloatModel, method: str) -> None:
        source = self.calibration
        if source is None or not source.has_images:
            raise InputError(f"`rescale` {method}: measures channels on images; give `calib` with images")
        statistics = channel_statistics(model, source.data(), num=min(source.num, 128), threads=self.threads)
        if not RESCALINGS[method](model.graph, statistics).done:
            raise InputError(
                f"`rescale` {method}: the model has no LayerNorm that linear layers alone read; omit `rescale`"
            )

    def from_tflite(self) -> ExportResult:
        """Writes the files of a float TFLite file."""
        options = self._tflite_options(self.options.keep)
        model = open_tflite(self.request)
        inputs, placement = real_inputs(model.preprocessing, self.calibration)
        reference = tflite_outputs(model, inputs)
        _check_decoder([spec.name for spec in model.outputs], model, reference, placement)
        ranges, path = self._ranges(model)
        known = None if ranges is None else Known({name: (ranges, name) for name in ranges.tensors})
        files = self._write_tflite(model, options, known, inputs, reference, [WHOLE] * len(model.outputs))
        return ExportResult(model, 0, {}, tuple(files), path)

    def _ranges(self, model: FloatModel | TfliteModel) -> tuple[Ranges | None, Path | None]:
        if self.calibration is None or not _takes_ranges(self.target, self.precisions):
            return None, None
        return self.calibration.ranges(model, self.out, self.threads, [self.target])

    def _tflite_options(self, keep: Sequence[str]) -> Options:
        """Returns how TFLite files are written, with the operators that stay in float in the terms of the file."""
        return Options(keep, self.options.integer_io, self.options.compat)

    def _share(
        self, model: FloatModel, converted: TfliteModel, ranges: Ranges | None, inputs: Sequence[np.ndarray]
    ) -> tuple[Options, Known | None]:
        """Returns how TFLite files are written, `keep` translated, and the ranges of their tensors."""
        if not get_format("tflite").effects["keep"].intersection(self.precisions):
            return self._tflite_options(()), None
        keep = (*self.options.keep, *kept_by_vit_plan(model.graph, self.options.vit_plan))
        if ranges is None and not keep:
            return self._tflite_options(()), None
        names = calibrated_tensors(model) if ranges is None else list(ranges.tensors)
        matched = match_tensors(model, converted, names, inputs)
        options = self._tflite_options(translate_keep(model, converted, matched, keep))
        if ranges is None:
            return options, None
        known = collect_ranges(
            converted, matched, ranges, self.calibration, self.precisions, options, self.out, self.threads
        )
        return options, known

    def _write_onnx(
        self, model: FloatModel, ranges: Ranges | None, inputs: list[np.ndarray], reference: Reference
    ) -> list[Exported]:
        keep = self.options.keep
        writers: dict[str, Callable[[], Artifact]] = {
            "fp32": lambda: write_fp32(model, self.target, self.out),
            "fp16": lambda: write_fp16(model, self.target, self.out, ranges),
            "int8": lambda: write_int8(model, self.target, self.out, _known(ranges), keep, self.options.vit_plan),
            "dynamic": lambda: write_dynamic(model, self.target, self.out, keep, self.options.vit_plan),
        }
        chosen = [precision for precision in self.precisions if precision in writers]
        if "dynamic" in chosen and _has_convolutions(model):
            _log.warning(
                "a dynamic ONNX file measures ranges at every run and is slower than fp32 for convolutions; int8 is "
                "static"
            )
        groups = output_groups(model.graph)
        images = ComparedImages(model.preprocessing, self.calibration, self._example)

        def measure(artifact: Artifact) -> Signal | None:
            return measure_onnx(artifact, model, self.target, images, groups, self.threads)

        return [_compared(writers[precision](), inputs, reference, groups, measure) for precision in chosen]

    def _write_installed(
        self,
        file_format: FileFormat,
        model: FloatModel,
        ranges: Ranges | None,
        inputs: list[np.ndarray],
        reference: Reference,
    ) -> list[Exported]:
        """Returns the files of a format that an installed package writes; none for a format of edgeq."""
        write = file_format.writer()
        if write is None:
            return []
        chosen = [precision for precision in self.precisions if precision in file_format.precisions]
        groups = output_groups(model.graph)
        written = (write(model, self.target, precision, self.out, ranges) for precision in chosen)
        return [_compared(artifact, inputs, reference, groups, lambda _artifact: None) for artifact in written]

    def _write_tflite(
        self,
        model: TfliteModel,
        options: Options,
        known: Known | None,
        inputs: list[np.ndarray],
        reference: Reference,
        groups: Groups,
    ) -> list[Exported]:
        images = ComparedImages(model.preprocessing, self.calibration, self._example)

        def measure(artifact: Artifact) -> Signal | None:
            return measure_tflite(artifact, model, images, groups, self.threads)

        written = (
            tflite_writer.write(model, self.target.name, precision, self.out, options, known)
            for precision in self.precisions
        )
        return [_compared(artifact, inputs, reference, groups, measure) for artifact in written]


def _compared(
    artifact: Artifact,
    inputs: list[np.ndarray],
    reference: Reference,
    groups: Groups,
    measure: Callable[[Artifact], Signal | None],
) -> Exported:
    """Returns a written file with its comparison, exact signal included; removes it where it does not hold."""
    try:
        comparison = compare(artifact, inputs, reference, groups)
        signal = measure(artifact)
        return Exported(with_signal(artifact, signal), dataclasses.replace(comparison, signal=signal))
    except EdgeqError:
        artifact.path.unlink()
        artifact.manifest_path.unlink()
        cache = artifact.quantization.get("calibration_cache")
        if cache is not None:
            artifact.path.with_name(cache["file"]).unlink()
        raise


def _known(ranges: Ranges | None) -> Ranges:
    assert ranges is not None  # noqa: S101 - int8 is refused without calibration before anything is written
    return ranges


def _has_convolutions(model: FloatModel) -> bool:
    return any(node.op_type == "Conv" for node in model.graph.graph)


def _check_decoder(
    names: Sequence[str], model: FloatModel | TfliteModel, reference: Reference, placement: Placement
) -> None:
    """Fails early if the decoder would reject these outputs."""
    declared: Postprocessing | None = model.postprocessing
    if declared is not None:
        outputs = dict(zip(names, reference[1][0], strict=True))
        find_decoder(declared).decode(outputs, declared, placement)
