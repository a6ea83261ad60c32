"""ONNX files of edgeq compute the same on aarch64 as on x86, and score the same."""

from __future__ import annotations

import pytest

from tests.arm.agreement import compare, on_both
from tests.arm.either_side import BASIC
from tests.arm.subjects import fastestdet, shapes

pytestmark = pytest.mark.arm

# At full optimization the two machines fuse different layers, so that sums are rounded in different places. That moves
# outputs by less than going to INT8 does.
AP_TOLERANCE = 0.01


@pytest.fixture(scope="module")
def drawn_shapes(tmp_path_factory):
    return shapes(tmp_path_factory.mktemp("shapes"), images=24)


@pytest.fixture(scope="module")
def exported(drawn_shapes, tmp_path_factory):
    return drawn_shapes.export("onnx", tmp_path_factory.mktemp("exported"))


def test_basic_optimization_is_the_same_bit_for_bit(arm, x86, exported, drawn_shapes):
    here, there = on_both(x86, arm, "outputs", exported["int8"], BASIC, drawn_shapes.images, 3)
    assert len(here) == 3 * 3
    assert compare(here, there).is_none


def test_full_optimization_differs_by_less_than_quantization(arm, x86, exported, drawn_shapes):
    here, there = on_both(x86, arm, "outputs", exported["int8"], "onnxruntime", drawn_shapes.images, 6)
    machines = compare(here, there)
    quantization = compare(x86.outputs(exported["fp32"], "onnxruntime", drawn_shapes.images, 6), here)
    assert machines.mean < quantization.mean
    assert machines.largest < quantization.largest


def test_float_files_agree_to_rounding(arm, x86, exported, drawn_shapes):
    here, there = on_both(x86, arm, "outputs", exported["fp32"], "onnxruntime", drawn_shapes.images, 1)
    assert compare(here, there).largest < 1e-5


def test_drawn_images_score_the_same(arm, x86, exported, drawn_shapes):
    arguments = (exported["int8"], "onnxruntime", drawn_shapes.annotations, drawn_shapes.images)
    here, there = on_both(x86, arm, "score", *arguments)
    assert (there["images"], there["obtained"], there["environment"]["architecture"]) == (24, "emulated", "aarch64")
    assert there["AP"] == pytest.approx(here["AP"], abs=AP_TOLERANCE)
    assert here["AP"] > 0.6


def test_real_images_score_the_same(arm, x86, shared_data, tmp_path):
    subject = fastestdet(shared_data, tmp_path / "data", images=24)
    int8 = subject.export("onnx", tmp_path / "exported")["int8"]
    here, there = on_both(x86, arm, "score", int8, BASIC, subject.annotations, subject.images)
    assert (there["images"], there["obtained"]) == (24, "emulated")
    assert there["AP"] == pytest.approx(here["AP"], abs=1e-3)
    here, there = on_both(x86, arm, "score", int8, "onnxruntime", subject.annotations, subject.images)
    assert there["AP"] == pytest.approx(here["AP"], abs=AP_TOLERANCE)
    assert here["AP"] > 0.1
