"""`build.sh`: engines by TensorRT's own `trtexec`, on the board, without Python.

A calibration cache is taken only by the TensorRT that its header names, so the script writes the installed version over
it (https://github.com/NVIDIA/Deep-Learning-Accelerator-SW/issues/26 shows what happens otherwise).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from edgeq.deploying.base import DeployJob
from edgeq.deploying.packed import MAX_BATCH, Packed
from edgeq.deploying.quoting import shell_word
from edgeq.deploying.shell import Script, in_folder
from edgeq.deploying.triton import PLAN
from edgeq.errors import InputError
from edgeq.exporting.tensor_spec import TensorSpec

WORKSPACE_MIB = 1024
"""What an Orin Nano of 8 GB can spare."""

TENSORRT_11 = 110000
"""`trtexec` writes TensorRT's version as major * 10000 + minor * 100 + patch from 10 on, before with 1000."""

# Names of layers that trtexec's lists of `name:precision,...` take without quoting.
_PLAIN_LAYER = re.compile(r"[A-Za-z0-9_./-]+")
_JETPACK_TRTEXEC = "/usr/src/tensorrt/bin/trtexec"

_BUILD = r"""
build() {
    folder=$here/$1
    shift
    printf 'building %s\n' "$folder/PLAN"
    "$trtexec" "$@" --saveEngine="$folder/.PLAN.part" --timingCacheFile="$here/timing.cache" \
        --memPoolSize=workspace:WORKSPACE --profilingVerbosity=detailed
    mv -- "$folder/.PLAN.part" "$folder/PLAN"
}
"""

_RESTAMP = r"""
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
restamp() {
    sed "1s/^TRT-[0-9]*-/TRT-$version-/" "$1" >"$scratch/calibration.cache"
}
"""

_DLA = r"""
on_device() {
    if [ -n "${DLA:-}" ]; then
        build "$@" --useDLACore="$DLA" --allowGPUFallback
    else
        build "$@"
    fi
}
"""


def build_script(job: DeployJob, *, strongly_typed: bool) -> str:
    """Returns the script.

    Args:
        job: The folder's models.
        strongly_typed: Whether the files are for TensorRT 11, whose graph states all precisions.

    Raises:
        InputError: a batch axis is free and trtexec has no way to write the input's name.
    """
    implicit = not strongly_typed and any(model.cache for model in job.models)
    usage = ["./build.sh                       INT8 by the Q/DQ nodes of the file"]
    if implicit:
        usage += [
            "ROUTE=implicit ./build.sh        INT8 by the calibration cache, of the float file",
            "DLA=0 ROUTE=implicit ./build.sh  the same for DLA core 0; the GPU takes what it cannot run",
        ]
    usage.append("TRTEXEC=/path/to/trtexec ./build.sh")
    script = Script("Builds the engine models/*/1/model.plan of every model with trtexec, on this board.", usage)
    advice = "install JetPack's libnvinfer-bin, or name the program: TRTEXEC=/path/to/trtexec ./build.sh"
    script.require_program("trtexec", advice, _JETPACK_TRTEXEC, "TRTEXEC")
    script.add(
        "version=$(\"$trtexec\" --help 2>&1 | sed -n 's/.*\\[TensorRT v\\([0-9]*\\)\\].*/\\1/p' | head -n 1)",
        '[ -n "$version" ] || fail "trtexec does not state its version; wanted that of TensorRT 8.5 or later"',
        *_version_check(strongly_typed),
    )
    if implicit:
        script.add(
            "route=${ROUTE:-explicit}",
            'case $route in explicit | implicit) ;; *) fail "ROUTE=$route: wanted explicit or implicit" ;; esac',
            '[ -z "${DLA:-}" ] || [ "$route" = implicit ] || fail "DLA takes no Q/DQ nodes here: add ROUTE=implicit"',
        )
    else:
        script.add(
            'none="needs a calibration cache, and the folder has none: omit it"',
            '[ "${ROUTE:-explicit}" = explicit ] || fail "ROUTE $none"',
            '[ -z "${DLA:-}" ] || fail "DLA $none"',
        )
    script.add(_BUILD.replace("WORKSPACE", str(WORKSPACE_MIB)).replace("PLAN", PLAN).rstrip("\n"))
    if implicit:
        script.add(_RESTAMP.rstrip("\n"), _DLA.rstrip("\n"))
    script.add("")
    for model in job.models:
        script.add(*_commands(model, strongly_typed=strongly_typed, implicit=implicit))
    return script.text()


