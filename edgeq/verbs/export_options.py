"""Refuses what contradicts itself, or would change nothing, before `edgeq export` opens a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from edgeq.calibration.finetuning.finetune import FEWEST
from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import InputError
from edgeq.exporting.options import ExportOptions, Rounding
from edgeq.exporting.passes.rescalings import RESCALINGS
from edgeq.exporting.planning.keep import VitPlan
from edgeq.exporting.tflite.writer import COMPATIBLE
from edgeq.inputs import Item
from edgeq.quantizers.recipes import get_recipe
from edgeq.registry import registered
from edgeq.schemes import LOW_BITS, STATIC_PRECISIONS
from edgeq.sources.formats import FORMATS, get_format, source_format
from edgeq.sources.model import ModelRequest, require_onnx_for_scales
from edgeq.targets import Target, get_target
from edgeq.wording import did_you_mean

_FOR_GRAPHS = frozenset({"vit_plan", "rescale", "rounding", "int8_deconv", "finetune", "size", "dynamic_batch"})
"""Parameters that a file of a format with a form of its own is too late for."""

_STATIC = (*STATIC_PRECISIONS, "w4a8", "fp8")
"""Precisions that need ranges."""

GROUP_SIZES = (8, 16, 32, 64, 128, 256)
"""What `group_size` takes."""

_DEFAULT_OPSET = ModelRequest("").opset


def check_options(
    request: ModelRequest,
    target: Target,
    formats: Sequence[str],
    precisions: Sequence[str],
    calibration: CalibrationSource | None,
    options: ExportOptions,
) -> None:
    """Refuses an export whose arguments do not fit each other.

    Raises:
        InputError: a name is unknown, ranges are missing, or a parameter has no effect.
    """
    if options.vit_plan not in get_args(VitPlan):
        raise InputError(f"`vit_plan` {options.vit_plan}: wanted one of {', '.join(get_args(VitPlan))}")
    if options.rescale is not None and options.rescale not in RESCALINGS:
        raise InputError(f"`rescale` {options.rescale}: wanted one of {', '.join(RESCALINGS)}")
    if options.rounding not in get_args(Rounding):
        raise InputError(f"`rounding` {options.rounding}: wanted one of {', '.join(get_args(Rounding))}")
    require_onnx_for_scales(request)
    _check_formats(request, target, formats, options)
    _check_precisions(target, formats, precisions, calibration, taken=request.take_scales)
    _check_effects(request, target, formats, precisions, options.given)
    _check_low_bits(target, precisions, calibration, options)
    if options.finetune is not None:
        _check_finetune(options.finetune, formats, calibration)
    if target.rules.fp16 == "graph" and request.opset < target.rules.opset:
        raise InputError(
            f"opset {request.opset}: Q/DQ nodes take FP16 scales from opset {target.rules.opset} on, and {target.name} "
            "needs them; omit `opset`"
        )


def with_int8_deconv(target: Target) -> Target:
    """Returns a target that runs ConvTranspose in INT8, as it is or as Conv + DepthToSpace.

    Raises:
        InputError: it does so by itself.
    """
    rules = target.rules
    if rules.static("ConvTranspose") is not None:
        raise InputError(f"`int8_deconv`: the target {target.name} runs ConvTranspose in INT8 by itself; omit it")
    if "ConvTranspose" in rules.on_request:
        return dataclasses.replace(target, rules=rules.requested("ConvTranspose"))
    return dataclasses.replace(target, rules=dataclasses.replace(rules, rewrite_conv_transpose=True))


def takes_ranges(target: Target, precisions: Sequence[str]) -> bool:
    """Returns whether files of these precisions are made from ranges."""
    audited = not {"fp16", "w4", "fp4"}.isdisjoint(precisions) and target.rules.fp16 != "weights"
    return audited or bool(set(precisions) & set(_STATIC))


def known_weights(target: Target) -> tuple[str, ...]:
    """Returns the precisions of a target in which weights alone have few bits: on x86 all of 2 to 8."""
    if target.rules.isa is not None:
        return LOW_BITS
    return target.rules.weight_only_schemes if target.rules.fp16 == "graph" else ()


def _check_low_bits(
    target: Target, precisions: Sequence[str], calibration: CalibrationSource | None, options: ExportOptions
) -> None:
    """Refuses options of weights of few bits that have no effect, or cannot be followed."""
    if options.group_size not in (None, *GROUP_SIZES):
        raise InputError(f"`group_size` {options.group_size}: wanted one of {', '.join(map(str, GROUP_SIZES))}")
    if options.weight_method is None and options.group_size is None:
        return
    if target.rules.fp16 == "graph":
        name = "weight_method" if options.weight_method is not None else "group_size"
        raise InputError(f"`{name}`: INT4 weights for {target.name} are in groups of 32, by GPTQ; omit `{name}`")
    if options.weight_method is None or not get_recipe(options.weight_method).reads_inputs:
        return
    if calibration is None or not calibration.has_images:
        raise InputError(
            f"`weight_method` {options.weight_method}: goes by what the layers read; give `calib` with images, or "
            "choose rtn or hqq"
        )


def _check_formats(request: ModelRequest, target: Target, formats: Sequence[str], options: ExportOptions) -> None:
    taken = (*target.formats, *target.optional_formats)
    for name in formats:
        if name not in taken and (name in FORMATS or name not in registered("format", FORMATS)):
            raise InputError(
                f"`format` {name}: the target {target.name} takes {' and '.join(target.formats)}; TFLite files are "
                "written for `target` arm, and run on x86 too"
            )
    source = source_format(request.reference)
    if source.has_own_form and tuple(formats) != (source.name,):
        raise InputError("a TFLite file becomes TFLite files only; start from the torch model or the ONNX file")
    if options.compat not in (None, *COMPATIBLE):
        raise InputError(f"`compat` {options.compat}: known are {', '.join(COMPATIBLE)}")
    if "tflite" not in formats and (options.integer_io or options.compat):
        raise InputError("`int8_io` and `compat` are for TFLite files; choose `target` arm")


def _check_precisions(
    target: Target,
    formats: Sequence[str],
    precisions: Sequence[str],
    calibration: CalibrationSource | None,
    *,
    taken: bool,
) -> None:
    known = list(dict.fromkeys(precision for name in formats for precision in get_format(name).precisions))
    unknown = [precision for precision in precisions if precision not in known]
    if unknown or not precisions:
        written = [name for name in target.optional_formats if {*unknown} & {*get_format(name).precisions}]
        hint = f"; choose `format` {written[0]}" if written else ""
        near = did_you_mean(unknown[0], known) if unknown and not written else ""
        raise InputError(
            f"`precision` {','.join(unknown) or '(none)'}: {near}known are {', '.join(known)} "
            f"({' and '.join(formats)}){hint}"
        )
    if "dynamic" in precisions and not target.rules.takes_dynamic:
        raise InputError(f"`precision` dynamic: the engines of {target.name} take no dynamic INT8 files; choose int8")
    if "fp8" in precisions and not target.rules.takes_fp8:
        raise InputError(
            f"`precision` fp8: edgeq writes no FP8 files for the engines of {target.name}; choose int8, or `target` rtx"
        )
    if "w4a8" in precisions and not target.rules.takes_w4a8:
        raise InputError(
            f"`precision` w4a8: edgeq writes no such files for the engines of {target.name}; choose int8, or `target` "
            "x86"
        )
    in_tflite = get_format("tflite").precisions if tuple(formats) == ("tflite",) else ()
    for name in ("fp4", *LOW_BITS):
        if name in precisions and name not in (*known_weights(target), *in_tflite):
            others = (
                "`target` rtx" if name == "fp4" else "`target` x86, or rtx for w4, or `format` tflite for w4 on arm"
            )
            raise InputError(
                f"`precision` {name}: edgeq writes no such weights for the engines of {target.name}; choose int8, or "
                f"{others}"
            )
    if calibration is not None and calibration.is_cache and not target.rules.symmetric:
        raise InputError(
            f"{calibration.source}: a calibration cache holds symmetric ranges alone, which cost {target.name} half "
            "its steps; calibrate on images"
        )
    needing = [precision for precision in precisions if precision in _STATIC]
    if taken and calibration is not None:
        raise InputError("`calib`: with `take_scales` the ranges are those of the model's file; omit one of the two")
    if needing and calibration is None and not taken:
        raise InputError(
            f"{needing[0]} needs ranges: give `calib` with images or a ranges file of `edgeq calibrate`, or `data`"
        )


def _check_finetune(images: int, formats: Sequence[str], calibration: CalibrationSource | None) -> None:
    if "tflite" in formats:
        raise InputError("`finetune`: trains ONNX files, and the TFLite file would differ from them; add `format` onnx")
    if images < FEWEST:
        raise InputError(f"`finetune` {images}: wanted at least {FEWEST} images, better 256 or more")
    if calibration is None or not calibration.has_images:
        raise InputError(f"`finetune` {images}: trains on images; give `calib` with images")
    if (count := len(calibration.data())) < images:
        fewer = f", or `finetune` at most {count}" if count >= FEWEST else ""
        raise InputError(f"`finetune` {images}: there are {count} images to calibrate on; give more{fewer}")


def _check_effects(
    request: ModelRequest, target: Target, formats: Sequence[str], precisions: Sequence[str], given: Sequence[str]
) -> None:
    """Refuses parameters that would change nothing in the files that are asked for.

    Args:
        request: The model.
        target: Whose rules to follow.
        formats: Of the files.
        precisions: Of the files.
        given: The parameters that are not at their default.
    """
    if "rescale" in given and "tflite" in formats:
        raise InputError(
            "`rescale`: a TFLite file cannot hold it, its converter moves scales into the layers behind; "
            "add `format` onnx"
        )
    for name in given:
        effects = [get_format(each).effects.get(name, frozenset()) for each in formats]
        effective = frozenset[str]().union(*effects)
        if not effective.intersection(precisions):
            wanted = ", ".join(sorted(effective)) or "no"
            raise InputError(
                f"`{name}`: changes {wanted} {' and '.join(formats)} files, and {', '.join(precisions)} is asked for; "
                f"omit `{name}`"
            )
    if source_format(request.reference).has_own_form:
        further = (("size", request.size is not None), ("dynamic_batch", request.dynamic_batch))
        for name in (*given, *(name for name, is_given in further if is_given)):
            if name in _FOR_GRAPHS:
                raise InputError(
                    f"`{name}`: cannot be combined with a TFLite file; start from the torch model or ONNX file"
                )
    if "onnx" not in formats:
        for name, is_given in (
            ("opset", request.opset not in (_DEFAULT_OPSET, target.rules.opset)),
            ("dynamic_batch", request.dynamic_batch),
        ):
            if is_given:
                raise InputError(f"`{name}`: is for ONNX files, and {', '.join(formats)} is written; omit `{name}`")


def check_calibration_options(
    target_name: str,
    precisions: Sequence[str],
    rescale: str | None,
    calib: Path | Ranges | Sequence[Item] | None,
    images: Path | None,
    method: str | None,
    num: int | None,
    pick: str | None = None,
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
        pick: How they are to be chosen.

    Raises:
        InputError: an option has no effect.
    """
    typed = {"images": images, "method": method, "num": num, "pick": pick}
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
    if takes_ranges(get_target(target_name), precisions):
        return
    if no_images:
        raise InputError(f"{source}: {', '.join(precisions)} files need no ranges; omit `calib`")
    reads_images = rescale is not None or not set(LOW_BITS).isdisjoint(precisions)
    if method is not None or pick is not None or (num is not None and not reads_images):
        option = "method" if method is not None else "num" if pick is None else "pick"
        raise InputError(f"`{option}`: {', '.join(precisions)} files need no ranges; omit `{option}`")
