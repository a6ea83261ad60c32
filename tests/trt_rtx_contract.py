"""The Python API of TensorRT for RTX, as `tests/data/trt_api_contract.json` has that of TensorRT.

`python -m tests.trt_rtx_contract` writes `tests/data/trt_rtx_api_contract.json` from the bindings that are installed; a
test compares the two. It holds the classes and enumerations that edgeq uses, and no text of NVIDIA's.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "data" / "trt_rtx_api_contract.json"

CLASSES = (
    "Builder", "Dims", "EngineInspector", "IBuilderConfig", "ICudaEngine", "IExecutionContext", "IHostMemory", "ILayer",
    "ILogger", "INetworkDefinition", "IOptimizationProfile", "IProfiler", "IProgressMonitor", "IRuntimeCache",
    "IRuntimeConfig", "ITensor", "ITimingCache", "OnnxParser", "OnnxParserRefitter", "ParserError", "Refitter",
    "Runtime",
)  # fmt: skip

ENUMS = (
    "BuilderFlag", "ComputeCapability", "CudaGraphStrategy", "DataType", "DeviceType", "EngineInvalidityDiagnostics",
    "EngineStat", "EngineValidity", "ErrorCode", "ExecutionContextAllocationStrategy", "ILogger.Severity",
    "LayerInformationFormat", "MemoryPoolType", "NetworkDefinitionCreationFlag", "ProfilingVerbosity", "TensorIOMode",
    "TensorLocation",
)  # fmt: skip

_ARGUMENT = re.compile(r"(?P<name>\w+): (?P<type>.+?)(?: = (?P<default>.+))?$")


def derive() -> dict[str, Any]:
    """Returns the contract of the bindings that are installed."""
    trt = importlib.import_module("tensorrt_rtx")
    enums = {name: _enum(trt, name) for name in ENUMS}
    classes = {name: _class(trt, name) for name in CLASSES}
    return {"version": trt.__version__, "classes": classes, "enums": enums}


def recorded() -> dict[str, Any]:
    """Returns the contract that tests are made from."""
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def _enum(trt: Any, name: str) -> dict[str, int]:
    owner: Any = trt
    for part in name.split("."):
        owner = getattr(owner, part)
    return {member: int(value) for member, value in owner.__members__.items()}


def _class(trt: Any, name: str) -> dict[str, Any]:
    cls = getattr(trt, name)
    methods, properties = {}, {}
    for attribute in sorted(set(dir(cls)) | {"__init__"}):
        found = inspect.getattr_static(cls, attribute)
        if isinstance(found, property):
            properties[attribute] = ["?", "rw" if found.fset is not None else "ro"]
        elif attribute == "__init__" or (not attribute.startswith("_") and callable(getattr(cls, attribute))):
            methods[attribute] = _overloads(attribute, getattr(cls, attribute).__doc__ or "")
    bases = [base.__name__ for base in cls.__bases__ if base.__name__ in CLASSES]
    return {"bases": bases, "methods": methods, "properties": properties}


def _overloads(method: str, text: str) -> list[dict[str, Any]]:
    found = re.findall(rf"^(?:\d+\. )?{method}\((?P<args>.*)\) -> .+$", text, re.MULTILINE)
    given = [_arguments(line) for line in found if line != "*args, **kwargs"]
    return [{"args": args} for args in given]


def _arguments(line: str) -> list[list[str]]:
    parts, depth, start = [], 0, 0
    for position, character in enumerate(line + ","):
        depth += (character in "[<(") - (character in "]>)")
        if character == "," and depth == 0:
            parts.append(line[start:position].strip())
            start = position + 1
    found = []
    for part in parts:
        parsed = _ARGUMENT.match(part)
        if parsed is not None and parsed["name"] != "self":
            default = [parsed["default"]] if parsed["default"] is not None else []
            found.append([parsed["name"], _type(parsed["type"]), *default])
    return found


def _type(text: str) -> str:
    ours = re.sub(r"(tensorrt_rtx_bindings\.tensorrt_rtx\.|nvinfer1::(?:v_\d+_\d+::)?)", "tensorrt.", text)
    return re.sub(r"(typing_extensions|typing|collections\.abc)\.", "", ours)


if __name__ == "__main__":
    FILE.write_text(json.dumps(derive(), separators=(",", ":"), sort_keys=True) + "\n")
