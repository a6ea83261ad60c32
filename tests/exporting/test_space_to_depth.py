from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.exporting.passes.space_to_depth import fold_space_to_depth
from tests.exporting import nets

# The four slices of YOLOX, cut along one axis and then the other; YOLOv5's, in one go; two exporters' ways to write
# torch's PixelUnshuffle, which puts channels first; and the operator that TensorFlow's converter writes, blocks first.
YOLOX = """l = Slice(x, zero, end, two, step) r = Slice(x, one, end, two, step)
    a = Slice(l, zero, end, three, step) b = Slice(l, one, end, three, step)
    c = Slice(r, zero, end, three, step) d = Slice(r, one, end, three, step)
    s = Concat<axis=1>(a, b, c, d)"""
YOLOV5 = """a = Slice(x, zeros, ends, axes, steps) b = Slice(x, down, ends, axes, steps)
    c = Slice(x, right, ends, axes, steps) d = Slice(x, ones, ends, axes, steps) s = Concat<axis=-3>(a, b, c, d)"""
UNSHUFFLE = "p = Reshape(x, blocks) q = Transpose<perm=[0, 1, 3, 5, 2, 4]>(p) s = Reshape(q, joined)"
OPERATOR = "s = SpaceToDepth<blocksize=2>(x)"
FORMS = [YOLOX, YOLOV5, UNSHUFFLE, OPERATOR]
HEIGHT, WIDTH, CHANNELS = 8, 12, 3


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


CONSTANTS = {
    "zero": integers(0), "one": integers(1), "two": integers(2), "three": integers(3), "step": integers(2),
    "end": integers(2**31), "zeros": integers(0, 0), "ones": integers(1, 1), "down": integers(1, 0),
    "right": integers(0, 1), "ends": integers(2**31, 2**31), "axes": integers(2, 3), "steps": integers(2, 2),
    "blocks": integers(1, CHANNELS, HEIGHT // 2, 2, WIDTH // 2, 2),
    "joined": integers(1, 4 * CHANNELS, HEIGHT // 2, WIDTH // 2),
}  # fmt: skip


def stem(form: str, conv: str, weight: np.ndarray) -> ir.Model:
    text = f"g (float[1,{CHANNELS},{HEIGHT},{WIDTH}] x) => (float[N,C,H,W] y) {{ {form} y = {conv}(s, w, bias) }}"
    used = {name: array for name, array in CONSTANTS.items() if f"{name})" in form or f"{name}," in form}
    return nets.graph(text, used | {"w": weight, "bias": nets.normal(2, len(weight))})


@settings(max_examples=12, deadline=None)
@given(form=st.sampled_from(FORMS), kernel=st.integers(1, 3), stride=st.integers(1, 2), pad=st.integers(0, 1))
def test_the_folded_stem_computes_the_same(form: str, kernel: int, stride: int, pad: int) -> None:
    conv = f"Conv<strides=[{stride},{stride}], pads=[{pad},{pad},{pad},{pad}]>"
    model = stem(form, conv, nets.normal(1, 5, 4 * CHANNELS, kernel, kernel))
    x = nets.normal(3, 1, CHANNELS, HEIGHT, WIDTH)
    expected = nets.run(model, x)[0]
    assert len(fold_space_to_depth(model).done) == 1
    assert nets.ops(model) == ["Conv"], "no move is left"
    (found,) = nets.run(model, x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ("t = Transpose<perm=[0, 1, 3, 2]>(x) s = SpaceToDepth<blocksize=2>(t)", "rows are columns"),
        ("t = Relu(x) u = SpaceToDepth<blocksize=2>(x) v = SpaceToDepth<blocksize=2>(t) s = Add(u, v)", "a sum"),
        (YOLOX.replace("(a, b, c, d)", "(a, b, c, a)").replace("zero, end, two", "two, end, two"), "rows are cut off"),
        ("t = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) s = Concat<axis=1>(t, t, t, t)", "a maximum is no move"),
    ],
)
def test_what_is_no_move_of_whole_blocks_stays(form: str, why: str) -> None:
    model = stem(form, "Conv", nets.normal(1, 5, 4 * CHANNELS, 1, 1))
    before = nets.ops(model)
    assert not fold_space_to_depth(model).changed, why
    assert nets.ops(model) == before


def test_a_grouped_convolution_stays() -> None:
    model = stem(OPERATOR, "Conv<group=2>", nets.normal(1, 4, 2 * CHANNELS, 1, 1))
    assert not fold_space_to_depth(model).changed


def test_a_pixel_that_is_read_twice_counts_twice() -> None:
    form = YOLOX.replace("(a, b, c, d)", "(a, b, a, b)")
    model = stem(form, "Conv", nets.normal(1, 5, 4 * CHANNELS, 1, 1))
    x = nets.normal(3, 1, CHANNELS, HEIGHT, WIDTH)
    expected = nets.run(model, x)[0]
    assert fold_space_to_depth(model).changed
    np.testing.assert_allclose(nets.run(model, x)[0], expected, rtol=1e-5, atol=1e-5)
