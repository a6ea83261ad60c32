"""Replaces what a graph computes of its own shapes by constants, as far as it is known. Exact.

Exporters write `x.view(x.size(0), -1)` as Shape, Gather and Concat, and twice the height as Cast, Mul and Floor.
Engines of fixed graphs (TFLite) take none of it, and with a free batch it stays for one unknown number among known
ones.

Rules, by number:

1. Shape arithmetic is what only Shape and Size of other tensors, and constants, decide. It is computed element by
   element; a free dimension is an unknown (`edgeq.exporting.graphs.lengths`). What is known of it is a constant.
2. Reshape: an unknown length of its shape becomes 0, which copies the length of the input's axis, or -1, which is what
   is left over; the latter once.
3. Resize to sizes with unknown lengths: by scales, where float32 arithmetic gives the same sizes and the axes with
   unknown lengths keep theirs; else, from opset 18 on, for the other axes alone.
4. Expand to the shape that its input has is no operator, and an If whose condition is known is its branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import (
    constant,
    drop_unused,
    forget_lengths,
    infer_shapes,
    new_initializer,
    opset_of,
    walk,
)
from edgeq.exporting.graphs.lengths import Length, Number, product, quotient
from edgeq.exporting.graphs.shape_values import ShapeValue, input_names, lengths_of, shape_values
from edgeq.exporting.passes.cleaning import clean
from edgeq.exporting.passes.computed_constants import fold_computed_constants
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir

_AXES_OF_RESIZE = 18


def fold_shape_arithmetic(model: ir.Model) -> RewriteReport:
    """Replaces shape arithmetic, in place, and returns what was replaced or read it.

    Args:
        model: A cleaned graph with shapes.
    """
    done: dict[str, None] = {}
    names = input_names(model)
    # A shape that has become known makes further shapes known behind it.
    while any(node.op_type in ("Shape", "Size") for node in model.graph):
        found, named = _Rewrite(model).run(), _name_lengths(model)
        if not found and not named:
            break
        done |= dict.fromkeys(found)
        drop_unused(model)
        for value in (output for node in model.graph for output in node.outputs if not output.is_graph_output()):
            forget_lengths(value, lambda name: Length.parse(name, names) is None)
        infer_shapes(model)
    if any(node.op_type == "If" and constant(node.inputs[0]) is not None for node in model.graph):
        clean(model)  # takes the branch
    if done:
        fold_computed_constants(model)
    return RewriteReport(tuple(done))


def _name_lengths(model: ir.Model) -> bool:
    """Writes down lengths behind a Reshape that shape inference does not find, and returns whether there were any."""
    names, named = input_names(model), False
    for node in model.graph:
        target = constant(node.inputs[1]) if node.op_type == "Reshape" else None
        source = None if target is None or node.inputs[0] is None else lengths_of(node.inputs[0], names)
        if target is None or source is None or not _zeros_copy(node):
            continue
        known, wanted = lengths_of(node.outputs[0], names), _reshaped(source, target.tolist())
        if wanted is not None and wanted != known and all(_is_named(length, names) for length in wanted):
            _set_shape(node.outputs[0], wanted, names)
            named = True
    return named


def _zeros_copy(reshape: ir.Node) -> bool:
    return "allowzero" not in reshape.attributes or not reshape.attributes["allowzero"].as_int()


def _is_named(length: int | Length, names: frozenset[str]) -> bool:
    return isinstance(length, int) or names.issuperset(length.unknowns)


class _Rewrite:
    """One round over a graph."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._names = input_names(model)
        self._values = shape_values(model)

    def run(self) -> list[str]:
        """Returns the names of the nodes that were changed or replaced."""
        done = []
        for node in walk(self._model):
            changed = {
                "Reshape": self._reshape,
                "Resize": self._resize,
                "Expand": self._expand,
            }.get(node.op_type, self._known)(node)
            if changed:
                done.append(str(node.name))
        return done

    def _known(self, node: ir.Node) -> bool:
        """Rule 1: gives the readers of a known result a constant."""
        changed = False
        for output in node.outputs:
            value = self._values.get(output)
            readers = [use for use in output.uses() if not self._is_folded(use.node)]
            if value is None or not value.is_known or not readers:
                continue
            known = new_initializer(self._model, f"{output.name}_known", value.array())
            for use in readers:
                use.node.replace_input_with(use.idx, known)
            changed = True
        return changed

    def _is_folded(self, node: ir.Node) -> bool:
        """Returns whether a node's results are known, so that their readers read constants."""
        return all(output in self._values and self._values[output].is_known for output in node.outputs)

    def _partly_known(self, node: ir.Node, index: int) -> ShapeValue | None:
        value = node.inputs[index] if index < len(node.inputs) else None
        found = None if value is None else self._values.get(value)
        return found if found is not None and not found.is_known else None

    def _lengths(self, value: ir.Value | None) -> list[int | Length] | None:
        return None if value is None else lengths_of(value, self._names)

    def _reshape(self, node: ir.Node) -> bool:
        """Rule 2."""
        target, source = self._partly_known(node, 1), self._lengths(node.inputs[0])
        if target is None or source is None or not _zeros_copy(node):
            return self._known(node)
        wanted = _reshaped(source, list(target.elements))
        if wanted is None:
            return False
        shape = [length if isinstance(length, int) else -1 for length in wanted]
        for axis, (length, own) in enumerate(zip(wanted, source, strict=False)):
            if length == own and isinstance(length, Length):
                shape[axis] = 0
        if shape.count(-1) > 1:
            return False
        name = f"{node.outputs[0].name}_shape"
        node.replace_input_with(1, new_initializer(self._model, name, np.array(shape, np.int64)))
        _set_shape(node.outputs[0], wanted, self._names)
        return True

    def _resize(self, node: ir.Node) -> bool:
        """Rule 3."""
        sizes, source = self._partly_known(node, 3), self._lengths(node.inputs[0])
        policy = node.attributes.get("keep_aspect_ratio_policy")
        simple = "axes" not in node.attributes and (policy is None or policy.as_string() == "stretch")
        if sizes is None or source is None or not simple or node.inputs[1] is not None:
            return self._known(node)
        wanted = list(sizes.elements)
        scales = [_scale(before, after) for before, after in zip(source, wanted, strict=True)]
        if all(scale is not None for scale in scales):
            array = np.array(scales, np.float32)
            node.replace_input_with(3, None)
            node.replace_input_with(2, new_initializer(self._model, f"{node.name}_scales", array))
            node.resize_inputs(3)
        elif opset_of(self._model) >= _AXES_OF_RESIZE and all(
            before == after for before, after in zip(source, wanted, strict=True) if isinstance(after, Length)
        ):
            import onnx_ir as ir

            axes = [axis for axis, length in enumerate(wanted) if not isinstance(length, Length)]
            array = np.array([wanted[axis] for axis in axes], np.int64)
            node.replace_input_with(3, new_initializer(self._model, f"{node.name}_sizes", array))
            node.attributes["axes"] = ir.AttrInt64s("axes", axes)
        else:
            return False
        _set_shape(node.outputs[0], wanted, self._names)
        return True

    def _expand(self, node: ir.Node) -> bool:
        """Rule 4."""
        given, output = node.inputs[0], node.outputs[0]
        target, source = self._partly_known(node, 1), self._lengths(given)
        if target is None or given is None or source is None or output.is_graph_output():
            return self._known(node)
        wanted = list(target.elements)
        if len(wanted) > len(source) or any(
            after not in (1, before) for before, after in zip(source[len(source) - len(wanted) :], wanted, strict=True)
        ):
            return False
        output.replace_all_uses_with(given)
        return True


