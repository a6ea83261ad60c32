"""Names on the command line: what people call things elsewhere, what a shell completes, and quoted patterns."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import typer

COMMANDS = {
    "benchmark": "bench",
    "convert": "export",
    "detect": "predict",
    "evaluate": "eval",
    "infer": "predict",
    "profile": "bench",
    "quantise": "export",
    "quantize": "export",
    "val": "eval",
    "validate": "eval",
}
"""What other tools call a command -> the command."""

QUANTIZE_DEFAULTS = {"quantise": {"precision": "int8"}, "quantize": {"precision": "int8"}}
"""What `export` is called -> its options that are others then."""

_TARGETS = {
    "aarch64": "arm",
    "amd64": "x86",
    "arm64": "arm",
    "intel": "x86",
    "jetson": "jetson-orin",
    "onnxruntime": "x86-ort",
    "openvino": "x86-openvino",
    "orin": "jetson-orin",
    "ort": "x86-ort",
    "raspberry-pi": "arm",
    "rpi": "arm",
    "rpi4": "arm",
    "rpi5": "arm",
    "x64": "x86",
    "x86-onnxruntime": "x86-ort",
    "x86_64": "x86",
}
_PRECISIONS = {
    "8bit": "int8",
    "f16": "fp16",
    "f32": "fp32",
    "float16": "fp16",
    "float32": "fp32",
    "half": "fp16",
    "i8": "int8",
    "q8": "int8",
}
_RUNTIMES = {
    "ai-edge-litert": "litert",
    "ort": "onnxruntime",
    "ov": "openvino",
    "tflite": "litert",
    "trt": "tensorrt",
    "trt-rtx": "tensorrt-rtx",
}


def _target_names() -> Iterable[str]:
    from edgeq.registry import registered
    from edgeq.targets import TARGETS

    return registered("target", TARGETS)


def _precision_names() -> Iterable[str]:
    from edgeq.sources.formats import FORMATS, get_format

    return dict.fromkeys(precision for name in FORMATS for precision in get_format(name).precisions)


def _runtime_names() -> Iterable[str]:
    from edgeq.registry import registered
    from edgeq.runtimes import RUNTIMES

    return registered("runtime", RUNTIMES)


def _preset_names() -> Iterable[str]:
    from edgeq.inputs.presets import preset_names

    return preset_names()


def _method_names() -> Iterable[str]:
    from edgeq.calibrators import METHODS
    from edgeq.registry import registered

    return [*registered("method", METHODS), "best"]


def _model_names() -> Iterable[str]:
    from edgeq.sources.unknown_model import known_names

    files = (path.as_posix() for pattern in ("*.onnx", "*.tflite") for path in Path().glob(pattern))
    return [*sorted(files), *known_names()]


def _completed(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Returns what a shell asks for the end of a name; of several with commas, for that of the last."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in names() if name.startswith(last)]

    return complete


def _known_by(others: Mapping[str, str], names: Callable[[], Iterable[str]]) -> Callable[..., Any]:
    """Returns what gives a value by edgeq's names; only names that can mean one thing are in the tables."""

    def named(text: str) -> str:
        return ",".join(one_named(each.strip()) for each in text.split(","))

    def one_named(name: str) -> str:
        lower = name.lower()
        if lower in others and name not in names():
            return others[lower]
        return lower if lower != name and lower in names() else name

    def convert(value: Any) -> Any:
        if value is None:
            return None
        return named(value) if isinstance(value, str) else [named(each) for each in value]

    return convert


def _options(names: Callable[[], Iterable[str]], others: Mapping[str, str] | None = None) -> dict[str, Any]:
    taken: dict[str, Any] = {} if others is None else {"callback": _known_by(others, names)}
    return {"autocompletion": _completed(names), **taken}


TARGET = _options(_target_names, _TARGETS)
PRECISION = _options(_precision_names, _PRECISIONS)
RUNTIME = _options(_runtime_names, _RUNTIMES)
PRESET = _options(_preset_names)
METHOD = _options(_method_names, {})
MODEL = _options(_model_names)
"""What `typer.Option` and `typer.Argument` take for a kind of names."""


def with_patterns(paths: list[Path] | None) -> list[Path] | None:
    """Returns paths with those of a pattern in the place of one that a shell left as it is: quoted, or on Windows.

    Raises:
        BadParameter: a pattern matches nothing.
    """
    return paths and [found for path in paths for found in _matches(path)]


def _matches(path: Path) -> list[Path]:
    if not glob.has_magic(str(path)) or path.exists():
        return [path]
    anchor = Path(path.anchor)
    found = sorted(anchor.glob(str(path.relative_to(anchor))))
    # The manifest next to a file is not another file to run.
    models = [each for each in found if each.suffix != ".json" or not each.with_suffix("").is_file()]
    if not models:
        raise typer.BadParameter(f"{path}: matches no file")
    return models
