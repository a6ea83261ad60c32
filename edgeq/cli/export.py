"""`edgeq export`: parses, calls, prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from edgeq.cli import checkpoint, data_set, model_parts, names
from edgeq.cli.options import (
    FLOAT_MODEL,
    AllowOutside,
    CalibrationMethod,
    Data,
    ImagesDir,
    JsonFile,
    Labels,
    PickOption,
    PresetOption,
    Size,
    SplitName,
    Threads,
    Weights,
    model_request,
    refuse_given,
    require_writable_json,
    write_json_file,
)
from edgeq.cli.printing import say

if TYPE_CHECKING:
    from edgeq.exporting.options import Rounding
    from edgeq.exporting.planning.keep import VitPlan
    from edgeq.inputs.coverage import Pick

_OF_FOLDERS = frozenset(
    {
        "model", "out", "target", "runtime", "preset", "part", "keep", "calib", "tokenizer", "download", "threads",
        "json_file", "progress",
    }
)  # fmt: skip
"""What `export` takes for a Hugging Face folder that becomes a bundle."""


def export(
    context: typer.Context,
    model: Annotated[str, FLOAT_MODEL],
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("artifacts"),
    target: Annotated[
        str,
        typer.Option(
            help="Device to export for: x86 (or x86-openvino, x86-ort), arm, jetson-orin, jetson-orin-trt11 or rtx.",
            **names.TARGET,
        ),
    ] = "x86",
    runtime: Annotated[
        str | None,
        typer.Option(
            help="x86: engine that the files are planned for, openvino (the default) or onnxruntime.", **names.RUNTIME
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, fp16, int8, dynamic; for x86 w4a8 (weights of 4 bits, computed in int8) and w2 to w8 (weights "
            "alone; nf4 by --format openvino); for TFLite int16x8; for rtx fp8, w4 and fp4. Separate them with commas.",
            **names.PRECISION,
        ),
    ] = "fp32",
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="onnx or tflite, by default all of the target; openvino (for w4, w8, nf4) on request; repeatable. "
            "Of a Hugging Face folder gptq, awq or compressed-tensors: a checkpoint with weights of few bits.",
        ),
    ] = None,
    weights: Weights = None,
    calib: Annotated[
        Path | None,
        typer.Option(
            help="Ranges for int8: a ranges file, images (folder, list of paths, COCO .json with --images), or a "
            "calibration cache of TensorRT. For a checkpoint: a text, or a .npy file of token numbers."
        ),
    ] = None,
    images: ImagesDir = None,
    data: Data = None,
    split: SplitName = None,
    allow_outside: AllowOutside = False,
    pick: PickOption = None,
    method: CalibrationMethod = None,
    num: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of calibration images (sampled evenly), by default 512.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Keep in float: a node's name, a regular expression, an operator type, or of a transformer "
            "vit.[BLOCKS.]PART (vit.fc2, vit.end.qk, vit.0-3); repeatable."
        ),
    ] = None,
    vit_plan: Annotated[
        str,
        typer.Option(
            help="Transformers: fast (patch embedding and, on Jetson and in OpenVINO with VNNI, attention products in "
            "INT8 too), balanced, or safe (layers that write to the residual stream stay in float)."
        ),
    ] = "balanced",
    rescale: Annotated[
        str | None,
        typer.Option(
            help="Even out channels by what the images show, exactly in float: smooth (SmoothQuant) or unify "
            "(RepQ-ViT) behind LayerNorm, equalize between convolutions."
        ),
    ] = None,
    rounding: Annotated[
        str,
        typer.Option(
            help="How weights of int8 and w4a8 ONNX files are rounded: nearest, or reconstruct: learned block by block "
            "on the images of --calib, which takes minutes."
        ),
    ] = "nearest",
    weight_method: Annotated[
        str | None,
        typer.Option(
            help="w2 to w8: rtn (round to nearest), hqq, gptq, gptq-act-order, awq or awq+gptq; by default "
            "gptq-act-order with --calib, and rtn without."
        ),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            help="w2 to w8: inputs of a layer that share a scale, 8 to 256; by default 32, and 128 in a checkpoint."
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            help="Checkpoints: leave in FP16 a part (vision, connector, lm_head, decoder), a name or its beginning, a "
            "type, or a regular expression; repeatable. By default vision, connector and lm_head."
        ),
    ] = None,
    int8_deconv: Annotated[
        bool, typer.Option("--int8-deconv", help="jetson-orin, rtx: ConvTranspose in INT8 too, instead of FP16.")
    ] = False,
    integer_io: Annotated[
        bool, typer.Option("--int8-io", help="TFLite: integer inputs and outputs, for hardware without floating point.")
    ] = False,
    compat: Annotated[
        str | None, typer.Option(help="TFLite: restrict files to what the old tflite-runtime runs correctly.")
    ] = None,
    isa: Annotated[
        str | None,
        typer.Option(
            metavar="ISA",
            help="x86: CPUs that INT8 files are for: avx2, vnni, amx, or any (all); by default this machine's.",
        ),
    ] = None,
    finetune: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="ONNX: train int8 and w4a8 files for a few minutes on N images of --calib, without labels, to give "
            "what the float model gives; kept if held-out images confirm it.",
        ),
    ] = None,
    take_scales: Annotated[
        bool,
        typer.Option(
            "--take-scales",
            help="An ONNX file that is quantized already (Q/DQ or QOperator): write files with the scales that it has.",
        ),
    ] = False,
    preset: PresetOption = None,
    size: Size = None,
    labels: Labels = None,
    measure_speed: Annotated[
        bool | None,
        typer.Option(
            "--measure/--no-measure",
            help="x86: time int8 against fp32 in the target's engine and recommend the faster file; a few seconds, and "
            "up to 30 more for a smaller selection of int8 layers if int8 is not faster. The default, unless the "
            "environment has EDGEQ_MEASURE=0.",
        ),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            help="x86: run in int8 only what takes less time so, by kernel costs measured here (--no-measure: shipped "
            "ones): cost, the default; or all that the target's rules allow, on every machine the same: rules. Unless "
            "given, the environment's EDGEQ_PLAN.",
        ),
    ] = None,
    verify: Annotated[
        Literal["compile"] | None,
        typer.Option(
            help="Jetson: compile the files with TensorRT for RTX too, as `edgeq check --compile` does; exit 1 if it "
            "refuses one.",
        ),
    ] = None,
    opset: Annotated[int | None, typer.Option(min=17, max=23, help="ONNX opset; by default the target's.")] = None,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="Leave the batch dimension free.")] = False,
    part: model_parts.PartOption = None,
    tokenizer: model_parts.TokenizerOption = None,
    download: model_parts.DownloadOption = False,
    threads: Threads = None,
    json_file: JsonFile = None,
) -> None:
    """Export a model for a target; check each file against the model and write its manifest.

    A local Hugging Face folder of a language or vision-language model becomes a bundle: one file per part.
    """
    from edgeq.bundles.source import is_model_folder
    from edgeq.calibration.calibrate import DEFAULT_NUM
    from edgeq.calibration.source import CalibrationSource
    from edgeq.cli.check_console import describe_compilations
    from edgeq.cli.export_console import describe_export
    from edgeq.errors import InputError
    from edgeq.evaluation.preset_proof import AnnotatedImages, proven_request
    from edgeq.exporting.options import ExportOptions
    from edgeq.targets import for_runtime, get_target
    from edgeq.verbs.export import export_model
    from edgeq.verbs.export_checkpoint import is_checkpoint_format
    from edgeq.verbs.export_costs import default_measuring, default_plan
    from edgeq.verbs.export_options import check_calibration_options

    require_writable_json(json_file)
    model = context.params["model"] = model_parts.fetched(model, download=download)
    if is_checkpoint_format(formats or ()):
        checkpoint.export_checkpoint_command(context)
        return
    if skip:
        raise InputError("`skip`: is for checkpoints (`format` gptq, awq or compressed-tensors); `keep` is for files")
    target = for_runtime(target, runtime)
    if is_model_folder(Path(model)):
        refuse_given(
            context,
            context.params.keys() - _OF_FOLDERS,
            "is not for a Hugging Face folder, whose precisions are set by --part and --preset",
        )
        if precision != "fp32" and not (part or preset):
            raise InputError(
                f"{model}: a Hugging Face folder has a precision per part, and {precision} names none; give --preset "
                "uniform-8 or asymmetric, or --part decoder=w4g32-gptq"
            )
        model_parts.export(
            model, out, target=target, preset=preset, part=part, keep=keep, calib=calib, tokenizer=tokenizer,
            threads=threads, json_file=json_file,
        )  # fmt: skip
        return
    refuse_given(context, {"part", "tokenizer"}, "is for a Hugging Face folder with a config.json; the model is none")
    if not get_target(target).timed:
        others = "is for x86 targets, whose engines edgeq times on this machine"
        refuse_given(context, {"measure_speed", "plan"}, f"{others}; {target} is none")
    request = model_request(
        model, weights, preset, size, labels, opset=opset, target=target, dynamic_batch=dynamic_batch,
        take_scales=take_scales,
    )  # fmt: skip
    precisions = [name.strip() for name in precision.split(",") if name.strip()]
    found = data_set.open_for_calibration(data, split, allow_outside, calib=calib, images=images)
    source = calib if found is None else found.items
    request = proven_request(request, AnnotatedImages.of(None, None, found))
    check_calibration_options(target, precisions, rescale, source, images, method, num, pick)
    picked = cast("Pick", pick or "even")
    calibration = None if source is None else CalibrationSource(source, images, method, num or DEFAULT_NUM, picked)
    result = export_model(
        request,
        target,
        precisions,
        out,
        calibration=calibration,
        formats=formats or (),
        options=ExportOptions(
            keep=tuple(keep or ()),
            vit_plan=cast("VitPlan", vit_plan),
            rescale=rescale,
            int8_deconv=int8_deconv,
            integer_io=integer_io,
            compat=compat,
            isa=isa,
            rounding=cast("Rounding", rounding),
            finetune=finetune,
            weight_method=weight_method,
            group_size=group_size,
        ),
        threads=threads,
        measure_speed=default_measuring(measure_speed),
        plan=default_plan(plan),
        verify=verify,
    )
    for line in (*describe_export(result), *describe_compilations(result.compiled.items())):
        say(line)
    write_json_file(json_file, result.to_json())
    if any(compiled.is_wrong for compiled in result.compiled.values()):
        raise typer.Exit(1)
