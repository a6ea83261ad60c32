"""Does NVIDIA's compiler compute the models' files for a Jetson and for RTX GPUs as planned, layer by layer?

`python -m benchmarks.compile_zoo` writes the files of each model of `benchmarks.any_graph` for the targets of TensorRT,
as an export does that compares none of them, corrects no biases and rounds to nearest, or takes those that an earlier
run or any_graph left in `--work`, and compiles them with TensorRT for RTX. What is finished is kept in `--work`: the
same command resumes. It needs no GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.any_graph import SUBJECTS, Subject, request_of
from benchmarks.cases import (
    DATA,
    code_state,
    kept_result,
    read_subjects,
    states_of,
    subjects_parser,
    write_result,
)
from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import EdgeqError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.jobs import FileJob
from edgeq.exporting.onnx.writer import FloatModel, engine_graph
from edgeq.exporting.planning.keep import Kept, resolve_keep
from edgeq.results.serialization import to_json
from edgeq.runtimes.tensorrt.compile import Compiler
from edgeq.sources.formats import ONNX, TFLITE
from edgeq.sources.model import open_float_model, open_model
from edgeq.targets import TARGETS, get_target
from edgeq.verbs.check import check_file
from edgeq.verbs.check_compile import default_gpu

COMPILED = tuple(name for name in TARGETS if get_target(name).runtimes[0].startswith("tensorrt"))
"""Targets whose files are compiled."""

IMAGES = 32
WORK = Path("artifacts/any_graph")

_NAMED = 3
_PLANNED = {
    "int8": "of those planned in INT8",
    "fp8": "of those in FP8",
    "weights": "of those with weights of 4 bits",
}


def precisions_of(target: str) -> tuple[str, ...]:
    """Returns the precisions that differ for the compiler: weak typing leaves FP16 to the builder."""
    rules = get_target(target).rules
    further = (*(("fp8",) if rules.takes_fp8 else ()), *rules.weight_only_schemes)
    return ("fp16" if rules.fp16 == "graph" else "fp32"), "int8", *further


def measure(name: str, target: str, precision: str, data: Path, images: int, work: Path) -> dict[str, Any]:
    """Returns what check and the compiler say of a file, or the error in words."""
    try:
        path = _file(name, target, precision, data, images, work)
        with Compiler(default_gpu(path)) as compiler:
            result = check_file(path, target, compiler=compiler)
    except EdgeqError as error:
        return {"error": str(error), "state": code_state()}
    checked = result.checked
    return {
        "errors": len(checked.errors),
        "advice": len(checked.findings) - len(checked.errors),
        "compiled": to_json(result.compiled),
        "state": code_state(),
    }


def _file(name: str, target: str, precision: str, data: Path, images: int, work: Path) -> Path:
    """Returns a file of a model for a target, which is written unless it is there."""
    folder = work / name / target
    found = sorted(folder.glob(f"*.{target}.{precision}.onnx"))
    if found:
        return found[0]
    wanted = get_target(target)
    model, ranges, kept = _planned(name, target, data, images, work)
    folder.mkdir(parents=True, exist_ok=True)
    job = FileJob(model, wanted, folder, ranges=ranges, kept=kept, precision=precision)
    artifact: Artifact = ONNX.function("write")(job)
    return artifact.path


@functools.lru_cache(maxsize=1)
def _planned(name: str, target: str, data: Path, images: int, work: Path) -> tuple[FloatModel, Ranges, Kept]:
    """Returns a model for a target with its ranges, and what stays in float, for the files of all precisions."""
    source = CalibrationSource(data / "coco/instances_train.json", data / "coco/train2017", num=images)
    request = request_of(SUBJECTS[name], source, data, work / name)
    ranges = work / name / "ranges.json"
    if not ranges.is_file():
        calibrate(open_float_model(request), source.data(), ranges, num=images)
    wanted = get_target(target)
    model = open_model(dataclasses.replace(request, opset=wanted.rules.opset)).model
    return model, Ranges.load(ranges), resolve_keep(engine_graph(model, wanted))


def to_markdown(results: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> str:
    """Returns the table, and below it what does not agree and how the figures were obtained."""
    lines = [
        "| model | target | file | errors, advice | SM | built | as planned | computed in | fused attention "
        "| kernels | conversions | float epilogues | plan MB | weights MB | activations MB |",
        "|---|---|---|---|---|---|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    reasons: list[str] = []
    written = {key: found for key, found in results.items() if "error" not in found}
    for (name, target, precision), found in written.items():
        head = f"| {SUBJECTS[name].title} | {target} | {precision}"
        lines.append(f"{head} | {' | '.join(_cells(found))} |")
        reasons += _differences(SUBJECTS[name], target, precision, found)
    reasons += _not_compiled({key: found["error"] for key, found in results.items() if "error" in found})
    built = [found["compiled"] for found in written.values() if found["compiled"]["stage"] == "built"]
    nodes = [node for compiled in built for node in compiled["nodes"]]
    by_plan = {kind: [node for node in nodes if node["planned"] == kind] for kind in ("int8", "fp8", "weights")}
    planned = [f"{_agreeing(by_plan[kind])} {named}" for kind, named in _PLANNED.items() if by_plan[kind]]
    libraries = sorted({compiled["library"] for compiled in built})
    lines += [
        "",
        f"{len(built)} of {len(written)} files built; {_agreeing(nodes)} layers are computed as planned"
        f"{''.join(f', {each}' for each in planned)}.",
        *([""] if reasons else []),
        *reasons,
        "",
        f"Compiled with {', '.join(libraries)} without a GPU, for the compute capability of the column SM: nothing was "
        "run, and this is not a Jetson's TensorRT. Types and kernels are read from its log. TensorRT 8 to 10 choose "
        "FP16 by themselves, which this compiler cannot: what jetson-orin leaves in float is FP32 here, but for "
        "attention. Computed in: `fp16 by int4` multiplies FP16 by weights that stay stored in INT4. Float epilogues: "
        "INT8 layers that write floats. Conversions: kernels that only convert, quantize or move. Files of "
        f"{states_of(results.values())}.",
    ]
    return "\n".join(lines) + "\n"


def _agreeing(nodes: Sequence[Mapping[str, Any]]) -> str:
    return f"{sum(node['agrees'] for node in nodes)} of {len(nodes)}"


def _cells(found: Mapping[str, Any]) -> list[str]:
    compiled = found["compiled"]
    said = [f"{found['errors']}, {found['advice']}", compiled["sm"].removeprefix("SM")]
    if compiled["stage"] != "built":
        return [*said, f"{compiled['stage']}: {compiled['node']} {compiled['reason']}", *[""] * 9]
    nodes = compiled["nodes"]
    counts: dict[str, int] = {}
    for node in nodes:
        kind = node["compiled"] or "no kernel"
        kind += f" by {node['stored']}" if node["planned"] == "weights" and node["stored"] else ""
        counts[kind] = counts.get(kind, 0) + 1
    return [
        *said,
        "yes",
        _agreeing(nodes),
        ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())),
        ", ".join(f"{count} {types}" for types, count in compiled["fused_attention"].items()),
        *(str(compiled[key]) for key in ("kernels", "conversions", "float_epilogues")),
        *(f"{compiled[key] / 1e6:.1f}" for key in ("plan_bytes", "weights_bytes", "activation_bytes")),
    ]


def _differences(subject: Subject, target: str, precision: str, found: Mapping[str, Any]) -> list[str]:
    """Returns a line for each reason why layers of a file are not computed as planned."""
    by_reason: dict[str, list[str]] = {}
    for node in found["compiled"]["nodes"]:
        if not node["agrees"]:
            said = f"planned {node['planned']}, compiled to {node['compiled'] or 'nothing'}"
            by_reason.setdefault(f"{said}: {node['reason'] or 'no reason is known'}", []).append(node["node"])
    where = f"{subject.title}, {target} {precision}"
    return [
        f"- {where}: {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''} ({len(names)}) {reason}"
        for reason, names in by_reason.items()
    ]


def _not_compiled(errors: Mapping[tuple[str, str, str], str]) -> list[str]:
    """Returns a line for each reason why there are no files, with these."""
    by_reason: dict[str, list[str]] = {}
    for (name, target, precision), error in errors.items():
        by_reason.setdefault(error, []).append(f"{SUBJECTS[name].title} ({target} {precision})")
    return [f"- no file: {', '.join(files)}: {error}" for error, files in by_reason.items()]


def files_of(names: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yields model, target and precision of every file."""
    for name, target in itertools.product(names, COMPILED):
        if Path(SUBJECTS[name].reference).suffix != TFLITE.suffix:  # they become TFLite files alone
            yield from ((name, target, precision) for precision in precisions_of(target))


def make_parser() -> argparse.ArgumentParser:
    return subjects_parser(__doc__, SUBJECTS, SUBJECTS, IMAGES, WORK)


def run(names: Sequence[str], out: Path, *, data: Path = DATA, images: int = IMAGES, work: Path = WORK) -> Path:
    """Returns the result file.

    Args:
        names: Of `benchmarks.any_graph.SUBJECTS`.
        out: Folder of the result file.
        data: Folder of the real data.
        images: How many images are calibrated on.
        work: Folder for the files; what was compiled is not compiled again.
    """
    results: dict[tuple[str, str, str], dict[str, Any]] = {}
    for name, target, precision in files_of(names):
        key = name, target, precision
        kept = work / "compiled" / f"{name}.{target}.{precision}.json"
        if SUBJECTS[name].is_missing and not kept.is_file():
            results[key] = {"error": f"not compiled: needs the package {SUBJECTS[name].package}"}
        else:
            results[key] = kept_result(kept, measure, name, target, precision, data, images, work)
    return write_result(out, "compile_zoo.md", to_markdown(results))


def main() -> None:
    given = read_subjects(make_parser(), SUBJECTS)
    run(given.names, given.out, data=given.data, images=given.images, work=given.work)


if __name__ == "__main__":
    main()
