"""Signal-to-noise ratios against what is known of uniform noise, and the groups of channels that share an output."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.exporting.signal.output_groups import WHOLE, output_groups
from edgeq.exporting.signal.ratio import EQUAL_DB, Layer, OutputSignal, Sums, worst_layers

NORMAL = np.random.default_rng(0).normal(size=(4, 1000)).astype(np.float32)


def sums_at(db: float) -> Sums:
    return Sums(signal=1.0, noise=10 ** (-db / 10))


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_a_uniform_signal_has_six_decibels_for_each_bit(bits):
    x = np.random.default_rng(bits).uniform(-1, 1, 200_000)
    step = 2 / 2**bits
    rounded = np.rint(x / step) * step
    # Signal 1/3 and noise step^2/12: 10 log10 of their ratio is 20 log10(2) a bit.
    assert Sums.of(x, rounded).snr_db == pytest.approx(20 * np.log10(2) * bits, abs=0.05)


def test_a_tenth_of_error_is_twenty_decibels():
    assert Sums.of(NORMAL, 1.1 * NORMAL).snr_db == pytest.approx(20, abs=1e-3)
    assert Sums.of_energies(NORMAL, 1.1 * NORMAL).snr_db == pytest.approx(20, abs=1e-3)


@given(st.integers(0, 2**31), st.floats(1e-3, 1e3), st.integers(1, 39))
def test_the_sums_of_parts_add_up_and_a_scale_changes_nothing(seed, scale, cut):
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(2, 40))
    whole = Sums.of(x, x + noise)
    parts = Sums.of(x[:cut], (x + noise)[:cut]) + Sums.of(x[cut:], (x + noise)[cut:])
    scaled = Sums.of(scale * x, scale * (x + noise))
    for other in (parts, scaled):
        assert other.snr_db == pytest.approx(whole.snr_db, abs=1e-6)
        assert other.cosine == pytest.approx(whole.cosine, abs=1e-9)
    assert whole.cosine == pytest.approx(float(x @ (x + noise) / np.linalg.norm(x) / np.linalg.norm(x + noise)))
    assert not whole.is_dead


def test_zero_is_no_likeness_of_a_signal():
    zeros = np.zeros_like(NORMAL)
    assert Sums.of(NORMAL, zeros).cosine == 0.0
    assert Sums.of(NORMAL, zeros).snr_db == pytest.approx(0)
    assert (Sums.of(zeros, NORMAL).cosine, Sums.of(zeros, NORMAL).snr_db) == (0.0, -EQUAL_DB)
    assert (Sums.of(zeros, zeros).cosine, Sums.of(zeros, zeros).snr_db) == (1.0, EQUAL_DB)
    assert Sums.of(NORMAL, NORMAL).snr_db == EQUAL_DB


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_a_constant_is_dead_where_the_reference_is_not(constant):
    flat = np.full_like(NORMAL, constant)
    assert Sums.of(NORMAL, flat).is_dead
    assert not Sums.of(flat, flat).is_dead
    assert not (Sums.of(NORMAL, flat) + Sums.of(NORMAL, NORMAL)).is_dead


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("count", [Sums.of, Sums.of_energies])
def test_what_is_no_number_leaves_nothing(count, value):
    broken = NORMAL.copy()
    broken[1, 2] = value
    found = count(NORMAL, broken)
    assert (found.snr_db, found.noise_share, found.cosine) == (-EQUAL_DB, 1.0, 0.0)


def test_squares_beyond_float32_are_counted():
    large = NORMAL * np.float32(1e25)
    assert Sums.of_energies(large, np.float32(1.1) * large).snr_db == pytest.approx(20, abs=1e-2)


def test_the_worst_layer_adds_most_noise_and_is_not_the_first():
    """From the image's 120 dB every first layer falls by more than 100; the one that falls to 9 dB is the culprit."""
    sums = {"image": sums_at(150), "a": sums_at(40), "b": sums_at(30), "c": sums_at(9), "d": sums_at(8.9)}
    chain = [Layer(f"to {after}", "Conv", (before,), after) for before, after in itertools.pairwise(sums)]
    worst = worst_layers(chain, sums)
    assert [layer.name for layer in worst] == ["to c", "to d", "to b", "to a"]
    assert (worst[0].input_db, worst[0].snr_db) == (30, 9)


def test_layers_without_a_loss_or_a_counterpart_are_not_named():
    sums = {"a": sums_at(20), "b": sums_at(25)}
    assert worst_layers([Layer("better", "Conv", ("a",), "b"), Layer("gone", "Conv", ("a",), "z")], sums) == ()


def test_an_outputs_label_names_its_channels():
    assert OutputSignal.of("boxes", "0:4", sums_at(20)).label == "boxes[0:4]"
    assert OutputSignal.of("boxes", "", sums_at(20)).label == "boxes"


