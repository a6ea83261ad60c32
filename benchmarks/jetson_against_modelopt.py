"""Do edgeq's INT8 and INT4 files for TensorRT cost fewer kernels and less accuracy than NVIDIA Model Optimizer's?

`python -m benchmarks.jetson_against_modelopt --work DIR --modelopt PYTHON` quantizes the same FP32 files on the same
images with both, compiles all files with TensorRT for RTX, and computes their outputs in exact arithmetic. Weights of
4 bits are compared for transformers, whose layers are products by matrices. Model Optimizer wants other versions of
onnx and onnxruntime than edgeq, so it runs in an environment of its own:

    python -m venv modelopt && modelopt/bin/pip install 'nvidia-modelopt[onnx]==0.47'

PYTHON is `modelopt/bin/python` then. No GPU is needed. What is finished is kept in `--work`. Models that are not named
keep the rows that the page in `--out` has of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.any_graph import request_of, torchvision_subject
from benchmarks.cases import (
    DATA,
    code_state,
    commit_of,
    cpu_and_threads,
    kept_result,
    read_subjects,
    rows_of,
    subjects_parser,
    write_result,
)
from benchmarks.image_sets import image_set
from benchmarks.scored_models import MODELS, ScoredModel, decibels, inputs_of, outputs_of, scores
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.onnx.weight_only import W4
from edgeq.exporting.options import ExportOptions
from edgeq.exporting.planning.keep import VitPlan
from edgeq.machine import read_machine
from edgeq.results.compilation import Compilation
from edgeq.runtimes.tensorrt.compile import Compiler
from edgeq.verbs.check_compile import compile_file
from edgeq.verbs.export import export_model

TARGET, EXACT = "jetson-orin-trt11", "simulated-tensorrt"
W4_TARGET, W4_EXACT = "rtx", "simulated-narrow"
"""Who has weights of 4 bits, and their arithmetic; it takes Model Optimizer's files too, which are not FP16."""
IMAGES, COMPARED, SCORED_EVERY = 40, 16, 5
LARGE, LARGE_IMAGES = ("resnet50", "vit_b_16"), 8
"""Models that take long, and how many images at most they are calibrated and compared on."""
MODELOPT = "nvidia-modelopt 0.47"
METHODS, INT4_METHODS = ("entropy", "max"), ("awq_clip", "rtn_dq")
PLANS: tuple[VitPlan, ...] = ("fast", "balanced", "safe")
WORK = Path("artifacts/jetson_against_modelopt")
PAGE = "jetson_against_modelopt.md"
HEADING = (
    "| model | file | kernels | INT8 or INT4 layers | fused attention | file MB | plan MB | dB mean | least | score "
    "| against FP32 | commit |"
)
SUBJECTS: Mapping[str, ScoredModel] = {
    **MODELS,
    "vit_b_16": ScoredModel(torchvision_subject("ViT-B/16", ":vit_b_16"), is_transformer=True),
}

Compile = Callable[[Path], Compilation]
"""ONNX file -> what the compiler makes of it."""


def prepare(name: str, data: Path, images: int, work: Path, python: Path) -> list[Artifact]:
    """Returns the files of a model, FP32 first; those that are there are kept.

    INT8 follows, edgeq's and Model Optimizer's, then files with weights of 4 bits in the same order.
    """
    folder, model = work / name, SUBJECTS[name]
    folder.mkdir(parents=True, exist_ok=True)
    given = image_set(model.images, data, work, scored_every=SCORED_EVERY)
    source = CalibrationSource(given.calibration, given.calibration_images, num=_images(name, images))
    plans: tuple[VitPlan | None, ...] = PLANS if model.is_transformer else (None,)
    fp32 = _export(name, "fp32", source, data, folder, None)
    files = [_export(name, "int8", source, data, folder, plan) for plan in plans]
    inputs = folder / "inputs.npy"
    if not inputs.is_file():
        assert fp32.preprocessing is not None
        np.save(
            inputs, np.concatenate([array for array, _ in source.inputs(fp32.preprocessing, _images(name, images))])
        )
    files += [quantize(python, fp32, inputs, method, folder) for method in METHODS]
    if model.is_transformer:
        files.append(_export(name, W4, source, data, folder, None))
        files += [quantize(python, fp32, inputs, method, folder) for method in INT4_METHODS]
    return [fp32, *files]


def _images(name: str, wanted: int) -> int:
    """Returns how many images a model is calibrated or compared on, of a wanted number."""
    return min(wanted, LARGE_IMAGES) if name in LARGE else wanted


