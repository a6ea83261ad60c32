"""Groups of channels that share an output: a detector's boxes, objectness and class scores in one tensor.

One ratio over such a tensor is that of its largest part: boxes in pixels hide scores in 0..1 that are all zero. What
belongs together is read from the graph, back from the output through operators that move values or change each value by
itself: the parts are what a Concat along the channels joins.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.channels import move
from edgeq.exporting.graphs.choices import chosen_outputs
from edgeq.exporting.graphs.graph import constant, data_inputs
from edgeq.exporting.graphs.moves import REARRANGES

if TYPE_CHECKING:
    import onnx_ir as ir

# Each output value comes from the input value at the same place, or from those of its row (Softmax).
_ELEMENTWISE = frozenset(
    {
        "Sigmoid", "HardSigmoid", "Softmax", "LogSoftmax", "Relu", "LeakyRelu", "Clip", "Exp", "Tanh", "Softplus",
        "Neg", "Sqrt", "Cast", "Mul", "Add", "Sub", "Div", "Pow",
    }
)  # fmt: skip


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of an output that belong together.

    Attributes:
        label: Which, as `0:4` or `4` (`0:2,5` where they are apart); empty for the whole output.
        axis: Axis of the output that holds them.
        channels: Their numbers; `None` for the whole output.
        chosen: Whether they depend on what the graph chooses (`edgeq.exporting.graphs.choices`): then a small
            difference may put others in their place, or give another number of them.
    """

    label: str = ""
    axis: int = 1
    channels: tuple[int, ...] | None = None
    chosen: bool = False

    def of(self, array: np.ndarray) -> np.ndarray:
        """Returns the group's part of an output."""
        return array if self.channels is None else np.take(array, self.channels, axis=self.axis)


WHOLE = (ChannelGroup(),)
"""The one group of an output whose channels all belong together."""

CHOSEN = (ChannelGroup(chosen=True),)
"""That of an output that depends on what the graph chooses."""


@dataclass(frozen=True)
class _Origins:
    """Where the elements of a tensor come from, integer arrays of its shape with a free batch as 1.

    Attributes:
        branch: Number of the way that an element takes through Concats: elements of one way have one number.
        channel: Its channel in the tensor that the way begins at.
        place: Its place in that tensor, counted over all other axes.
    """

    branch: np.ndarray
    channel: np.ndarray
    place: np.ndarray


def output_groups(model: ir.Model) -> tuple[tuple[ChannelGroup, ...], ...]:
    """Returns the groups of each output of a float graph, in order; `WHOLE` where nothing tells its channels apart."""
    known: dict[int, _Origins | None] = {}
    chosen = chosen_outputs(model)
    return tuple(CHOSEN if value.name in chosen else _groups(_origins(value, known)) for value in model.graph.outputs)


def compared_groups(model: ir.Model) -> list[tuple[str, ChannelGroup]]:
    """Returns the names of outputs with the groups of their channels that a quantized file's are compared with.

    Those that depend on what the graph chooses are left out where there are others: a small difference may put another
    detection in the place of one.
    """
    names = [str(value.name) for value in model.graph.outputs]
    pairs = zip(names, output_groups(model), strict=True)
    groups = [(name, group) for name, members in pairs for group in members]
    return [each for each in groups if not each[1].chosen] or groups


def _groups(origins: _Origins | None) -> tuple[ChannelGroup, ...]:
    if origins is None or not origins.branch.any():
        return WHOLE
    axis = _channel_axis(origins)
    rows = np.moveaxis(origins.branch, axis, 0).reshape(origins.branch.shape[axis], -1)
    members: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        members.setdefault(tuple(np.unique(row).tolist()), []).append(index)
    if len(members) == 1:
        return WHOLE
    return tuple(ChannelGroup(_label(numbers), axis, tuple(numbers)) for numbers in members.values())


