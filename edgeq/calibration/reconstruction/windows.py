"""Which part of a map a part of the output depends on: convolutions are learned on windows instead of whole images.

A window of the output starts at an origin `o`; the positions of any tensor before it that it depends on start at
`scale * o + offset` and are `size` many, whatever the origin. What lies beyond the map is zero, as the padding of the
convolution that reads it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from edgeq.exporting.graphs.graph import data_inputs, weight_of

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Window:
    """Positions of a tensor along one axis.

    Attributes:
        scale: Positions by which it moves when the output's window moves by one.
        offset: Where it starts for an output window that starts at 0.
        size: How many positions it has.
    """

    scale: Fraction
    offset: int
    size: int

    def start(self, origin: int) -> int:
        """Returns the first position for an output window from `origin` on, a multiple of the unit's step."""
        return int(self.scale * origin) + self.offset


@dataclass(frozen=True)
class Strides:
    """How a convolution moves along one axis.

    Attributes:
        kernel: Positions of its kernel, holes of a dilation among them.
        stride: Its stride.
        before: Padding before the first position.
        after: Padding behind the last.
        extra: `output_padding` of a ConvTranspose.
    """

    kernel: int
    stride: int
    before: int
    after: int
    extra: int = 0


def strides_of(node: ir.Node, axis: int) -> Strides:
    """Returns how a convolution moves along the axis 0 (height) or 1 (width) of a map."""
    weight = weight_of(node)
    assert weight is not None  # noqa: S101 - units hold convolutions with constant weights

    def integers(name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(node.attributes[name].as_ints()) if name in node.attributes else default

    pads, dilation = integers("pads", (0, 0, 0, 0)), integers("dilations", (1, 1))[axis]
    kernel = (int(weight.shape[2 + axis]) - 1) * dilation + 1
    extra = integers("output_padding", (0, 0))[axis]
    return Strides(kernel, integers("strides", (1, 1))[axis], pads[axis], pads[2 + axis], extra)


def read_by(node: ir.Node, window: Window, axis: int) -> Window:
    """Returns what a node reads of each input for a window of its output."""
    if node.op_type == "Conv":
        moves = strides_of(node, axis)
        size = (window.size - 1) * moves.stride + moves.kernel
        return Window(window.scale * moves.stride, window.offset * moves.stride - moves.before, size)
    if node.op_type == "ConvTranspose":
        moves = strides_of(node, axis)
        first = -((moves.kernel - 1 - moves.before - window.offset) // moves.stride)
        last = (window.offset + window.size - 1 + moves.before) // moves.stride
        return Window(window.scale / moves.stride, first, last - first + 1)
    return window


def windows_of(nodes: Sequence[ir.Node], output: str, size: int, axis: int) -> dict[str, Window] | None:
    """Returns tensor name -> its window for a window of `size` positions of the output.

    `None` where a tensor is read at different scales, as none of a residual block is.

    Args:
        nodes: The nodes, in graph order.
        output: Name of the output.
        size: Positions of the output's window.
        axis: 0 for height, 1 for width.
    """
    needed: dict[str, list[Window]] = {output: [Window(Fraction(1), 0, size)]}
    found: dict[str, Window] = {}
    for node in reversed(nodes):
        name = str(node.outputs[0].name)
        joined = _joined(needed[name])
        if joined is None:
            return None
        found[name] = joined
        for value in data_inputs(node):
            needed.setdefault(str(value.name), []).append(read_by(node, joined, axis))
    for name in needed.keys() - found.keys():
        if (joined := _joined(needed[name])) is None:
            return None
        found[name] = joined
    return found


def lengths_of(nodes: Sequence[ir.Node], source: str, length: int, axis: int) -> dict[str, int]:
    """Returns tensor name -> its length along an axis, for a source of the given length."""
    found = {source: length}
    for node in nodes:
        before = found[str(data_inputs(node)[0].name)]
        if node.op_type in ("Conv", "ConvTranspose"):
            moves = strides_of(node, axis)
            padding = moves.before + moves.after
            if node.op_type == "Conv":
                before = (before + padding - moves.kernel) // moves.stride + 1
            else:
                before = (before - 1) * moves.stride - padding + moves.kernel + moves.extra
        found[str(node.outputs[0].name)] = before
    return found


def step_of(nodes: Sequence[ir.Node], axis: int) -> int:
    """Returns what origins of output windows have to be multiples of."""
    steps = [strides_of(node, axis).stride for node in nodes if node.op_type == "ConvTranspose"]
    return max(steps, default=1)


def _joined(windows: Sequence[Window]) -> Window | None:
    if len({window.scale for window in windows}) != 1:
        return None
    first = min(window.offset for window in windows)
    end = max(window.offset + window.size for window in windows)
    return Window(windows[0].scale, first, end - first)
