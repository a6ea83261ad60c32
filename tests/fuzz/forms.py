"""How a drawn model takes its input: images or arrays, in which layout and type, beside which inputs with a value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.fuzz.builder import Value
from tests.fuzz.operators.moves import ints

if TYPE_CHECKING:
    from tests.fuzz.builder import Builder

KINDS = ("image",) * 4 + ("NHWC", "batch", "arrays", "array of any rank", "without batch", "one of 5 axes")
"""Of inputs, the commonest first."""

_TYPES = (TensorProto.FLOAT,) * 7 + (TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UINT8)


@dataclass(frozen=True)
class Form:
    """What is to be known of a model's inputs besides its file.

    Attributes:
        takes: What the preset says that the input takes.
        layout: Where its images have their channels.
        declares: Whether the preset says the layout.
        given: Input with a value -> type and value, as nested lists.
        external: Whether the file keeps its weights in another.
    """

    takes: Literal["images", "arrays"] = "images"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    declares: bool = False
    given: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    external: bool = False

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> Form:
        """Returns the form that `facts` wrote."""
        given = {name: (dtype, value) for name, (dtype, value) in facts.get("given", {}).items()}
        own = {name: facts[name] for name in cls.__dataclass_fields__ if name in facts}
        return cls(**{**own, "given": given})

    @property
    def facts(self) -> dict[str, Any]:
        """What differs from a model of one NCHW image."""
        plain = asdict(Form())
        return {name: value for name, value in asdict(self).items() if value != plain[name]}

    @property
    def constants(self) -> dict[str, NDArray[Any]]:
        """The inputs with a value, as arrays."""
        return {name: np.array(value, dtype) for name, (dtype, value) in self.given.items()}

    def sample(self, rng: np.random.Generator, dtype: np.dtype[Any], shape: Sequence[int]) -> NDArray[np.float32]:
        """Returns what edgeq is given for one run: an image `(1, C, H, W)`, or an array of the file's shape.

        Args:
            rng: Source of the numbers.
            dtype: Of the file's input, which holds the numbers exactly.
            shape: Of the file's input.
        """
        if self.takes == "arrays":
            wanted = list(shape)
        else:
            image = list(shape[-3:]) if len(shape) >= 3 else [1, *shape]
            wanted = [1, *([image[2], *image[:2]] if self.layout == "NHWC" and len(shape) >= 3 else image)]
        if dtype.kind == "u":
            return rng.integers(0, 256, wanted).astype(np.float32)
        return rng.uniform(-2, 2, wanted).astype(dtype).astype(np.float32)

    def feed(self, sample: NDArray[np.float32], dtype: np.dtype[Any], shape: Sequence[int]) -> NDArray[Any]:
        """Returns what the file is given for it: an image is repeated to fill a batch."""
        if self.takes == "images":
            image = sample[0].transpose(1, 2, 0) if self.layout == "NHWC" else sample[0]
            sample = np.broadcast_to(image.reshape(shape[-3:]), shape)
        return np.ascontiguousarray(sample, dtype)

    def preset(self, name: str, channels: int) -> str:
        """Returns the TOML of a preset.

        Args:
            name: Of the input.
            channels: Of its images.
        """
        lines = [f"[inputs.{json.dumps(name)}]", f'takes = "{self.takes}"']
        if self.declares:
            lines.append(f'layout = "{self.layout}"')
        if self.takes == "images":
            order, numbers = ("gray", 1) if channels == 1 else ("rgb", 3)
            lines += ["[preprocessing]", f'channel_order = "{order}"']
            lines += [f"mean = {[0.5] * numbers}", f"std = {[0.25] * numbers}"]
        for given, (_, value) in self.given.items():
            lines += [f"[inputs.{json.dumps(given)}]", f"value = {json.dumps(value)}"]
        return "\n".join(lines) + "\n"


def draw_input(b: Builder, kinds: Sequence[str]) -> Form:
    """Adds inputs to a graph, and the nodes that make floats in the usual axes of the one that is fed.

    Args:
        b: The graph, which is empty.
        kinds: Which of `KINDS` to draw from.
    """
    kind = b.pick(kinds)
    element = b.pick(_TYPES)
    form, shape = _axes(b, kind)
    name = b.pick(["input", "images", "x:0", "data/with/slashes"]) if b.odd else "image"
    if form.takes == "arrays" and element == TensorProto.UINT8:
        element = TensorProto.FLOAT  # bytes are those of pixels
    fed = Value(name, element, shape)
    b.inputs.append(fed)
    b.computed.append(fed)
    x = fed
    if element != TensorProto.FLOAT:
        x = b.node("Cast", [x], to=TensorProto.FLOAT)
    if element == TensorProto.UINT8:
        x = b.node("Mul", [x, b.constant(np.float32(1 / 64))])
    if kind == "NHWC" and b.chance(85):
        x = b.node("Transpose", [x], perm=[0, 3, 1, 2])
    elif kind == "one of 5 axes" and b.chance(60):
        x = b.node("Reshape", [x, ints(b, *shape[1:])])
    elif kind == "without batch" and b.chance(85):
        x = b.node("Reshape", [x, ints(b, 1, *((1,) if len(shape) == 2 else ()), *shape)])
    given = _given(b, x) if b.chance(15) else {}
    return Form(form.takes, form.layout, form.declares, given, b.chance(8))


def _axes(b: Builder, kind: str) -> tuple[Form, tuple[int, ...]]:
    """Returns what the preset says of an input of a kind, and the input's shape with 1 for a free batch."""
    channels, side = b.pick([3, 3, 1]), b.pick([8, 6, 7, 12])
    image = channels, side, side if b.chance(70) else side + 1
    if kind in ("batch", "without batch", "one of 5 axes"):
        b.free_batch = False
    if kind == "NHWC":
        return Form(layout="NHWC", declares=b.chance(50)), (1, *image[1:], channels)
    if kind == "batch":
        return Form(takes=b.pick(["images", "arrays"])), (b.pick([2, 4]), *image)
    if kind == "arrays":
        return Form(takes="arrays"), (1, b.pick([4, 2, 8]), *image[1:])
    if kind == "array of any rank":
        shape = b.pick([(1, 24), (1, 6, 8), (30,), (5, 8), (1, 2, 4, 5, 6)])
        if shape[0] != 1:
            b.free_batch = False
        return Form(takes="arrays"), shape
    if kind == "without batch":
        return (Form(), image) if b.chance(60) else (Form(declares=True), image[1:])
    if kind == "one of 5 axes":
        return Form(), (1, 1, *image)
    return Form(), (1, *image)


