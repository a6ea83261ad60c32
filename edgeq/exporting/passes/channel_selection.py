"""Channels that are chosen and moved by layers instead of by Reshape, Transpose and Split. Exact.

Behind a channel shuffle ("ShuffleNet V2", Ma et al., 2018) a 1x1 convolution reads every second channel of what was
joined before it, and the others go into the next join. Engines whose maps have their channels last bring the whole map
into another layout for that, and back: a fifth of FastestDet's time in OpenVINO. With zeros for the other channels in
its weight, the layer reads the joined map as it is; and a convolution whose weight is a selection, a single 1 for each
output channel, moves the others. In INT8 it is exact, too: `1 = 127 * (1 / 127)`, on one grid before and behind it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import drop_unused, new_initializer, opset_of, walk, weight_of
from edgeq.exporting.graphs.moved_values import lengths_of, moved_values
from edgeq.exporting.graphs.moves import REARRANGES, moved_from
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir

_MOST_GROWTH = 2
"""How many times as many multiplications are less work than moving the map."""


def fold_channel_selection(model: ir.Model) -> RewriteReport:
    """Lets 1x1 convolutions of chosen channels read the whole map, in place, and returns which.

    What else reads channels of these maps reads them behind a convolution that selects them.

    Args:
        model: A cleaned graph.
    """
    done = []
    sources: dict[ir.Value, None] = {}
    for node in walk(model):
        weight = weight_of(node)
        if node.op_type != "Conv" or weight is None or math.prod(weight.shape[2:]) != 1:
            continue
        if "group" in node.attributes and node.attributes["group"].as_int() > 1:
            continue
        found = None if node.inputs[0] is None else _selection(node.inputs[0], opset_of(model))
        if found is None:
            continue
        source, channels, count = found
        spread = np.zeros((len(weight), count, *weight.shape[2:]), weight.dtype)
        np.add.at(spread.swapaxes(0, 1), channels, weight.swapaxes(0, 1))
        old = node.inputs[1]
        assert old is not None  # noqa: S101 - it has a weight
        node.replace_input_with(0, source)
        node.replace_input_with(1, new_initializer(model, f"{old.name}_of_all_channels", spread))
        sources[source] = None
        done.append(node.name or "?")
    drop_unused(model)
    for source in sources:
        _select_others(model, source)
    drop_unused(model)
    return RewriteReport(tuple(done))


def _select_others(model: ir.Model, source: ir.Value) -> None:
    """Writes what else is made of channels of a map alone as convolutions that select them."""
    waiting = [use.node for use in source.uses()]
    while waiting:
        node = waiting.pop()
        if node.op_type not in REARRANGES:
            continue
        for value in node.outputs:
            readers = [use.node for use in value.uses()]
            if value.is_graph_output() or any(reader.op_type in REARRANGES for reader in readers):
                waiting += readers
            elif readers and (found := _selection(value, opset_of(model))) is not None:
                _select(model, value, found)


def _select(model: ir.Model, value: ir.Value, found: tuple[ir.Value, np.ndarray, int]) -> None:
    import onnx_ir as ir

    source, channels, count = found
    weight = np.zeros((len(channels), count, 1, 1), np.float32)
    weight[np.arange(len(channels)), channels] = 1
    before = value.producer()
    assert before is not None  # noqa: S101 - it is moved
    name = value.name
    inputs = [source, new_initializer(model, f"{name}_selection", weight)]
    select = ir.node("Conv", inputs, {"kernel_shape": [1, 1]}, name=f"{name}_select")
    result = select.outputs[0]
    result.shape, result.type = value.shape, value.type
    model.graph.insert_after(before, select)
    value.replace_all_uses_with(result)
    value.name, result.name = f"{name}_moved", name


def _selection(value: ir.Value, opset: int) -> tuple[ir.Value, np.ndarray, int] | None:
    """Returns the map that a tensor holds channels of, their indices, and how many the map has."""
    source = moved_from(value, REARRANGES)
    if source is value:
        return None
    before, behind = lengths_of(source), lengths_of(value)
    if before is None or behind is None or 0 in before or before[2:] != behind[2:] or before[0] != behind[0]:
        return None
    if before[1] > _MOST_GROWTH * behind[1]:
        return None
    numbers = np.arange(math.prod(before), dtype=np.int64).reshape(before)
    moved = moved_values(value, {source: numbers}, opset)
    if moved is None or moved.shape != tuple(behind):
        return None
    channels = moved[0, :, 0, 0] // math.prod(before[2:])
    whole = np.array_equal(moved, numbers[:, channels])
    return (source, channels, before[1]) if whole else None
