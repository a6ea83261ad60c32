"""What the fuzzer notices: files that are spoiled in one way each."""

from __future__ import annotations

import re

import onnx
import pytest
from onnx import numpy_helper

from tests.fuzz.checks import check, check_file
from tests.fuzz.expected import Expected
from tests.fuzz.exports import Exports, FaultError, quiet
from tests.fuzz.grammar import Subject

MODEL = """# {"seed": 0, "keeps_batch": false}
<ir_version: 8, opset_import: ["" : 18]>
model (float[N,3,6,6] image) => (float[N,3] y, int64[N,1,1] top)
   <float[3,3,1,1] w1 = {0.9,-0.2,0.3,0.4,0.5,-2.0,0.7,0.8,0.9}, float[3] b1 = {0.1,0.2,-0.3},
    float[3,3,1,1] w2 = {-0.5,0.6,0.1,0.3,-0.7,0.2,0.4,0.1,0.8}, int64[1] last = {1}>
{
   c1 = Conv (image, w1, b1)
   r1 = Relu (c1)
   c2 = Conv (r1, w2)
   r2 = Relu (c2)
   m = GlobalAveragePool (r2)
   y = Flatten (m)
   i = Flatten (r2)
   top = ArgMax <axis: int = 1> (m)
}
"""


@pytest.fixture
def subject() -> Subject:
    return Subject.read(MODEL.replace("   i = Flatten (r2)\n", "").replace("[N,1,1] top", "[N,1,1,1] top"))


def spoiled(subject: Subject, tmp_path, precision: str, spoil) -> str:
    """Returns the kind of fault of a file that was changed after it was written."""
    expected = Expected.of(subject)
    with quiet():
        (file,) = Exports(subject, tmp_path).files("x86", [precision])
        model = onnx.load(file.artifact.path)
        spoil(model)
        file.artifact.path.write_bytes(model.SerializeToString())
        with pytest.raises(FaultError) as caught:
            check_file(file, expected)
    return caught.value.kind


def scale_constant(pattern: str, factor: float):
    def spoil(model: onnx.ModelProto) -> None:
        (found,) = (each for each in model.graph.initializer if re.fullmatch(pattern, each.name))
        array = numpy_helper.to_array(found)
        found.CopyFrom(numpy_helper.from_array((array * factor).astype(array.dtype), found.name))

    return spoil


def test_a_sound_model_passes(subject):
    check(subject)


@pytest.mark.parametrize(
    ("precision", "pattern", "factor", "kind"),
    [
        ("fp32", "w2", 1.001, "fp32 for x86: values"),
        ("fp16", "w2_fp16", 1.05, "fp16 for x86: signal"),
        ("int8", "r1_scale", 0.5, "int8 for x86: signal"),
        ("int8", "w1_scale", 1.5, "int8 for x86: signal"),
        ("dynamic", "node_2_weight_scale", 1.5, "dynamic for x86: signal"),
    ],
)
def test_a_number_that_is_off_is_noticed(subject, tmp_path, precision, pattern, factor, kind):
    assert spoiled(subject, tmp_path, precision, scale_constant(pattern, factor)) == kind
