"""Follows the channels of a tensor through operators that only move values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant
from edgeq.exporting.graphs.moves import REARRANGES

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Reader:
    """Who computes with (a part of) a tensor, behind what moves it.

    Attributes:
        node: The node; `None` for an output of the graph.
        value: What it reads.
        channels: Which channel of the tensor every element of `value` comes from, an integer array of `value`'s
            shape with a free batch dimension as 1; `None` where it could not be told.
    """

    node: ir.Node | None
    value: ir.Value
    channels: np.ndarray | None

    @property
    def keeps_channels(self) -> bool:
        """Whether the last axis of `value` still is the tensor's last axis, whole and in order."""
        if self.channels is None or self.channels.size == 0:
            return False
        return bool((self.channels == np.arange(self.channels.shape[-1])).all())

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return f"{self.node.op_type} {self.node.name}" if self.node is not None else f"the output {self.value.name}"


def follow_channels(value: ir.Value) -> list[Reader]:
    """Returns all readers of a tensor `(..., C)`, each with the channels that reach it.

    Reshape, Transpose, Flatten, Squeeze, Unsqueeze, Slice, Gather and Split with constant parameters are followed; by
    running them on the channels' numbers, so that any spelling of "the first third of the columns, four heads of
    them" is understood.
    """
    return list(_follow(value, _numbers(value)))


def _numbers(value: ir.Value) -> np.ndarray | None:
    if value.shape is None or not value.shape or not isinstance(value.shape[-1], int):
        return None
    dims = _dims(value)
    return np.ascontiguousarray(np.broadcast_to(np.arange(dims[-1], dtype=np.int32), dims))


def _dims(value: ir.Value) -> list[int]:
    """Returns the shape with 1 for every free dimension."""
    assert value.shape is not None  # noqa: S101 - callers have looked
    return [dim if isinstance(dim, int) else 1 for dim in value.shape]


def _follow(value: ir.Value, channels: np.ndarray | None) -> Iterator[Reader]:
    if value.is_graph_output():
        yield Reader(None, value, channels)
    for use in value.uses():
        if use.node.op_type in REARRANGES and use.idx == 0:
            moved = None if channels is None else move(use.node, channels)
            for index, output in enumerate(use.node.outputs):
                yield from _follow(output, None if moved is None else moved[index])
        elif use.node.op_type != "Shape":  # it reads no values
            yield Reader(use.node, value, channels)


def move(node: ir.Node, array: np.ndarray) -> list[np.ndarray] | None:
    """Returns what a node of `REARRANGES` makes of an array; `None` if that is known at run time alone."""
    try:
        moved = _MOVERS[node.op_type](node, array)
    except (ValueError, IndexError, _UnknownError):
        return None
    outputs = moved if isinstance(moved, list) else [moved]
    return outputs if len(outputs) == len(node.outputs) else None


class _UnknownError(Exception):
    """A parameter is not a constant."""


def _ints(node: ir.Node, index: int, default: list[int] | None = None) -> list[int]:
    if len(node.inputs) <= index or node.inputs[index] is None:
        if default is None:
            raise _UnknownError
        return default
    array = constant(node.inputs[index])
    if array is None:
        raise _UnknownError
    return [int(number) for number in array.reshape(-1)]


def _attribute(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _axes(node: ir.Node, rank: int, default: list[int]) -> list[int]:
    return [axis % rank for axis in _ints(node, 1, default)]


def _reshape(node: ir.Node, array: np.ndarray) -> np.ndarray:
    # The inferred shape, and not the second input, which is computed at run time where the batch is free.
    shape = node.outputs[0].shape
    if shape is None or sum(not isinstance(dim, int) for dim in shape) > 1:
        raise _UnknownError
    return array.reshape([dim if isinstance(dim, int) else -1 for dim in shape])


def _transpose(node: ir.Node, array: np.ndarray) -> np.ndarray:
    return array.transpose(list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else None)


def _flatten(node: ir.Node, array: np.ndarray) -> np.ndarray:
    axis = _attribute(node, "axis", 1) % (array.ndim + 1)
    return array.reshape(int(np.prod(array.shape[:axis])), -1)


def _squeeze(node: ir.Node, array: np.ndarray) -> np.ndarray:
    ones = [axis for axis, size in enumerate(array.shape) if size == 1]
    return array.squeeze(tuple(_axes(node, array.ndim, ones)))


def _unsqueeze(node: ir.Node, array: np.ndarray) -> np.ndarray:
    axes = _ints(node, 1)
    return np.expand_dims(array, tuple(axis % (array.ndim + len(axes)) for axis in axes))


def _slice(node: ir.Node, array: np.ndarray) -> np.ndarray:
    starts, ends = _ints(node, 1), _ints(node, 2)
    axes = _axes_of_slice(node, array.ndim, len(starts))
    steps = _ints(node, 4, [1] * len(starts))
    if any(step < 1 for step in steps):
        raise _UnknownError
    window = [slice(None)] * array.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        window[axis] = slice(start, end, step)
    return array[tuple(window)]


def _axes_of_slice(node: ir.Node, rank: int, count: int) -> list[int]:
    return [axis % rank for axis in _ints(node, 3, list(range(count)))]


def _gather(node: ir.Node, array: np.ndarray) -> np.ndarray:
    indices = constant(node.inputs[1])
    if indices is None:
        raise _UnknownError
    return np.take(array, indices, axis=_attribute(node, "axis", 0))


def _split(node: ir.Node, array: np.ndarray) -> list[np.ndarray]:
    axis = _attribute(node, "axis", 0)
    if len(node.inputs) < 2 or node.inputs[1] is None:
        size = -(-array.shape[axis] // len(node.outputs))
        return np.split(array, range(size, array.shape[axis], size), axis)
    return np.split(array, np.cumsum(_ints(node, 1))[:-1], axis)


_MOVERS: dict[str, Callable[[ir.Node, np.ndarray], np.ndarray | list[np.ndarray]]] = {
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Gather": _gather,
    "Split": _split,
}
