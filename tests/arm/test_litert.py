"""TFLite files of edgeq compute the same on aarch64 as on x86, and score the same."""

from __future__ import annotations

import pytest

from tests.arm.agreement import compare, on_both
from tests.arm.subjects import fastestdet, resnet, shapes

pytestmark = pytest.mark.arm

# XNNPACK computes INT8 layers alike everywhere. The last convolutions of detectors have dynamic ranges, whose scales
# are floats that are rounded differently.
AP_TOLERANCE = 0.002


@pytest.fixture(scope="module")
def drawn_shapes(tmp_path_factory):
    return shapes(tmp_path_factory.mktemp("shapes"), images=24)


@pytest.fixture(scope="module")
def exported(drawn_shapes, tmp_path_factory):
    return drawn_shapes.export("tflite", tmp_path_factory.mktemp("exported"))


def test_a_network_all_in_int8_is_the_same_bit_for_bit(arm, x86, tmp_path):
    subject = resnet(tmp_path / "images", images=6)
    int8 = subject.export("tflite", tmp_path / "exported")["int8"]
    here, there = on_both(x86, arm, "outputs", int8, "litert", subject.images, 6)
    assert len(here) == 6
    assert compare(here, there).is_none


def test_dynamic_ranges_differ_by_much_less_than_quantization(arm, x86, exported, drawn_shapes):
    here, there = on_both(x86, arm, "outputs", exported["int8"], "litert", drawn_shapes.images, 6)
    machines = compare(here, there)
    quantization = compare(x86.outputs(exported["fp32"], "litert", drawn_shapes.images, 6), here)
    assert machines.mean < 0.1 * quantization.mean
    assert machines.largest < 0.1 * quantization.largest


def test_float_files_agree_to_rounding(arm, x86, exported, drawn_shapes):
    here, there = on_both(x86, arm, "outputs", exported["fp32"], "litert", drawn_shapes.images, 1)
    assert compare(here, there).largest < 1e-5


def test_drawn_images_score_the_same(arm, x86, exported, drawn_shapes):
    arguments = (exported["int8"], "litert", drawn_shapes.annotations, drawn_shapes.images)
    here, there = on_both(x86, arm, "score", *arguments)
    assert (there["images"], there["obtained"], there["environment"]["architecture"]) == (24, "emulated", "aarch64")
    coverage = there["environment"]["xnnpack"]
    assert coverage["delegated"] == coverage["operators"]
    assert there["AP"] == pytest.approx(here["AP"], abs=AP_TOLERANCE)
    assert here["AP"] > 0.6


def test_real_images_score_the_same(arm, x86, shared_data, tmp_path):
    subject = fastestdet(shared_data, tmp_path / "data", images=24)
    int8 = subject.export("tflite", tmp_path / "exported")["int8"]
    here, there = on_both(x86, arm, "score", int8, "litert", subject.annotations, subject.images)
    assert (there["images"], there["obtained"]) == (24, "emulated")
    assert there["AP"] == pytest.approx(here["AP"], abs=AP_TOLERANCE)
    assert here["AP"] > 0.1
