"""`edgeq.export`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from edgeq.api.arguments import (
    FilePath,
    Listener,
    Names,
    calibration_split,
    names,
    optional_path,
    path,
    reporting,
    require_positive,
)
from edgeq.api.model import Model, require_model
from edgeq.calibration.calibrate import DEFAULT_NUM
from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import InputError
from edgeq.evaluation.preset_proof import AnnotatedImages, proven_request
from edgeq.exporting.options import ExportOptions, Rounding
from edgeq.exporting.planning.keep import VitPlan
from edgeq.inputs import Item, items_of
from edgeq.inputs.coverage import Pick
from edgeq.targets import for_runtime
from edgeq.verbs.export import ExportResult, export_model
from edgeq.verbs.export_costs import PlanBy, default_measuring, default_plan
from edgeq.verbs.export_options import check_calibration_options


def export(
    model: Model,
    target: str = "x86",
    precision: Names = "fp32",
    *,
    runtime: str | None = None,
    calib: FilePath | Ranges | Iterable[Any] | None = None,
    images: FilePath | None = None,
    data: FilePath | None = None,
    split: str | None = None,
    allow_outside: bool = False,
    pick: Pick | None = None,
    method: str | None = None,
    num: int | None = None,
    out: FilePath = "artifacts",
    format: Names | None = None,
    keep: str | Iterable[str] = (),
    vit_plan: VitPlan = "balanced",
    rescale: str | None = None,
    rounding: Rounding = "nearest",
    int8_deconv: bool = False,
    int8_io: bool = False,
    compat: str | None = None,
    measure_speed: bool | None = None,
    plan: PlanBy | None = None,
    isa: str | None = None,
    finetune: int | None = None,
    weight_method: str | None = None,
    group_size: int | None = None,
    threads: int | None = None,
    verify: Literal["compile"] | None = None,
    progress: Listener = None,
) -> ExportResult:
    """Returns the files of a model for a target, each compared with the model, with its manifest next to it.

    The files are those that `edgeq export` writes with the same arguments, byte by byte.

    Args:
        model: What `edgeq.load` returned.
        target: A name of `edgeq.targets.TARGETS`: `x86`, `x86-openvino`, `x86-ort`, `arm`, `jetson-orin`,
            `jetson-orin-trt11` or `rtx`, or an installed one.
        precision: `fp32`, `fp16`, `int8`, `dynamic`; for `x86` `w4a8` (INT4 weights, computed in INT8); for TFLite
            `int16x8`; for `rtx` `fp8` (from SM89 on), `w4` (INT4 weights) and `fp4` (FP4 weights, from SM120 on); for
            `x86` `w2` to `w8` (weights of 2 to 8 bits alone), in the format `openvino` `nf4` too, and for `arm` in the
            format `tflite` `w4`: one, or several.
        runtime: For `x86`, the engine that files are planned for: `openvino` (the default) or `onnxruntime`.
        calib: Ranges for `int8`: what `edgeq.calibrate` returned, the path of a ranges file, of images or of a
            calibration cache of TensorRT, or arrays as `edgeq.calibrate` takes them. At most `num` elements of an
            iterable are held in memory; calibrate first to hold one at a time.
        images: Folder of the images of a COCO annotation file.
        data: Instead of these two, a data set of any format that `edgeq data` knows, to calibrate on.
        split: Split of it to take; by default `train`, or else `val`.
        allow_outside: Whether files may be read that it names outside its own folder.
        pick: How `num` images are chosen: `even` (the default), or `spread`: by coverage, with k-means++.
        method: Calibration method; by default that of the ranges, or `lp`.
        num: Maximum number of calibration images; by default 512.
        out: Folder for the files.
        format: `onnx` or `tflite`: one, or several; by default every format of the target. For `w4`, `w8` and `nf4` of
            `x86-openvino` there is also `openvino`, its own format.
        keep: What stays in float: a node's name, a regular expression, an operator type, or `vit.[BLOCKS.]PART` of a
            transformer; or several of them.
        vit_plan: Transformers: `fast`, `balanced` or `safe`.
        rescale: Even out channels first: `smooth` or `unify` those behind LayerNorm, `equalize` those between
            convolutions.
        rounding: How weights of `int8` and `w4a8` ONNX files are rounded: to the `nearest` integers, or as
            `reconstruct` learns it block by block on the images of `calib`, which takes minutes.
        int8_deconv: jetson-orin, rtx: ConvTranspose in INT8 too.
        int8_io: TFLite: integer inputs and outputs.
        compat: TFLite: an old runtime that has to run the files correctly.
        measure_speed: x86: whether INT8 files are timed against FP32 in the target's engine, a few seconds each, and
            their manifests recommend the faster file. Where INT8 is not faster, up to half a minute more looks for a
            smaller selection of INT8 layers that is. By default yes, unless the environment has `EDGEQ_MEASURE=0`.
        plan: x86: run in INT8 only what takes less time so, by the `cost` of kernels that is measured on this machine
            (or shipped with edgeq, if nothing may be measured); or all that the target's `rules` allow. By default
            `cost`, unless the environment has `EDGEQ_PLAN=rules`.
        isa: x86: CPUs that INT8 files are for: `avx2`, `vnni`, `amx`, or `any` for all; by default this machine's.
        finetune: Train `int8` and `w4a8` ONNX files for a few minutes on so many images of `calib`, at least 16,
            without labels, to give what the float model gives.
        weight_method: x86, `w2` to `w8`: `rtn` (round to nearest), `hqq`, `gptq`, `gptq-act-order`, `awq` or
            `awq+gptq`; by default `gptq-act-order` with images in `calib`, and `rtn` without.
        group_size: x86, `w2` to `w8`: inputs of a layer that share a scale, 8 to 256; by default 32.
        threads: CPU threads for calibration and timing; by default one per physical core.
        verify: Jetson: `compile` compiles the files with TensorRT for RTX too: `result.compiled`.
        progress: Called for each job, returns an `edgeq.Progress`.

    Raises:
        InputError: an argument cannot be used; nothing is written.
        ModelError: the model cannot be opened or converted, or a file does not compute what the model computes; that
            file is removed.
        MismatchError: the ranges belong to another model or pre-processing.
    """
    require_model(model)
    target = for_runtime(target, runtime)
    require_positive(num, "num")
    require_positive(threads, "threads")
    folder, images_dir, precisions = path(out, "out"), optional_path(images, "images"), names(precision)
    if data is not None and not (calib is None and images is None):
        raise InputError("`data` takes the place of `calib` and `images`; omit them")
    source, request = _source(calib, num or DEFAULT_NUM), model.request(target)
    if data is not None:
        found = calibration_split(path(data, "data"), split, allow_outside)
        source, request = found.items, proven_request(request, AnnotatedImages.of(None, None, found))
    elif split is not None:
        raise InputError("`split`: is for `data`, and there is none; omit it")
    check_calibration_options(target, precisions, rescale, source, images_dir, method, num, pick)
    taken, picked = num or DEFAULT_NUM, pick or "even"
    calibration = None if source is None else CalibrationSource(source, images_dir, method, taken, picked)
    kept = (keep,) if isinstance(keep, str) else tuple(keep)
    with reporting(progress):
        return export_model(
            request,
            target,
            precisions,
            folder,
            calibration=calibration,
            formats=names(format),
            options=ExportOptions(
                kept,
                vit_plan,
                rescale,
                int8_deconv,
                int8_io,
                compat,
                isa,
                rounding,
                finetune,
                weight_method,
                group_size,
            ),
            threads=threads,
            measure_speed=default_measuring(measure_speed),
            plan=default_plan(plan),
            verify=verify,
        )


def _source(calib: FilePath | Ranges | Iterable[Any] | None, num: int) -> Path | Ranges | Sequence[Item] | None:
    if calib is None or isinstance(calib, Ranges):
        return calib
    return Path(calib) if isinstance(calib, str | os.PathLike) else list(items_of(calib, num))
