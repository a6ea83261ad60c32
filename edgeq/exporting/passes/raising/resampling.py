"""Upsample and the first Resize, and the names of modes. Exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.passes.node_builder import NodeBuilder, Rule, attribute, known, set_attribute, set_input

if TYPE_CHECKING:
    import onnx_ir as ir

_NEW_NAMES = {"bilinear": "linear", "bicubic": "cubic"}


def _scales(node: ir.Node, make: NodeBuilder) -> None:
    set_input(node, 1, make.constant(np.array(attribute(node, "scales"), np.float32)))
    set_attribute(node, "scales", None)


def _resize(node: ir.Node, make: NodeBuilder) -> None:
    node.op_type = "Resize"


def _positions(node: ir.Node, make: NodeBuilder) -> ir.Value | None:
    """Positions were `index / scale`, rounded down where a nearest one is made larger, up where it is made smaller."""
    source, scales = node.inputs
    mode = attribute(node, "mode", "nearest")

    def resized(value: ir.Value | None, factors: ir.Value | np.ndarray | None, rounding: str | None) -> ir.Value:
        return make(
            "Resize", value, make.constant(np.array([], np.float32)), factors, mode=mode,
            coordinate_transformation_mode="asymmetric", nearest_mode=rounding,
        )  # fmt: skip

    if mode != "nearest":
        return resized(source, scales, None)
    factors = known(scales)
    if factors is None or (factors >= 1).all():
        return resized(source, scales, "floor")
    value = resized(source, np.minimum(factors, 1), "ceil")
    return value if (factors <= 1).all() else resized(value, np.maximum(factors, 1), "floor")


def _mode_name(node: ir.Node, make: NodeBuilder) -> None:
    mode = attribute(node, "mode", "bilinear")
    set_attribute(node, "mode", _NEW_NAMES.get(mode, mode))


RESAMPLING: dict[tuple[str, int], Rule] = {
    ("GridSample", 20): _mode_name,
    ("Resize", 11): _positions,
    ("Upsample", 9): _scales,
    ("Upsample", 10): _resize,
}
