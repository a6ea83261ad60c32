"""Attention and RotaryEmbedding. Exact up to float rounding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.passes.node_builder import (
    NodeBuilder,
    Rule,
    attribute,
    dims,
    input_at,
    known,
)  # fmt: skip

if TYPE_CHECKING:
    import onnx_ir as ir

_WINDOWS = ("left_window_size", "right_window_size")


def _no_window(node: ir.Node, make: NodeBuilder) -> None:
    if any(attribute(node, name, -1) >= 0 for name in _WINDOWS):
        make.refuse("has a sliding window, which opsets below 25 cannot say; export the model with a mask instead")


def _no_lengths(node: ir.Node, make: NodeBuilder) -> None:
    if input_at(node, 6) is not None:
        make.refuse("has a length per sequence, which opsets below 24 cannot say; export the model with a mask instead")
    node.resize_inputs(min(len(node.inputs), 6))


def _attention(node: ir.Node, make: NodeBuilder) -> list[ir.Value]:
    """Vaswani et al., 2017, in the order of the operator's declaration: scale, cap, mask, Softmax."""
    flat = len(dims(node.inputs[0]) or ()) == 3
    query, key, value = node.inputs[:3]
    if flat:
        heads, groups = attribute(node, "q_num_heads"), attribute(node, "kv_num_heads")
        query, key, value = (
            _heads(each, n, make) for each, n in zip(node.inputs, (heads, groups, groups), strict=False)
        )
    present = []
    for position, each in ((4, key), (5, value)):
        past = input_at(node, position)
        present.append(each if past is None else make("Concat", past, each, axis=2))
    key, value = (_shared(node, each, make) for each in present)
    root = math.sqrt(attribute(node, "scale") or 1 / math.sqrt(_head_size(node, make)))
    turned = make("Transpose", key, perm=[0, 1, 3, 2])
    scores = make("MatMul", make("Mul", query, make.like(query, root)), make("Mul", turned, make.like(query, root)))
    taken = [scores]
    cap = attribute(node, "softcap", 0.0)
    if cap:
        scores = make("Mul", make("Tanh", make("Div", scores, make.like(query, cap))), make.like(query, cap))
    taken.append(scores)
    biases, open_rows = _biases(node, make)
    for bias in biases:
        scores = make("Add", scores, bias)
    taken.append(scores)
    weights = _softmax(node, scores, make)
    if not open_rows:
        weights = make("Where", make("IsNaN", weights), make.like(query, 0.0), weights)
    taken.append(weights)
    result = make("MatMul", weights, value)
    if flat:
        result = make("Reshape", make("Transpose", result, perm=[0, 2, 1, 3]), make.ints(0, 0, -1))
    outputs = [result, *(each for each in present), taken[attribute(node, "qk_matmul_output_mode", 0)]]
    return [each for each in outputs[: len(node.outputs)] if each is not None]


def _heads(value: ir.Value | None, heads: int, make: NodeBuilder) -> ir.Value:
    """Returns `(N, S, heads * D)` as `(N, heads, S, D)`."""
    return make("Transpose", make("Reshape", value, make.ints(0, 0, heads, -1)), perm=[0, 2, 1, 3])