def _export(
    name: str, precision: str, source: CalibrationSource, data: Path, folder: Path, plan: VitPlan | None
) -> Artifact:
    """Returns edgeq's file by its defaults, or by a plan for transformers; the first one calibrates."""
    target, out, ranges = W4_TARGET if precision == W4 else TARGET, folder / (plan or "edgeq"), folder / "ranges.json"
    pattern = f"*.{target}.{precision}.onnx"
    if not list(out.glob(f"{pattern}.json")):
        request = dataclasses.replace(request_of(SUBJECTS[name].subject, source, data, folder), opset=19)
        options = ExportOptions() if plan is None else ExportOptions(vit_plan=plan)
        calibration = CalibrationSource(ranges) if ranges.is_file() else source
        exported = export_model(request, target, (precision,), out, calibration=calibration, options=options)
        if exported.ranges_path is not None and exported.ranges_path != ranges:
            exported.ranges_path.replace(ranges)
    return Artifact.load(next(out.glob(pattern)))


def quantize(python: Path, fp32: Artifact, inputs: Path, method: str, folder: Path) -> Artifact:
    """Returns Model Optimizer's file of an FP32 file, with a manifest so that edgeq can compute and score it.

    Args:
        python: Of an environment that has it.
        fp32: The file.
        inputs: Inputs `(N, C, H, W)` to calibrate on, as `.npy`.
        method: For INT8 `entropy`, its default, or `max`; for INT4 `awq_clip`, its default, or `rtn_dq`.
        folder: Where to write.
    """
    path, is_int4 = folder / f"modelopt.{method}.onnx", method in INT4_METHODS
    if not path.is_file():
        # It writes the shapes that it infers into its input file, other files next to it, and for INT4 it builds an
        # extension by whatever project the working directory holds: it gets a copy and a folder of its own.
        with tempfile.TemporaryDirectory(dir=folder) as own:
            given, written = Path(own).absolute() / fp32.name, Path(own).absolute() / path.name
            shutil.copy(fp32.path, given)
            mode = "int4" if is_int4 else "int8"
            command = [str(python.absolute()), "-m", "modelopt.onnx.quantization", "--quantize_mode", mode]
            command += ["--calibration_method", method, "--onnx_path", str(given)]
            command += ["--calibration_data_path", str(inputs.absolute()), "--output_path", str(written)]
            if method == "awq_clip" and (gemms := _gemms(fp32.path)):
                command += ["--nodes_to_exclude", *gemms]
            done = subprocess.run(command, cwd=own, check=False, capture_output=True, text=True)
            if done.returncode or not written.is_file():
                sys.exit(f"Model Optimizer failed on {fp32.name}:\n{(done.stderr or done.stdout)[-2000:]}")
            written.replace(path)
    precision = W4 if is_int4 else "int8"
    return dataclasses.replace(fp32, path=path, precision=precision, quantization={"method": method}).save()


def _gemms(path: Path) -> list[str]:
    """Returns the names of the Gemm nodes of a file: `awq_clip` gives them scales that NVIDIA's parser refuses."""
    return [str(node.name) for node in read_onnx(path).graph if node.op_type == "Gemm"]


def judge(name: str, files: Sequence[Artifact], data: Path, work: Path, compiled: Compile) -> dict[str, Any]:
    """Returns what the files of a model cost: kernels, INT8 layers, fused attentions, sizes, dB and score."""
    given = image_set(SUBJECTS[name].images, data, work, scored_every=SCORED_EVERY)
    inputs = inputs_of(files[0], given, _images(name, COMPARED))
    reference = outputs_of(files[0], EXACT, inputs)
    rows = []
    for file in files[1:]:
        found = compiled(file.path)
        signal = decibels(reference, outputs_of(file, W4_EXACT if file.precision == W4 else EXACT, inputs))
        rows.append(
            {
                "title": _title(file),
                "built": found.is_built,
                "reason": found.reason,
                "kernels": found.kernels,
                "int8": found.by_precision.get("int8", 0),
                "int4": sum(node.planned == "weights" for node in found.nodes),
                "attention": dict(found.fused_attention),
                "plan_bytes": found.plan_bytes,
                "file_bytes": file.path.stat().st_size,
                "db": [float(np.mean(signal)), min(signal)],
                "compiler": f"{found.library}, {found.sm}",
            }
        )
    scored = scores([file for file in files if file.precision != W4], EXACT, given)
    narrow = [files[0], *(file for file in files if file.precision == W4)]
    if scored is not None and len(narrow) > 1:
        scored += (scores(narrow, W4_EXACT, given) or [])[1:]
    return {"rows": rows, "scores": scored, "state": code_state()}


def _title(file: Artifact) -> str:
    plan, method = file.quantization.get("vit_plan"), file.quantization.get("method")
    precision = "INT4" if file.precision == W4 else "INT8"
    tool = "Model Optimizer" if file.path.name.startswith("modelopt") else "edgeq"
    return ", ".join(str(each) for each in (f"{tool} {precision}", method, plan) if each is not None)


