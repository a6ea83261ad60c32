"""Reads a map directly where a convolution reads its pixels moved into channels, as YOLOX's Focus stem does. Exact.

A block of `b` x `b` pixels that became channels and a convolution of kernel `k` and stride `s` over the smaller map are
one convolution of kernel `b k` and stride `b s` over the map itself, with as many multiplications ("YOLOv5", release
6.0, made its Focus layer one of kernel 6 and stride 2). The moves themselves cost: in OpenVINO six slices took a tenth
of YOLOX-nano's time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import drop_unused, new_initializer, opset_of, walk, weight_of
from edgeq.exporting.graphs.moved_values import lengths_of, moved_values, one_source
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class _Blocks:
    """Where the channels of a map come from.

    Attributes:
        source: The map `(N, C, H, W)` whose pixels were moved.
        size: Pixels of a block in each direction.
        origins: Channel, row and column within its block of each channel that the convolution reads, `(C', 3)`.
    """

    source: ir.Value
    size: int
    origins: np.ndarray


def fold_space_to_depth(model: ir.Model) -> RewriteReport:
    """Replaces every convolution of moved pixels by one of the map, in place, and returns which.

    However the move is written (Slice and Concat, Reshape and Transpose, SpaceToDepth, in any order of the channels),
    it is recognised by where it puts each value. Tensors keep their names.

    Args:
        model: A cleaned graph.
    """
    done = []
    for node in walk(model):
        weight = weight_of(node)
        if node.op_type != "Conv" or weight is None or weight.ndim != 4 or not _fits(node):
            continue
        blocks = _blocks_of(node, opset_of(model))
        if blocks is not None:
            _rewrite(model, node, weight, blocks)
            done.append(node.name or "?")
    drop_unused(model)
    return RewriteReport(tuple(done))


def _ints(node: ir.Node, name: str, default: list[int]) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else default


def _fits(node: ir.Node) -> bool:
    automatic = "auto_pad" in node.attributes and node.attributes["auto_pad"].as_string() != "NOTSET"
    grouped = "group" in node.attributes and node.attributes["group"].as_int() > 1
    return not automatic and not grouped and _ints(node, "dilations", [1, 1]) == [1, 1]


def _blocks_of(node: ir.Node, opset: int) -> _Blocks | None:
    """Returns the blocks that a convolution's input is made of; `None` if it is anything else."""
    value = node.inputs[0]
    source = None if value is None else one_source(value)
    if value is None or source is None:
        return None
    before, behind = lengths_of(source), lengths_of(value)
    if before is None or behind is None or behind[2] == 0 or (size := before[2] // behind[2]) < 2:
        return None
    if behind[0] != before[0] or behind[2:] != [before[2] / size, before[3] / size]:
        return None
    numbers = np.arange(np.prod(before), dtype=np.int64).reshape(before)
    moved = moved_values(value, {source: numbers}, opset)
    return None if moved is None else _match(source, size, numbers, moved)


def _match(source: ir.Value, size: int, numbers: np.ndarray, moved: np.ndarray) -> _Blocks | None:
    """Returns the blocks by which a map was moved: read off its first pixel, and proven at all of them."""
    origins = np.stack(np.unravel_index(moved[0, :, 0, 0], numbers.shape[1:]), axis=1)
    if origins[:, 1:].max() >= size:
        return None
    wanted = np.stack([numbers[:, channel, row::size, column::size] for channel, row, column in origins], axis=1)
    return _Blocks(source, size, origins) if np.array_equal(moved, wanted) else None


def _rewrite(model: ir.Model, node: ir.Node, weight: np.ndarray, blocks: _Blocks) -> None:
    import onnx_ir as ir

    assert blocks.source.shape is not None  # noqa: S101 - `_blocks_of` has looked
    out, _, rows, columns = weight.shape
    size, channels = blocks.size, int(blocks.source.shape[1])  # type: ignore[arg-type]
    spread = np.zeros((out, channels, rows * size, columns * size), weight.dtype)
    for index, (channel, row, column) in enumerate(blocks.origins):
        spread[:, channel, row::size, column::size] += weight[:, index]
    old = node.inputs[1]
    assert old is not None  # noqa: S101 - it has a weight
    node.replace_input_with(0, blocks.source)
    node.replace_input_with(1, new_initializer(model, f"{old.name}_of_pixels", spread))
    for name, numbers in (
        ("kernel_shape", list(spread.shape[2:])),
        ("strides", [size * step for step in _ints(node, "strides", [1, 1])]),
        ("pads", [size * pad for pad in _ints(node, "pads", [0] * 4)]),
    ):
        node.attributes[name] = ir.AttrInt64s(name, numbers)
