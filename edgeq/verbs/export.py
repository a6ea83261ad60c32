"""`edgeq export`: from a model to the files of a target, each compared with the model it came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeq.calibration.channel_extremes import channel_statistics
from edgeq.calibration.finetuning.finetune import finetune
from edgeq.calibration.kept_inputs import kept_feeds
from edgeq.calibration.layer_moments import layer_moments
from edgeq.calibration.mean_errors import mean_errors
from edgeq.calibration.reconstruction.reconstruct import images_to_learn_on, reconstruct
from edgeq.calibration.shared_ranges import share
from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import InputError
from edgeq.evaluation.exact_comparison import ComparedImages, Groups
from edgeq.evaluation.output_difference import Reference, real_inputs, reference_outputs, tflite_outputs
from edgeq.evaluation.preset_proof import AnnotatedImages, proven_request
from edgeq.exporting.costs.table import KernelTable
from edgeq.exporting.graphs.transformer import find_transformer
from edgeq.exporting.jobs import FileJob, Finetune, MeanErrors, Reconstruct
from edgeq.exporting.onnx.writer import FloatModel, engine_graph
from edgeq.exporting.options import ExportOptions
from edgeq.exporting.passes.conv_transpose import can_rewrite
from edgeq.exporting.passes.rescalings import RESCALINGS
from edgeq.exporting.planning.keep import Kept, resolve_keep
from edgeq.exporting.signal.output_groups import WHOLE, output_groups
from edgeq.exporting.tflite.keep import resolve_operators
from edgeq.exporting.tflite.writer import RangeSources, TfliteModel
from edgeq.files import require_writable
from edgeq.machine import read_machine
from edgeq.notes import without_notes
from edgeq.results.compilation import Compilation
from edgeq.results.serialization import to_json
from edgeq.sources.formats import TENSORRT_CACHE, FileFormat, get_format, source_format
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import Target, get_target
from edgeq.targets.isa import with_isa
from edgeq.verbs.check_compile import compile_artifacts, require_compiler
from edgeq.verbs.export_check import FileCheck, check_decoder
from edgeq.verbs.export_costs import PlanBy, kernel_costs
from edgeq.verbs.export_noise import with_less_noise
from edgeq.verbs.export_options import check_options, takes_ranges, with_int8_deconv
from edgeq.verbs.export_speed import Exported, Rewriting, with_speed
from edgeq.verbs.export_weights import calibration_feeds, quantize_weights

_EXAMPLE_SEED = 1


@dataclass(frozen=True)
class ExportResult:
    """What `edgeq export` did.

    Attributes:
        target: What the files are for.
        model: The float model.
        folded_batchnorm: BatchNormalization nodes that were folded by the explicit pass.
        unfolded_batchnorm: Those that were not, with the reason.
        files: The written files.
        ranges_path: Where the ranges lie that INT8 files were made from.
        compiled: File name -> what TensorRT for RTX makes of it, where `verify` asked for that.
    """

    target: Target
    model: FloatModel | TfliteModel
    folded_batchnorm: int
    unfolded_batchnorm: dict[str, str]
    files: tuple[Exported, ...]
    ranges_path: Path | None
    compiled: Mapping[str, Compilation] = field(default_factory=dict)

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
                    **self._compiled(each.artifact.path.name),
                }
                for each in self.files
            ],
            "ranges": None if self.ranges_path is None else str(self.ranges_path),
        }

    def _compiled(self, name: str) -> dict[str, Any]:
        return {"compiled": to_json(self.compiled[name])} if name in self.compiled else {}


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
    measure_speed: bool = False,
    plan: PlanBy = "rules",
    verify: Literal["compile"] | None = None,
) -> ExportResult:
    """Writes a model's files for one target and returns them with their comparisons.

    Args:
        request: The model.
        target_name: A name of `edgeq.targets.TARGETS`.
        precisions: Of the files; each format writes those that it knows. Where an INT8 file comes with a
            calibration cache, the FP32 file that the cache is for is written too.
        out: Folder for the files.
        calibration: Where the ranges for `int8` and `int16x8` come from.
        formats: Which of the target's formats to write; by default all.
        options: What stays in float, what of a transformer runs in INT8, and how files are written.
        threads: CPU threads for calibration, and for timing.
        measure_speed: Whether INT8 files are timed against the float model, where their target wants it and its engine
            runs here. It also lets kernels be timed for `plan` cost.
        plan: How the layers of INT8 files are chosen among those that the target's rules allow: by what they `cost` in
            its engine, or all of them (`rules`).
        verify: `compile` compiles the files with TensorRT for RTX, too (`edgeq.verbs.check_compile`).

    Raises:
        InputError: a precision or format is unknown, ranges are missing, `keep` matches nothing, a parameter has no
            effect, or the folder cannot be written.
        ModelError: the decoder does not know the model's outputs, the model cannot be converted, or an exported file
            does not compute what the model computes; that file is removed.
        MismatchError: the ranges belong to another model or other pre-processing.
    """
    target = get_target(target_name)
    if verify is not None:
        require_compiler(target)
    options = options or ExportOptions()
    if calibration is not None:
        request = proven_request(request, AnnotatedImages.of(calibration.source, calibration.images_dir))
    if options.int8_deconv:
        target = with_int8_deconv(target)
    target = with_isa(target, options.isa, read_machine())
    source = source_format(request.reference)
    formats = tuple(dict.fromkeys(formats)) or ((source.name,) if source.has_own_form else target.formats)
    check_options(request, target, formats, precisions, calibration, options)
    if target.rules.calibration_cache and "int8" in precisions and "fp32" not in precisions:
        precisions = ("fp32", *precisions)
    require_writable(out / "a file")
    written = tuple(dict.fromkeys(precisions))
    export = _Export(request, target, written, out, calibration, options, threads, measure_speed, plan)
    done = export.from_file(source) if source.has_own_form else export.from_graph(list(map(get_format, formats)))
    if verify is None:
        return done
    return dataclasses.replace(done, compiled=compile_artifacts([each.artifact for each in done.files]))


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
    measure_speed: bool
    plan: PlanBy

    def from_graph(self, formats: Sequence[FileFormat]) -> ExportResult:
        """Writes the files of a torch model or an ONNX file."""
        opened = open_model(self.request)
        model = opened.model
        example = self._example(model)
        self._check_graph(model)
        if self.options.rescale is not None:
            self._rescale_channels(model, self.options.rescale)
        kept = self._kept(model, formats)  # tells of a wrong `keep` before the long work
        inputs, placement = real_inputs(model.preprocessing, self.calibration, example)
        reference = reference_outputs(opened, self.request, inputs)
        check_decoder([str(value.name) for value in model.graph.graph.outputs], model, reference, placement)
        own = {each.name: each.function("convert")(self.request, opened) for each in formats if each.has_own_form}
        ranges, path = self._ranges(model)
        jobs = {each.name: self._job(model, kept, ranges, own.get(each.name), inputs) for each in formats}
        check = self._check(inputs, reference, output_groups(model.graph), model, ranges, example)
        files = [file for each in formats for file in self._write(each, jobs[each.name], check)]
        rewriting = self._rewriting(jobs.get(FloatModel.format), check)
        if rewriting is not None:
            is_named = self.calibration is not None and self.calibration.method is not None
            files, rewriting = with_less_noise(files, rewriting, is_named=is_named, threads=self.threads)
        if self.measure_speed and self.target.timed:
            files = with_speed(files, model, self.target, self.threads, rewriting)
        check.warn_of(files)
        unfolded = dict(opened.folded.left)
        return ExportResult(self.target, model, len(opened.folded.done), unfolded, tuple(files), path)

    def from_file(self, source: FileFormat) -> ExportResult:
        """Writes the files of a float file of a format with a form of its own."""
        model = source.function("open")(self.request)
        kept = resolve_operators(model.graph, self.options.keep)
        inputs, placement = real_inputs(model.preprocessing, self.calibration)
        reference = tflite_outputs(model, inputs)
        check_decoder([spec.name for spec in model.outputs], model, reference, placement)
        ranges, path = self._ranges(model)
        known = None if ranges is None else RangeSources({name: (ranges, name) for name in ranges.tensors})
        job = FileJob(model, self.target, self.out, self.options, known, kept_operators=kept)
        check = self._check(inputs, reference, [WHOLE] * len(model.outputs), model, ranges)
        files = self._write(source, job, check)
        check.warn_of(files)
        return ExportResult(self.target, model, 0, {}, tuple(files), path)

    def _check_graph(self, model: FloatModel) -> None:
        """Refuses options that mean nothing to a model."""
        if self.options.vit_plan != "balanced" and not find_transformer(model.graph).blocks:
            raise InputError(
                f"`vit_plan` {self.options.vit_plan}: the model has no attention that edgeq knows; omit `vit_plan`"
            )
        if not self.options.int8_deconv:
            return
        if not any(node.op_type == "ConvTranspose" for node in model.graph.graph):
            raise InputError("`int8_deconv`: the model has no ConvTranspose; omit `int8_deconv`")
        if self.target.rules.rewrite_conv_transpose and not any(map(can_rewrite, model.graph.graph)):
            raise InputError(
                f"`int8_deconv`: {self.target.name} runs a ConvTranspose in INT8 as Conv + DepthToSpace, which takes a "
                "kernel of 4, stride 2 and padding 1, and the model has none; omit `int8_deconv`"
            )

    def _example(self, model: FloatModel) -> np.ndarray | None:
        """Returns an input of a model for which no image can be drawn, because nothing says how it takes them."""
        if model.preprocessing.declared is not None:
            return None
        if self.request.module is not None:
            return self.request.module.example.numpy()
        shape = (1, *model.preprocessing.input_shape)
        return np.random.default_rng(_EXAMPLE_SEED).standard_normal(shape).astype(np.float32)

    def _rescale_channels(self, model: FloatModel, method: str) -> None:
        source, rescaling = self.calibration, RESCALINGS[method]
        if source is None or not source.has_images:
            raise InputError(f"`rescale` {method}: measures channels on images; give `calib` with images")
        names = rescaling.tensors(model.graph)
        statistics = channel_statistics(
            model, names, source.data(), axis=rescaling.axis, num=min(source.num, 128), threads=self.threads
        )
        if not rescaling.change(model.graph, statistics).done:
            raise InputError(f"`rescale` {method}: the model has no {rescaling.place}; omit `rescale`")

    def _kept(self, model: FloatModel, formats: Sequence[FileFormat]) -> Kept:
        """Returns what stays in float, by the names of the graph that the target's files are made from."""
        if not any(each.effects.get("keep", frozenset()).intersection(self.precisions) for each in formats):
            return Kept()
        converted_alone = all(each.has_own_form for each in formats)
        graph = engine_graph(model, self.target)
        return resolve_keep(graph, self.options.keep, self.options.vit_plan, unknown_to_graph=converted_alone)

    def _ranges(self, model: FloatModel | TfliteModel) -> tuple[Ranges | None, Path | None]:
        if not takes_ranges(self.target, self.precisions):
            return None, None
        if isinstance(model, FloatModel) and (taken := model.taken_ranges()) is not None:
            return taken, None
        if self.calibration is None:
            return None, None
        return self.calibration.ranges(model, self.out, self.threads, [self.target])

    def _job(
        self,
        model: FloatModel,
        kept: Kept,
        ranges: Ranges | None,
        converted: TfliteModel | None,
        inputs: Sequence[np.ndarray],
    ) -> FileJob:
        """Returns what the files of a format are made from, whatever their precision."""
        if converted is None:
            companions = (TENSORRT_CACHE.function("write"),) if self.target.rules.calibration_cache else ()
            return FileJob(
                model, self.target, self.out, self.options, ranges, kept=kept, companions=companions,
                layer_moments=partial(layer_moments, feeds=kept_feeds(model, ranges), threads=self.threads),
                quantize_layers=partial(quantize_weights, model, self.calibration, self.options, self.threads),
                mean_errors=self._mean_errors(model, ranges), costs=self._costs(model, kept),
                reconstruct=self._reconstruct(model, ranges), finetune=self._finetune(model),
            )  # fmt: skip
        operators, known = share(
            model, converted, self.target, kept, ranges, self.calibration, self.precisions, self.options, inputs,
            self.out, self.threads,
        )  # fmt: skip
        return FileJob(converted, self.target, self.out, self.options, known, kept_operators=operators)

    def _costs(self, model: FloatModel, kept: Kept) -> KernelTable | None:
        if self.plan != "cost" or not self.target.timed or "int8" not in self.precisions:
            return None
        vit_plan, measure = self.options.vit_plan, self.measure_speed
        return kernel_costs(model, self.target, kept, vit_plan, threads=self.threads, measure=measure)

    def _mean_errors(self, model: FloatModel, ranges: Ranges | None) -> MeanErrors | None:
        """Returns what measures the errors that biases take back, on the inputs that were kept with the ranges."""
        feeds = kept_feeds(model, ranges)
        if not feeds:
            return None
        return partial(mean_errors, feeds=feeds, threads=self.threads)

    def _reconstruct(self, model: FloatModel, ranges: Ranges | None) -> Reconstruct | None:
        """Returns what learns the rounding of weights, on images to calibrate on or the inputs kept with ranges."""
        if self.options.rounding != "reconstruct" or self.calibration is None or ranges is None:
            return None
        num = min(self.calibration.num, images_to_learn_on(model.preprocessing.input_shape))
        return partial(reconstruct, feeds=calibration_feeds(model, self.calibration, num), threads=self.threads)

    def _finetune(self, model: FloatModel) -> Finetune | None:
        """Returns what trains a plan, on so many images to calibrate on."""
        if self.options.finetune is None or self.calibration is None:
            return None
        feeds = calibration_feeds(model, self.calibration, self.options.finetune)
        return partial(finetune, feeds=feeds, threads=self.threads)

    def _check(
        self,
        inputs: list[np.ndarray],
        reference: Reference,
        groups: Groups,
        model: FloatModel | TfliteModel,
        ranges: Ranges | None,
        example: np.ndarray | None = None,
    ) -> FileCheck:
        images = ComparedImages(model.preprocessing, self.calibration, example, ranges)
        return FileCheck(inputs, reference, groups, images, self.threads)

    def _write(self, file_format: FileFormat, job: FileJob, check: FileCheck) -> list[Exported]:
        """Returns the files of a format, each compared with the model."""
        write = file_format.function("write")
        jobs = [
            dataclasses.replace(job, precision=precision)
            for precision in self.precisions
            if precision in file_format.precisions
        ]
        return [check.written(each, write) for each in jobs]

    def _rewriting(self, job: FileJob | None, check: FileCheck) -> Rewriting | None:
        """Returns how the ONNX file in INT8 is written again; what is only timed is not trained."""
        if job is None:
            return None
        write, trains = get_format(FloatModel.format).function("write"), job.finetune

        def finish(each: FileJob) -> Exported:
            with without_notes():
                return check.written(dataclasses.replace(each, finetune=trains), write)

        return Rewriting(dataclasses.replace(job, precision="int8", finetune=None), write, finish)