def run(
    names: Iterable[str],
    out: Path,
    python: Path,
    *,
    data: Path = DATA,
    images: int = IMAGES,
    work: Path = WORK,
    compiled: Compile | None = None,
) -> Path:
    """Returns the result file.

    Args:
        names: Of `SUBJECTS`.
        out: Folder of the result file, whose rows of other models stay.
        python: Of an environment that has Model Optimizer.
        data: Folder of the real data.
        images: How many images are calibrated on.
        work: Folder for files and results.
        compiled: The compiler; by default TensorRT for RTX.
    """
    results = {}
    for name in names:
        files = prepare(name, data, images, work, python)
        digest = files[1].digest[:12]
        kept = work / f"{name}.{digest}.json"
        if compiled is not None:
            results[name] = kept_result(kept, judge, name, files, data, work, compiled)
            continue
        with Compiler() as compiler:
            results[name] = kept_result(kept, judge, name, files, data, work, partial(compile_file, compiler=compiler))
    return write_result(out, PAGE, to_markdown(results, images, rows_of(out / PAGE, HEADING)))


def to_markdown(results: Mapping[str, Mapping[str, Any]], images: int, earlier: Mapping[str, Sequence[str]]) -> str:
    """Returns the table: a row for each quantized file, and before them what FP32 scores.

    Args:
        results: Model -> what was measured.
        images: How many images were calibrated on.
        earlier: Title of a model -> rows of earlier runs, for what was not measured.
    """
    lines = [
        "# INT8 and INT4 for TensorRT: edgeq against NVIDIA Model Optimizer",
        "",
        HEADING,
        "|---|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    titles = {name: model.subject.title for name, model in SUBJECTS.items()}
    for name, title in titles.items():
        lines += _rows(title, results[name]) if name in results else earlier.get(title, ())
    shown = {name: title for name, title in titles.items() if name in results or title in earlier}
    several = [title.partition(" (")[0] for name, title in shown.items() if name in LARGE]
    large = f" ({' and '.join(several)}: {LARGE_IMAGES})" if several else ""
    compilers = sorted({row["compiler"] for result in results.values() for row in result["rows"]})
    has_int4 = any(" INT4" in line for line in lines[3:])
    lines += [
        "",
        f"Calibrated on the same {images} images{large}. Kernels, layers and plan: {', '.join(compilers)}, "
        "which is not a Jetson's TensorRT; no speed was measured. dB: signal-to-noise ratio of the outputs against "
        f"FP32 on {COMPARED} other images{large}. dB and score: simulated, by ONNX Runtime {version('onnxruntime')} "
        f"without graph optimizations, on {cpu_and_threads(read_machine(), 1)}. {MODELOPT}, by its defaults but for "
        "the method. Commit: edgeq's; rows with an earlier one are of earlier runs.",
    ]
    if has_int4:
        lines += [
            "",
            "INT4: weights alone. edgeq's are of target `rtx`, in blocks of 32 with scales of FP16 in a graph of FP16, "
            "rounded by what layers read on the inputs that the ranges keep, eight of these images. "
            "Model Optimizer's are in blocks of 128, in a graph of FP32, and a Gemm stays in FP32 with `awq_clip`, "
            "which gives it scales that the parser refuses.",
        ]
    if missing := [title for name, title in titles.items() if name not in shown]:
        lines += ["", f"Not run: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def _rows(title: str, result: Mapping[str, Any]) -> list[str]:
    """Returns the rows of a model, the first of which has its title: of FP32, if it is scored, and of its files."""
    commit, scored = commit_of(result["state"]), result["scores"] or [{}] * (len(result["rows"]) + 1)
    cells = [f"FP32 |{' |' * 7} {_score(scored[0])}"] if scored[0] else []
    cells += [
        f"{row['title']} | {_cells(row)} | {_score(score)}"
        for row, score in zip(result["rows"], scored[1:], strict=True)
    ]
    return [f"| {'' if index else title} | {each} | {commit} |" for index, each in enumerate(cells)]


def _cells(row: Mapping[str, Any]) -> str:
    attention = ", ".join(f"{count} {types}" for types, count in row["attention"].items())
    compiled = f"{row['kernels']} | {row['int8'] or row['int4']} | {attention}"
    sizes = f"{row['file_bytes'] / 1e6:.1f} | {row['plan_bytes'] / 1e6:.1f}"
    mean, least = row["db"]
    return f"{compiled if row['built'] else row['reason'] + ' |  | '} | {sizes} | {mean:.1f} | {least:.1f}"


def _score(score: Mapping[str, Any]) -> str:
    """Returns the cells of a file's score; FP32's is compared with nothing, and says what it is of how many images."""
    if not score:
        return " | "
    if "drop" not in score:
        return f"{score['name']} {score['value']:.4f}, {score['images']} images | "
    gain, high, low = (0.0 - each / 100 for each in score["drop"])
    return f"{score['value']:.4f} | {gain:+.4f} [{low:+.4f}, {high:+.4f}]"


def make_parser() -> argparse.ArgumentParser:
    parser = subjects_parser(__doc__, SUBJECTS, SUBJECTS, IMAGES, WORK)
    parser.add_argument("--modelopt", type=Path, required=True, help="Python of an environment with Model Optimizer")
    return parser


def main() -> None:
    given = read_subjects(make_parser(), SUBJECTS)
    run(given.names, given.out, given.modelopt, data=given.data, images=given.images, work=given.work)


if __name__ == "__main__":
    main()
