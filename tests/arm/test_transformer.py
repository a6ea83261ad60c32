"""Files of a vision transformer classify on aarch64 as on x86."""

from __future__ import annotations

import pytest

from tests.arm.agreement import on_both
from tests.arm.subjects import vit

pytestmark = pytest.mark.arm

# One image in a hundred whose two best classes are next to each other.
TOP1_TOLERANCE = 0.01 + 1e-9


@pytest.fixture(scope="module")
def subject(shared_data, tmp_path_factory):
    return vit(shared_data, tmp_path_factory.mktemp("vit"), every=100)


@pytest.mark.parametrize(("file_format", "runtime"), [("tflite", "litert"), ("onnx", "onnxruntime")])
def test_a_vision_transformer_classifies_the_same(arm, x86, subject, file_format, runtime, tmp_path):
    int8 = subject.export(file_format, tmp_path)["int8"]
    here, there = on_both(x86, arm, "score", int8, runtime, subject.annotations, subject.images)
    assert (there["images"], there["obtained"]) == (100, "emulated")
    assert there["top1"] == pytest.approx(here["top1"], abs=TOP1_TOLERANCE)
    assert here["top1"] > 0.85
