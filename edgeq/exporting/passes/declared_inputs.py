"""Puts what a preset declares of a graph's inputs into the graph. Exact.

Inputs that always get the same numbers (an image's size, a scale factor, a mask of ones) become constants of the graph,
and are not fed at every run: a file with one input runs in every engine alike. TensorRT needs no shape tensors or
further bindings for it, and calibration caches, TFLite files and devices know one input; and what is computed from the
numbers alone is folded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import new_initializer
from edgeq.exporting.graphs.image_input import DeclaredInput, Lengths, describe, given_inputs, lengths_of
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir


def declare_inputs(model: ir.Model, declared: Mapping[str, DeclaredInput]) -> RewriteReport:
    """Makes inputs with a value constants, and gives the others the lengths that are declared, in place.

    Args:
        model: A graph, maybe with free dimensions.
        declared: Name of an input -> what is declared of it.

    Raises:
        InputError: a value or a shape does not fit the input.
    """
    import onnx_ir as ir

    done = []
    for value in given_inputs(model):
        wanted = declared.get(str(value.name))
        if wanted is None or (wanted.value is None and wanted.shape is None):
            continue
        name = str(value.name)
        if wanted.value is not None:
            _replace(model, value, input_value(value, wanted))
        else:
            value.shape = ir.Shape(_shape(value, wanted) or ())
        done.append(name)
    return RewriteReport(tuple(done))


def input_value(value: ir.Value, declared: DeclaredInput) -> np.ndarray:
    """Returns the array that an input always gets, of its type and shape.

    Raises:
        InputError: the numbers have another shape or do not fit the type, or one number is to fill a free shape.
    """
    name, shape = str(value.name), _shape(value, declared)
    dtype = np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
    try:
        given = np.asarray(declared.value)
    except ValueError:  # lists of different lengths
        raise InputError(f"[inputs.{name}]: its value has rows of different lengths; wanted nested lists") from None
    if given.dtype.kind not in "biuf":
        raise InputError(f"[inputs.{name}]: its value is {declared.value!r}; wanted numbers")
    array = given.astype(dtype)
    if given.dtype.kind != "b" and not np.array_equal(array.astype(np.float64), given) and dtype.kind != "f":
        raise InputError(f"[inputs.{name}]: {declared.value!r} does not fit {dtype}, which the input holds")
    if array.ndim == 0 and shape:
        lengths = (1, *shape[1:]) if shape[0] is None else shape  # a free batch is one image
        if None in lengths:
            raise InputError(
                f"[inputs.{name}]: one number is to fill {describe(name, shape)}; write its lengths too: shape = [...]"
            )
        return np.full([length for length in lengths if length is not None], array)
    fits = shape is None or (
        len(shape) == array.ndim and all(wanted in (None, got) for wanted, got in zip(shape, array.shape, strict=True))
    )
    if not fits:
        raise InputError(
            f"[inputs.{name}]: its value has the shape {array.shape}, and the model takes {describe(name, shape or ())}"
        )
    return array


def _shape(value: ir.Value, declared: DeclaredInput) -> Lengths | None:
    """Returns the shape of an input with the lengths that are declared."""
    shape, wanted = lengths_of(value), declared.shape
    if wanted is None:
        return shape
    if shape is not None and (
        len(shape) != len(wanted)
        or any(length not in (None, given) for length, given in zip(shape, wanted, strict=True))
    ):
        raise InputError(
            f"[inputs.{value.name}]: its shape is {list(wanted)}, and the model takes "
            f"{describe(str(value.name), shape)}; write the lengths of the model where they are fixed"
        )
    return wanted


def _replace(model: ir.Model, value: ir.Value, array: np.ndarray) -> None:
    """Puts a constant in the place of an input, under its name."""
    name = str(value.name)
    model.graph.inputs.remove(value)
    value.name = f"{name}_input"
    constant = new_initializer(model, name, array)
    value.replace_all_uses_with(constant, replace_graph_outputs=True)
