"""Reads what an engine consists of from the log of the builder of TensorRT for RTX.

Without a GPU there is no engine inspector. With detailed verbosity the builder logs a line for each kernel, and the
sizes of memory. That form is not documented: `READ_VERSIONS` names those that were seen, recorded logs of each are
tests, and a log without kernels is an error, never an empty engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeq.errors import EngineError

READ_VERSIONS = ("1.7",)
"""Versions of TensorRT for RTX, major and minor, whose log this module was written by."""

Role = Literal["contraction", "attention", "pool", "conversion", "pointwise", "synchronisation", "other"]

# `correlation` is a convolution; a `runtime_fusion` was a contraction with its activation in all logs seen.
_CONTRACTIONS = frozenset({"correlation", "deconv", "gemm", "runtime_fusion"})
_POOLS = frozenset({"maxpool", "avgpool"})
_SYNCHRONISATION = frozenset({"wait", "signal"})
# Parts of the name of a generated kernel that move values or change their type, and those that quantize.
_MOVES = frozenset({"Tran", "Resh", "Move", "Conc", "Slic", "Cast", "Repl", "Copy", "Padd", "Pad"})
_QUANTIZES = frozenset({"Mul", "Min", "Max", "Roun"})
_ATTENTION = "_mha_"
# What the names of fused kernels call a product: fully connected, convolution, deconvolution; that of a single vector
# is a multiplication and a sum.
_PRODUCTS = ("Fc", "Corr", "Deco")
_OF_A_VECTOR = "MulSum"

PRECISIONS = {
    "FP4E2M1": "fp4",
    "Int4": "int4",
    "FP8": "fp8",
    "Int8": "int8",
    "Half": "fp16",
    "BFloat16": "bf16",
    "Float": "fp32",
}
"""The log's names of types, the narrowest first -> ours."""

_FLOATS = ("fp16", "bf16", "fp32")

_HEAD = re.compile(r"\s*Name: (?P<name>.*?), LayerType: (?P<kind>[\w ]+), Inputs: \[")
_TYPE = re.compile(r"Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")
_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")


@dataclass(frozen=True)
class Kernel:
    """A kernel of a compiled engine, or a wait for one.

    Attributes:
        name: Its name in the log.
        kind: The log's word for it: `correlation`, `gemm`, `kgen`, ...
        inputs: Types of its inputs, without repetition: `int8`, `fp16`, ...
        constants: Types of its constants.
        outputs: Types of its outputs.
        nodes: Names of the ONNX nodes that it computes, in the log's order.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def role(self) -> Role:
        """What it does for the network; a `conversion` computes nothing but another type, grid or place."""
        if _ATTENTION in self.name:
            return "attention"
        operators = self._operators
        if self.kind in _CONTRACTIONS or any(each in _PRODUCTS for each in operators):
            return "contraction"
        if self.kind in _POOLS:
            return "pool"
        if self.kind in _SYNCHRONISATION:
            return "synchronisation"
        if self.kind != "kgen":
            return "other"
        parts = set(operators)
        if parts and (parts <= _MOVES or ("Roun" in parts and parts <= _MOVES | _QUANTIZES)):
            return "conversion"
        return "pointwise"

    @property
    def precision(self) -> str:
        """Type that it multiplies in; empty if none of its inputs has a type that is known.

        A library's kernel with inputs of two types adds a float residual to its integers. A generated one may quantize
        what it reads, or dequantize it, before it multiplies.
        """
        operators = self._operators
        product = next((index for index, each in enumerate(operators) if each in _PRODUCTS), len(operators))
        before = "".join(operators[:product])
        _, quantizes, behind = before.rpartition("RounCast")
        if self.stored == "fp8" and _ends_in_fp8(operators[:product]):
            return self.stored
        if "CastMul" in behind or (self.kind == "kgen" and not quantizes and self.role != "attention"):
            return next((each for each in _FLOATS if each in self.inputs + self.outputs), "")
        if quantizes and product < len(operators) and self.stored:
            return self.stored
        return next((each for each in PRECISIONS.values() if each in self.inputs), "")

    @property
    def stored(self) -> str:
        """Type of 8 bits or fewer that its constants are stored in; empty if they are floats, or it has none."""
        return next((each for each in PRECISIONS.values() if each in self.constants and each not in _FLOATS), "")

    @property
    def _operators(self) -> list[str]:
        """The operators in the name of a generated kernel, four letters each at most: `Mul`, `Roun`, `Cast`."""
        if self.kind not in ("runtime_fusion", "kgen"):
            return []
        name = re.sub(r"^__myl_|_myl\d+_\d+$", "", self.name)
        return re.findall(r"[A-Z][a-z]*", name.replace(_OF_A_VECTOR, _PRODUCTS[0]))


def _ends_in_fp8(operators: Sequence[str]) -> bool:
    """Returns whether what stands before a product quantizes to FP8, by a scale and a type: there is no rounding."""
    computed = [each for each in operators if each == "Cast" or each not in _MOVES]
    return computed[-2:] == ["Mul", "Cast"]


@dataclass(frozen=True)
class CompiledLog:
    """What a log says of an engine.

    Attributes:
        kernels: Its kernels, in the order they run.
        weights_bytes: Memory of its weights.
        activation_bytes: Memory of its activations.
    """

    kernels: tuple[Kernel, ...]
    weights_bytes: int
    activation_bytes: int


def is_known_version(version: str) -> bool:
    """Returns whether the log of this version of the library was seen."""
    return ".".join(version.split(".")[:2]) in READ_VERSIONS


def read_log(lines: Iterable[str], version: str) -> CompiledLog:
    """Returns the engine that a builder's log describes.

    Args:
        lines: The messages of the logger, all severities; one may hold several lines.
        version: Version of the library.

    Raises:
        EngineError: it lists no kernels, or no memory, in the form that is known.
    """
    text = "\n".join(lines)
    kernels = tuple(kernel for line in text.splitlines() if (kernel := _kernel(line)) is not None)
    weights, activations = _WEIGHTS.findall(text), _ACTIVATIONS.findall(text)
    if not kernels or not weights or not activations:
        missing = "kernels" if not kernels else "memory"
        raise EngineError(
            f"the log of TensorRT for RTX {version} lists no {missing} in a form that edgeq reads; it reads that of "
            f"{', '.join(READ_VERSIONS)}: run pip install 'tensorrt-rtx-cu12=={READ_VERSIONS[-1]}.*', or update edgeq"
        )
    return CompiledLog(kernels, int(weights[-1]), int(activations[-1]))


def _kernel(line: str) -> Kernel | None:
    head = _HEAD.match(line)
    if head is None or "], Outputs: [" not in line:
        return None
    # Brackets stand inside the tensors too: the line is cut at its keywords.
    outputs = line.index("], Outputs: [", head.end() - 1)
    constants = line.find("], Constants: [", head.end() - 1, outputs)
    ends = [
        found for word in ("TacticName:", "StreamId:", "Metadata:") if (found := line.find(f"], {word}", outputs)) > 0
    ]
    end = min(ends, default=len(line))
    return Kernel(
        name=head["name"],
        kind=head["kind"].strip(),
        inputs=_types(line[head.end() : constants if constants > 0 else outputs]),
        constants=_types(line[constants:outputs]) if constants > 0 else (),
        outputs=_types(line[outputs:end]),
        nodes=tuple(_NODE.findall(line[end:])),
    )


def _types(text: str) -> tuple[str, ...]:
    return tuple(sorted({PRECISIONS.get(found, found.lower()) for found in _TYPE.findall(text)}))