def _shared(node: ir.Node, value: ir.Value | None, make: NodeBuilder) -> ir.Value | None:
    """Returns keys or values with each head as often as queries share it (Ainslie et al., 2023)."""
    query, key = dims(node.inputs[0]), dims(node.inputs[1])
    heads = attribute(node, "q_num_heads") or (None if query is None else query[1])
    groups = attribute(node, "kv_num_heads") or (None if key is None else key[1])
    if groups is None or heads is None:
        make.refuse("has a free number of heads; export the model with a fixed one")
    if groups == heads:
        return value
    repeated = make("Expand", make("Unsqueeze", value, make.ints(2)), make.ints(1, 1, heads // groups, 1, 1))
    lengths = make("Slice", make("Shape", value), make.ints(2), make.ints(4), make.ints(0))
    return make("Reshape", repeated, make("Concat", make.ints(0, heads), lengths, axis=0))


def _head_size(node: ir.Node, make: NodeBuilder) -> int:
    shape = dims(node.inputs[0])
    length = None if shape is None else shape[-1]
    if shape is None or length is None:
        make.refuse("has heads of a free size; export the model with a fixed one")
    return length // attribute(node, "q_num_heads") if len(shape) == 3 else length


def _biases(node: ir.Node, make: NodeBuilder) -> tuple[list[ir.Value], bool]:
    """Returns what is added to the scores, and whether a key is certainly left for each query."""
    mask = input_at(node, 3)
    array = known(mask)
    if array is not None:
        added = np.where(array, 0.0, -np.inf) if array.dtype == np.bool_ else array
    causal = _causal(node, make) if attribute(node, "is_causal", 0) else None
    _require_whole(node, mask, make)
    query = node.inputs[0]
    if mask is None or array is not None:
        parts = [each for each in (causal, None if mask is None else added) if each is not None]
        if not parts:
            return [], True
        bias = sum(parts[1:], parts[0])
        return [make.like(query, bias)], bool((bias > -np.inf).any(axis=-1).all())
    biases = [] if causal is None else [make.like(query, causal)]
    if mask.dtype is not None and mask.dtype.numpy() == np.bool_:
        mask = make("Where", mask, make.like(query, 0.0), make.like(query, -np.inf))
    return [*biases, mask], False


def _causal(node: ir.Node, make: NodeBuilder) -> np.ndarray:
    lengths = [None if (shape := dims(node.inputs[position])) is None else shape[-2] for position in (0, 1)]
    past = input_at(node, 4)
    before = 0 if past is None else None if (shape := dims(past)) is None else shape[2]
    queries, keys = lengths
    if queries is None or keys is None or before is None:
        make.refuse("is causal over a free length; export the model with fixed lengths")
    return np.where(np.tri(queries, before + keys, before, dtype=np.bool_), 0.0, -np.inf)


def _require_whole(node: ir.Node, mask: ir.Value | None, make: NodeBuilder) -> None:
    """A mask may end before the keys do, and those behind it are hidden then; no exporter writes that."""
    covered, past = dims(mask), dims(input_at(node, 4))
    keys = dims(node.inputs[1])
    if covered is None or keys is None or keys[-2] is None or covered[-1] is None:
        return
    if covered[-1] != keys[-2] + ((past[2] or 0) if past else 0):
        make.refuse("has a mask that is shorter than its keys; export the model with a mask for all of them")


def _softmax(node: ir.Node, scores: ir.Value, make: NodeBuilder) -> ir.Value:
    precision, query = attribute(node, "softmax_precision"), node.inputs[0]
    if query is None or query.dtype is None or precision in (None, 0, int(query.dtype)):
        return make("Softmax", scores, axis=-1)
    return make("Cast", make("Softmax", make("Cast", scores, to=precision), axis=-1), to=int(query.dtype))


def _rotary(node: ir.Node, make: NodeBuilder) -> ir.Value:
    """Su et al., 2021: halves, or neighbours, of a head turn by the angle of their position."""
    source, cosine, sine = node.inputs[:3]
    shape, flat = dims(source), len(dims(source) or ()) == 3
    length = None if shape is None else shape[-1]
    if length is None:
        make.refuse("has heads of a free size; export the model with a fixed one")
    # (N, S, heads, D): the angles (N, S, 1, D / 2) fit it.
    heads = attribute(node, "num_heads", 0)
    size = length // heads if flat else length
    x = make("Reshape", source, make.ints(0, 0, heads, size)) if flat else make("Transpose", source, perm=[0, 2, 1, 3])
    turned = attribute(node, "rotary_embedding_dim", 0) or size
    rotated = _part(x, 0, turned, 1, make) if turned < size else x
    if attribute(node, "interleaved", 0):
        first, second = (_part(rotated, start, turned, 2, make) for start in (0, 1))
    else:
        first, second = _part(rotated, 0, turned // 2, 1, make), _part(rotated, turned // 2, turned, 1, make)
    positions = input_at(node, 3)
    cos, sin = (_angles(each, positions, make) for each in (cosine, sine))
    real = make("Sub", make("Mul", cos, first), make("Mul", sin, second))
    imaginary = make("Add", make("Mul", sin, first), make("Mul", cos, second))
    if attribute(node, "interleaved", 0):
        columns = [make("Unsqueeze", each, make.ints(-1)) for each in (real, imaginary)]
        result = make("Reshape", make("Concat", *columns, axis=-1), make.ints(0, 0, 0, turned))
    else:
        result = make("Concat", real, imaginary, axis=-1)
    if turned < size:
        result = make("Concat", result, _part(x, turned, size, 1, make), axis=-1)
    return make("Reshape", result, make.ints(0, 0, -1)) if flat else make("Transpose", result, perm=[0, 2, 1, 3])


def _angles(cache: ir.Value | None, positions: ir.Value | None, make: NodeBuilder) -> ir.Value:
    rows = cache if positions is None else make("Gather", cache, positions, axis=0)
    return make("Unsqueeze", rows, make.ints(2))


def _part(value: ir.Value, start: int, end: int, step: int, make: NodeBuilder) -> ir.Value:
    return make("Slice", value, make.ints(start), make.ints(end), make.ints(-1), make.ints(step))


ATTENTION: dict[tuple[str, int], Rule] = {
    ("Attention", 23): _attention,
    ("Attention", 24): _no_lengths,
    ("Attention", 25): _no_window,
    ("RotaryEmbedding", 23): _rotary,
}