def _given(b: Builder, x: Value) -> dict[str, tuple[str, Any]]:
    """Adds inputs with a value, and lets the graph read them, or not."""
    found: dict[str, tuple[str, Any]] = {}
    for role in [b.pick(["scale", "mask", "size", "unused"]) for _ in range(b.pick([1, 2]))]:
        array: NDArray[Any]
        if role == "scale":
            array = b.positive(*b.pick([(1,), (), (1,) * x.rank]))
        elif role == "mask":
            array = b.numbers(*(1 if axis == 0 else length for axis, length in enumerate(x.shape)))
        else:
            array = np.array(b.pick([[8, 6], [[640, 480]]]), np.int64 if role == "size" else np.float32)
        name = f"{role}_of_{x.name}{len(found)}" if b.odd else f"{role}{len(found)}"
        value = Value(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        b.inputs.insert(b.pick([len(b.inputs), 0]), value)
        found[name] = str(array.dtype), array.tolist()
        if role in ("scale", "mask"):
            x = b.node("Mul" if role == "scale" else "Add", [x, value])
        elif role == "size":
            number = b.node("Cast", [b.node("Gather", [value, b.constant(np.int64(0))], axis=value.rank - 1)], to=1)
            x = b.node("Mul", [x, b.node("Div", [number, b.constant(np.float32(9))])])
    return found


def write_model(model: Any, path: Path, *, external: bool) -> None:
    """Writes a model, its weights beside it if `external`."""
    import onnx

    options: dict[str, Any] = {"save_as_external_data": True, "size_threshold": 0, "location": "weights.bin"}
    onnx.save(onnx.ModelProto.FromString(model.SerializeToString()), path, **(options if external else {}))
