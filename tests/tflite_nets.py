"""Small nets as TFLite files, each converted once per run, and a way to run them."""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgeq.exporting.tflite.convert import convert_module
from edgeq.exporting.tflite.writer import TfliteModel
from edgeq.inputs.presets import load_preset
from edgeq.runtimes.litert import quiet_stderr
from tests.kept_exports import keep_composite_operators, made_once
from tests.small import SIZE, small_centernet


def require_converter() -> None:
    """Skips what needs the extra `tflite`; where it is there, nothing may be skipped."""
    for package in ("litert_torch", "ai_edge_quantizer", "ai_edge_litert"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def convert(module: nn.Module, shape: Sequence[int], outputs: Sequence[str] = ("y",)) -> bytes:
    """Returns a module as a float32 file; the packages that convert warn of their own ways."""
    require_converter()
    keep_composite_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_module(module.eval(), torch.zeros(*shape), outputs, "net")


@functools.cache
def centernet() -> TfliteModel:
    """The CenterNet of `tests.small`, seed 0."""
    preset = load_preset("centernet", SIZE)
    content = made_once("centernet.tflite", lambda: convert(small_centernet(0), (1, 3, *SIZE), ("hm", "wh", "reg")))
    return TfliteModel("small", content, preset.preprocessing, preset.postprocessing)


class Mobile(nn.Module):
    """A classifier with depthwise layers, SiLU, a CONCATENATION and a fully connected layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.gated = nn.Conv2d(8, 8, 1)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 10, 3, padding=1)
        self.last = nn.Conv2d(16, 12, 3, padding=1)
        self.classes = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.stem(x))))
        x = nn.functional.silu(self.gated(x))
        x = torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1)
        found: torch.Tensor = self.classes(torch.relu(self.last(x)).mean((2, 3)))
        return found


def seeded(make: type[nn.Module], seed: int = 0) -> nn.Module:
    """Returns a module with random weights that depend on the seed alone, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


@functools.cache
def mobile() -> TfliteModel:
    """`Mobile` at 16x16 with random weights."""
    content = made_once("mobile.tflite", lambda: convert(seeded(Mobile), (1, 3, 16, 16), ("classes",)))
    return TfliteModel("mobile", content, load_preset("imagenet", (16, 16)).preprocessing)


def by_hand(
    tensors: Mapping[str, np.ndarray | tuple[int, ...]],
    operators: Sequence[tuple[str, str, str]],
    inputs: Sequence[str],
    outputs: Sequence[str],
    schema: Any,
) -> bytes:
    """Returns a file of operators that need no options.

    Args:
        tensors: Name -> the array of a constant, or the shape of what is float32 and given or computed.
        operators: Kind, names of inputs, names of outputs; names with spaces between.
        inputs: Names of the file's inputs.
        outputs: Names of its outputs.
        schema: The package's classes of the format.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model, subgraph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [subgraph], [schema.BufferT()]
    numbers = {name: number for number, name in enumerate(tensors)}
    subgraph.tensors, subgraph.operators = [], []
    for name, given in tensors.items():
        tensor = schema.TensorT()
        tensor.name, tensor.buffer = name.encode(), 0
        tensor.shape = list(given.shape if isinstance(given, np.ndarray) else given)
        if isinstance(given, np.ndarray):
            tensor.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
            model.buffers[-1].data = np.frombuffer(given.tobytes(), np.uint8)
            tensor.type = {"float32": schema.TensorType.FLOAT32, "int32": schema.TensorType.INT32}[given.dtype.name]
        subgraph.tensors.append(tensor)
    kinds = list(dict.fromkeys(kind for kind, _, _ in operators))
    model.operatorCodes = []
    for kind in kinds:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        code.version = 1
        model.operatorCodes.append(code)
    for kind, given_names, made_names in operators:
        operator = schema.OperatorT()
        operator.opcodeIndex = kinds.index(kind)
        operator.inputs = [numbers[name] for name in given_names.split()]
        operator.outputs = [numbers[name] for name in made_names.split()]
        subgraph.operators.append(operator)
    subgraph.inputs, subgraph.outputs = ([numbers[name] for name in names] for names in (inputs, outputs))
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def run(content: bytes, *inputs: np.ndarray) -> list[np.ndarray]:
    """Returns the outputs of a file for arrays as it takes them."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet_stderr():
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    for entry, array in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(entry["index"], array)
    interpreter.invoke()
    return [interpreter.get_tensor(entry["index"]) for entry in interpreter.get_output_details()]


def channel_last(array: np.ndarray) -> np.ndarray:
    """Returns `(N, H, W, C)` of `(N, C, H, W)`."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def channel_first(array: np.ndarray) -> np.ndarray:
    """Returns `(N, C, H, W)` of `(N, H, W, C)` where an array is 4-D."""
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