def fp16_is_left_out(model: Packed) -> bool:
    """Returns whether layers that FP16 would overflow have names that trtexec cannot be told."""
    return not all(map(_PLAIN_LAYER.fullmatch, model.artifact.quantization_facts.fp16_islands))


def _version_check(strongly_typed: bool) -> Iterator[str]:
    if strongly_typed:
        message = "is older than 11, which these files are for; export them with --target jetson-orin"
        yield f'[ "$version" -ge {TENSORRT_11} ] || fail "TensorRT $version {message}"'
    else:
        message = "has no INT8 and FP16 flags; export the files with --target jetson-orin-trt11"
        yield f'[ "$version" -lt {TENSORRT_11} ] || fail "TensorRT $version {message}"'


def _commands(model: Packed, *, strongly_typed: bool, implicit: bool) -> Iterator[str]:
    folder = shell_word(model.folder)
    shapes = _shapes(model)
    explicit = " ".join(
        ["build", folder, f"--onnx={in_folder(model.path)}", *([] if strongly_typed else _precision(model)), *shapes]
    )
    if not implicit:
        yield explicit
    elif model.cache is None or model.float_file is None:
        # The DLA takes no FP32, and no Q/DQ nodes.
        yield f'[ -n "${{DLA:-}}" ] || {explicit}'
    else:
        float_layers = model.artifact.quantization_facts.float_nodes
        words = [
            "on_device", folder, f"--onnx={in_folder(f'{model.folder}/{model.float_file}')}",
            '--calib="$scratch/calibration.cache"', *_precision(model, float_layers), *shapes,
        ]  # fmt: skip
        yield 'if [ "$route" = implicit ]; then'
        yield f"    restamp {in_folder(f'{model.folder}/{model.cache}')}"
        yield f"    {' '.join(words)}"
        yield "else"
        yield f"    {explicit}"
        yield "fi"


def _precision(model: Packed, float_layers: Iterable[str] = ()) -> list[str]:
    """Returns the flags of weak typing: what may compute in INT8 and FP16, and which layers may not."""
    precision = model.artifact.precision
    if precision == "fp32":
        return []
    flags = ["--int8"] if precision == "int8" else []
    if fp16_is_left_out(model):
        return flags
    flags.append("--fp16")
    islands = model.artifact.quantization_facts.fp16_islands
    wanted = {name: "fp16" for name in float_layers if _PLAIN_LAYER.fullmatch(name)} | dict.fromkeys(islands, "fp32")
    if wanted:
        listed = ",".join(f"{name}:{kind}" for name, kind in sorted(wanted.items()))
        # What is only faster otherwise is preferred; what would overflow has to be obeyed.
        flags += [
            f"--precisionConstraints={'obey' if islands else 'prefer'}",
            f"--layerPrecisions={shell_word(listed)}",
            f"--layerOutputTypes={shell_word(listed)}",
        ]
    return flags


def _shapes(model: Packed) -> list[str]:
    """Returns the range of a free batch axis; other free axes have no range that anybody has stated."""
    if not model.batch_is_free:
        return []
    return [
        f"--{end}Shapes={shell_word(','.join(_shape(model, spec, batch) for spec in model.artifact.inputs))}"
        for end, batch in (("min", 1), ("opt", 1), ("max", MAX_BATCH))
    ]


def _shape(model: Packed, spec: TensorSpec, batch: int) -> str:
    rest = spec.shape[1:]
    if re.search(r"[,:'\s]", spec.name) or None in rest:
        raise InputError(
            f"{model.artifact.path}: the shape of {spec.name!r} {spec.shape} cannot be written for trtexec; export it "
            "without `dynamic_batch`"
        )
    return f"{spec.name}:{'x'.join(str(length) for length in (batch, *rest))}"
