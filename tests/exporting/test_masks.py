"""Masks of attention: finite where that gives the same softmax, and out of the ranges where it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.exporting.graphs.graph import constant
from edgeq.exporting.graphs.masks import infinite_values
from edgeq.exporting.passes.masks import LEAST, limit_masks
from edgeq.exporting.passes.order import SIMPLIFYING, run_passes
from edgeq.exporting.planning.fp16_audit import audit_fp16, audited_tensors
from edgeq.exporting.tensorrt.strong_typing import to_fp16
from tests.exporting import nets
from tests.exporting.test_qdq import ranges_of

TOKENS = 5
HIDDEN = np.triu(np.ones((TOKENS, TOKENS), np.bool_), 1)
VALUES = nets.normal(0, 2, TOKENS, 8)
WEIGHTS = {name: nets.normal(seed, 8, 8) for seed, name in enumerate(("wq", "wk", "wv"), 1)}
ATTENTION = """g (float[2,5,8] x) => (float[2,5,8] y) {{
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    kt = Transpose<perm=[0,2,1]>(k)
    scores = MatMul(q, kt)
    {masked}
    p = Softmax<axis=-1>(masked)
    y = MatMul(p, v)
}}"""
ADDED, CHOSEN = "masked = Add(scores, mask)", "masked = Where(hidden, mask, scores)"
SHOWN = "masked = Where(shown, scores, mask)"
WINDOWED = """windows = Reshape(scores, apart)
    some = Add(mask, windows)
    masked = Reshape(some, together)"""


def additive(value: float) -> np.ndarray:
    return np.where(HIDDEN, np.float32(value), np.float32(0))


def attention(masked: str, **constants: Any) -> ir.Model:
    return nets.graph(ATTENTION.format(masked=masked), WEIGHTS | constants)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "added, infinite": (ADDED, {"mask": additive(-np.inf)}),
    "added, the least float": (ADDED, {"mask": additive(float(np.finfo(np.float32).min))[None]}),
    "chosen, infinite": (CHOSEN, {"hidden": HIDDEN, "mask": np.float32(-np.inf)}),
    "shown, -1e9": (SHOWN, {"shown": ~HIDDEN, "mask": np.full(1, -1e9, np.float32)}),
    "in windows": (
        WINDOWED,
        {
            "mask": np.stack([additive(-1e9), additive(-1e9).T])[None],
            "apart": np.array([1, 2, 5, 5]),
            "together": np.array([2, 5, 5]),
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mask_becomes_finite_with_the_same_softmax(case: str) -> None:
    masked, constants = CASES[case]
    model = attention(masked, **constants)
    (wanted,) = nets.run(model, VALUES)
    assert limit_masks(model).changed
    for value in model.graph.initializers.values():
        array = constant(value)
        assert array is not None and array.min() >= LEAST
    np.testing.assert_array_equal(nets.run(model, VALUES)[0], wanted)


@pytest.mark.parametrize("case", ["added, infinite", "added, the least float", "shown, -1e9"])
def test_fp16_computes_masked_attention_without_islands(case: str) -> None:
    masked, constants = CASES[case]
    source = attention(masked, **constants)
    (wanted,) = nets.run(source, VALUES)
    run_passes(source, SIMPLIFYING)
    observed = nets.copy(source)
    names = [name for name in audited_tensors(source) if name != "x"]
    values = {value.name: value for node in observed.graph for value in node.outputs}
    observed.graph.outputs.extend(values[name] for name in names)
    ranges = ranges_of(dict(zip(names, nets.run(observed, VALUES)[1:], strict=True)))
    assert audit_fp16(source, ranges) == {}
    to_fp16(source)
    np.testing.assert_allclose(nets.run(source, VALUES)[0], wanted, atol=0.02 * np.abs(wanted).max())


def test_a_mask_that_is_small_or_shared_is_left() -> None:
    swin = attention(ADDED, mask=additive(-100))
    assert not limit_masks(swin).changed
    shared = attention("larger = Max(scores, mask) masked = Add(larger, mask)", mask=additive(-np.inf))
    (wanted,) = nets.run(shared, VALUES)
    assert limit_masks(shared).changed
    held = [constant(shared.graph.initializers[name]) for name in ("mask", "mask_finite")]
    assert [None if array is None else array.min() for array in held] == [-np.inf, LEAST]
    np.testing.assert_array_equal(nets.run(shared, VALUES)[0], wanted)


def test_layers_that_share_a_mask_share_the_finite_one() -> None:
    twice = "other = Add(scores, mask) p2 = Softmax(other) masked = Add(p2, mask)"
    model = attention(twice, mask=additive(-np.inf))
    (wanted,) = nets.run(model, VALUES)
    assert len(limit_masks(model).done) == 2
    masks = [name for name in model.graph.initializers if name.startswith("mask")]
    assert len(masks) == 1
    np.testing.assert_array_equal(nets.run(model, VALUES)[0], wanted)


@pytest.mark.parametrize(
    ("masked", "constants", "reason"),
    [
        (ADDED, {"mask": np.where(np.arange(5)[:, None] == 2, np.float32(-1e9), additive(-1e9))}, "whole rows"),
        (ADDED, {"mask": np.full((1, 5, 1), -np.inf, np.float32)}, "whole rows"),
        (ADDED, {"mask": np.where(HIDDEN, np.float32(np.nan), np.float32(-1e9))}, "NaN"),
        (
            "none = Less(scores, zero)\n" + CHOSEN.replace("hidden", "none"),
            {"mask": np.float32(-np.inf), "zero": np.float32(-1)},
            "is computed",
        ),
    ],
)
def test_a_mask_that_would_change_the_softmax_is_left_with_the_reason(masked, constants, reason) -> None:
    model = attention(masked, **constants)
    (wanted,) = nets.run(model, VALUES)
    report = limit_masks(model)
    assert not report.changed and [reason in each for each in report.left.values()] == [True]
    np.testing.assert_array_equal(nets.run(model, VALUES)[0], wanted)


def test_logits_that_are_read_elsewhere_keep_their_mask() -> None:
    model = attention(ADDED, mask=additive(-np.inf))
    masked = next(node for node in model.graph if node.op_type == "Add").outputs[0]
    model.graph.outputs.append(masked)
    assert not limit_masks(model).changed


def test_logits_behind_a_mask_are_the_ones_that_may_be_infinite() -> None:
    model = attention(ADDED, mask=additive(-np.inf))
    assert {value.name for value in infinite_values(model)} == {"masked"}
    assert not infinite_values(attention(ADDED, mask=additive(-1e9)))