def _reshaped(source: Sequence[int | Length], target: Sequence[Number]) -> list[int | Length] | None:
    """Returns the lengths behind a Reshape; `None` if one of them may be anything."""
    lengths: list[int | Length] = []
    for axis, wanted in enumerate(target):
        if isinstance(wanted, Length):
            if not wanted.positive or not wanted.is_whole:
                return None  # it might turn out to be 0 or -1, which mean something else
            lengths.append(wanted)
        else:
            lengths.append(source[axis] if wanted == 0 else int(wanted))
    if -1 in lengths:
        rest = quotient(product(source), product([length for length in lengths if length != -1]))
        if rest is None or isinstance(rest, float):
            return None
        lengths[lengths.index(-1)] = rest
    return lengths


def _scale(before: int | Length, after: Number) -> float | None:
    """Returns the scale that makes one length another in the engines' arithmetic; `None` if there is none."""
    if before == after:
        return 1.0
    if isinstance(before, Length) or isinstance(after, Length):
        return None
    scale = np.float32(after / before)
    sizes = {int(np.float32(before) * scale), int(np.floor(float(before) * float(scale)))}
    return float(scale) if sizes == {after} else None


def _set_shape(value: ir.Value, lengths: Sequence[Number], names: frozenset[str]) -> None:
    import onnx_ir as ir

    shape: list[int | str | None] = []
    for length in lengths:
        if isinstance(length, Length):
            shape.append(str(length) if names.issuperset(length.unknowns) else None)
        else:
            shape.append(int(length))
    value.shape = ir.Shape(shape)