def _channel_axis(origins: _Origins) -> int:
    """Returns the axis of the channels: along it, an index stands for the most places and the fewest channels.

    Along the places of joined maps an index stands for one place, with all channels of an anchor. Of several axes that
    would do, it is the shortest.
    """
    ranked = []
    for axis in range(1, origins.branch.ndim):
        length = origins.branch.shape[axis]
        places, channels = (_most_met(origins.branch, each, axis) for each in (origins.place, origins.channel))
        ranked.append((-places, channels, length, axis))
    return min(ranked)[-1] if ranked else 0


def _most_met(branch: np.ndarray, numbers: np.ndarray, axis: int) -> int:
    """Returns how many different numbers of one way meet at most at an index of an axis."""
    ways, bound = int(branch.max()) + 1, int(numbers.max()) + 1
    shape = [1] * branch.ndim
    shape[axis] = branch.shape[axis]
    index = np.arange(branch.shape[axis]).reshape(shape)
    met = np.unique((index * ways + branch) * bound + numbers)
    return int(np.unique(met // bound, return_counts=True)[1].max())


def _label(numbers: Sequence[int]) -> str:
    runs = []
    for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        runs.append(f"{members[0]}:{members[-1] + 1}" if len(members) > 1 else str(members[0]))
    return ",".join(runs)


def _origins(value: ir.Value, known: dict[int, _Origins | None]) -> _Origins | None:
    """Returns where the elements of a tensor come from; `None` where its shape is not known."""
    if id(value) not in known:
        known[id(value)] = _trace(value, known)
    return known[id(value)]


def _trace(value: ir.Value, known: dict[int, _Origins | None]) -> _Origins | None:
    node = value.producer()
    if node is None:
        return _source(value)
    if node.op_type == "Concat":
        return _joined(node, known)
    inputs = data_inputs(node)
    if node.op_type in _ELEMENTWISE and len(inputs) == 1 and _dims(inputs[0]) == _dims(value):
        return _origins(inputs[0], known)
    if node.op_type in REARRANGES and node.inputs[0] is not None:
        return _moved(node, value, _origins(node.inputs[0], known)) or _source(value)
    return _source(value)


def _moved(node: ir.Node, value: ir.Value, origins: _Origins | None) -> _Origins | None:
    if origins is None:
        return None
    moved = [move(node, array) for array in (origins.branch, origins.channel, origins.place)]
    index = next(number for number, output in enumerate(node.outputs) if output is value)
    known = [outputs[index] for outputs in moved if outputs is not None]
    return _Origins(*known) if len(known) == len(moved) else None


def _joined(node: ir.Node, known: dict[int, _Origins | None]) -> _Origins | None:
    """Returns the origins behind a Concat: each way before it, by each of its inputs, is a way of its own."""
    parts, first = [], 1
    for value in node.inputs:
        part = None if value is None else _origins(value, known)
        if part is None:
            return None
        ways, numbered = np.unique(part.branch, return_inverse=True)
        parts.append((numbered.reshape(part.branch.shape) + first, part.channel, part.place))
        first += len(ways)
    axis = node.attributes["axis"].as_int()
    return _Origins(*(np.concatenate(arrays, axis) for arrays in zip(*parts, strict=True)))


def _source(value: ir.Value) -> _Origins | None:
    dims = _dims(value)
    if dims is None or not dims:
        return None
    # Maps are (N, C, H, W); everything else, such as tokens, has its channels last.
    axis = 1 if len(dims) == 4 else len(dims) - 1
    others = [1 if number == axis else dim for number, dim in enumerate(dims)]
    channels = [dim if number == axis else 1 for number, dim in enumerate(dims)]
    return _Origins(
        np.zeros(dims, np.int64),
        np.broadcast_to(np.arange(dims[axis]).reshape(channels), dims),
        np.broadcast_to(np.arange(np.prod(others)).reshape(others), dims),
    )


def _dims(value: ir.Value) -> list[int] | None:
    """Returns the shape with 1 for a free batch, or `None` where more than that is not known."""
    array = constant(value)
    if array is not None:
        return list(array.shape)
    if value.shape is None:
        return None
    dims = list(value.shape)
    if any(not isinstance(dim, int) for dim in dims[1:]):
        return None
    return [dim if isinstance(dim, int) else 1 for dim in dims]