def groups_of(text: str) -> list[list[tuple[str, int]]]:
    """Returns label and axis of every group of every output of a graph in ONNX text."""
    onnx = pytest.importorskip("onnx")
    import onnx_ir as ir

    from edgeq.exporting.passes.cleaning import clean

    model = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'))
    clean(model)
    return [[(group.label, group.axis) for group in groups] for groups in output_groups(model)]


WHOLE_LABELS = [(group.label, group.axis) for group in WHOLE]
HEADS = """net (float[1,8,6,6] f, float[4,8,1,1] wb, float[1,8,1,1] wo, float[3,8,1,1] wc)"""


def test_a_concat_of_heads_is_their_groups():
    found = groups_of(
        HEADS + " => (float[1,8,6,6] y) { b = Conv(f, wb) o0 = Conv(f, wo) o = Sigmoid(o0) c0 = Conv(f, wc)"
        "c1 = Transpose<perm = [0,2,3,1]>(c0) c2 = Softmax<axis = -1>(c1) c = Transpose<perm = [0,3,1,2]>(c2)"
        "y = Concat<axis = 1>(b, o, c) }"
    )
    assert found == [[("0:4", 1), ("4", 1), ("5:8", 1)]]


def test_joined_strides_are_no_groups_but_their_heads_are():
    """As in YOLOX: heads are joined along the channels, strides along the places, which are many."""
    found = groups_of(
        "net (float[1,8,6,6] f, float[1,8,3,3] g, float[4,8,1,1] wb, float[3,8,1,1] wc) => (float[1,45,7] y) {"
        "b = Conv(f, wb) c0 = Conv(f, wc) c = Sigmoid(c0) m = Concat<axis = 1>(b, c)"
        "b1 = Conv(g, wb) c2 = Conv(g, wc) c1 = Sigmoid(c2) m1 = Concat<axis = 1>(b1, c1)"
        "s = Constant<value = int64[3] {1, 7, -1}>() p = Reshape(m, s) p1 = Reshape(m1, s)"
        "z = Concat<axis = 2>(p, p1) y = Transpose<perm = [0,2,1]>(z) }"
    )
    assert found == [[("0:4", 2), ("4:7", 2)]]


def test_more_anchors_than_channels_are_no_groups():
    """As in SSD detectors: 3 anchors of 2 scores each, at two strides; indices of places hold 2 channels, no 3."""
    found = groups_of(
        "net (float[1,8,6,6] f, float[1,8,3,3] g, float[6,8,1,1] w) => (float[1,135,2] y) {"
        "a = Conv(f, w) b = Conv(g, w) a1 = Transpose<perm = [0,2,3,1]>(a) b1 = Transpose<perm = [0,2,3,1]>(b)"
        "s = Constant<value = int64[3] {1, -1, 2}>() p = Reshape(a1, s) q = Reshape(b1, s)"
        "z = Concat<axis = 1>(p, q) y = Softmax<axis = 2>(z) }"
    )
    assert found == [WHOLE_LABELS]


def test_parts_that_are_cut_apart_and_joined_again_are_groups():
    found = groups_of(
        "net (float[1,8,6,6] f, float[5,8,1,1] w) => (float[1,5,6,6] y) { h = Conv(f, w)"
        "s = Constant<value = int64[2] {4, 1}>() b, c0 = Split<axis = 1>(h, s) c = Sigmoid(c0)"
        "y = Concat<axis = 1>(b, c) }"
    )
    assert found == [[("0:4", 1), ("4", 1)]]


@pytest.mark.parametrize(
    ("output", "nodes"),
    [
        ("float[1,4,6,6] y", "y = Conv(f, wb)"),
        ("float[1,72,4] y",  # two strides of one head
         "a = Conv(f, wb) b = Conv(f, wb) s = Constant<value = int64[3] {1, 4, -1}>() p = Reshape(a, s)"
         "q = Reshape(b, s) z = Concat<axis = 2>(p, q) y = Transpose<perm = [0,2,1]>(z)"),
        ("float[1,72,1] y",  # of one channel
         "a = Conv(f, wo) b = Conv(f, wo) s = Constant<value = int64[3] {1, -1, 1}>() p = Reshape(a, s)"
         "q = Reshape(b, s) y = Concat<axis = 1>(p, q)"),
    ],
)  # fmt: skip
def test_one_head_is_one_group(output, nodes):
    assert groups_of(f"{HEADS} => ({output}) {{ {nodes} }}") == [WHOLE_LABELS]


def test_a_group_is_its_channels():
    onnx = pytest.importorskip("onnx")
    import onnx_ir as ir

    text = "net (float[1,2,2,2] a, float[1,1,2,2] b) => (float[1,3,2,2] y) { y = Concat<axis = 1>(a, b) }"
    model = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'))
    ((first, second),) = output_groups(model)
    array = np.arange(12.0).reshape(1, 3, 2, 2)
    np.testing.assert_array_equal(first.of(array), array[:, :2])
    np.testing.assert_array_equal(second.of(array), array[:, 2:])
    assert WHOLE[0].of(array) is array
