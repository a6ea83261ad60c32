"""The benchmarks of TFLite files run from the model to the file that they write, on a small detector."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from benchmarks import centernet_tflite_study, cifar_resnets, shared_calibration, tflite_calibration_cost
from benchmarks.cases import Case
from edgeq.sources.model import ModelRequest
from edgeq.tasks.detection.shapes import draw_shapes_dataset
from tests import tflite_nets
from tests.benchmarks.conftest import BRIEF, table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tflite_subject(subject: Case, small_weights, tmp_path_factory) -> Case:
    """A small detector as a TFLite file, so that it is converted once."""
    tflite_nets.require_converter()
    from edgeq.verbs.export import export_model

    request = ModelRequest("centernet_resnet18", small_weights, size=(64, 96))
    folder = tmp_path_factory.mktemp("tflite")
    (file,) = export_model(request, "arm", ["fp32"], folder, formats=["tflite"]).files
    given = ModelRequest(str(file.artifact.path), preset="centernet", labels=str(subject.calibration))
    return dataclasses.replace(subject, title="Small on two drawn images", request=given, calibration_num=2)


def test_centernet_tflite_study(tflite_subject, tmp_path):
    # Today's engine stands in for the old one, which has an interpreter of its own.
    engines = {centernet_tflite_study.NEW: None, centernet_tflite_study.OLD: sys.executable}
    folders = tmp_path / "work", tmp_path / "out"
    result = centernet_tflite_study.run(tflite_subject, tflite_subject, engines, *folders, sampling=BRIEF)
    rows = table(result)
    assert set(rows) - {("precision", "engine")} == {
        (precision, engine) for precision in centernet_tflite_study.PRECISIONS for engine in engines
    }
    timed = [line for line in result.read_text().splitlines() if line.startswith("| int8 |")]
    assert len(timed) == 4, "two engines, in the table of scores and in that of speed"
    assert (tmp_path / "out" / "centernet_tflite_study.svg").read_text().startswith("<?xml")
    before = result.read_text()
    again = centernet_tflite_study.run(tflite_subject, tflite_subject, engines, *folders, sampling=BRIEF)
    assert again.read_text() == before, "a second run goes on from the first one's results"


def test_tflite_calibration_cost(tflite_subject, tmp_path):
    rows = table(tflite_calibration_cost.run(tflite_subject, tmp_path, counts=(2,), rounds=1))
    for tool in tflite_calibration_cost.TOOLS.values():
        seconds, ratio, memory_mb = map(float, rows["2", tool])
        assert seconds >= 0
        assert ratio > 0
        assert memory_mb > 30


def test_cifar_resnets(tmp_path):
    tflite_nets.require_converter()
    draw_shapes_dataset(tmp_path / "train", images=2, seed=71)
    draw_shapes_dataset(tmp_path / "test", images=3, seed=72)
    labels = tmp_path / "test" / "labels.csv"
    labels.write_text("".join(f"{path.name},0\n" for path in sorted((tmp_path / "test").glob("*.png"))))
    models = {"ResNet-20": ModelRequest("cifar_resnet20")}
    result = cifar_resnets.run(models, tmp_path / "train", labels, tmp_path)
    assert result.read_text().startswith("# CIFAR-10 ResNets, top-1 on 3 test images")
    rows = table(result)
    scores = {runtime: rows["ResNet-20", runtime][0] for _, runtime in cifar_resnets.ENGINES}
    assert len(scores) == 3
    assert len(set(scores.values())) == 1, "FP32 finds the same classes in every engine"


def test_shared_calibration(subject: Case, tmp_path):
    tflite_nets.require_converter()
    subjects = {"Small": (subject.request, subject.source)}
    result = shared_calibration.run(subjects, tmp_path, targets=("arm",), work=tmp_path / "work", threads=1)
    rows = table(result)
    assert set(rows) == {("target", "format"), ("arm", "tflite"), ("arm", "onnx")}
    own, shared, *differences = rows["arm", "onnx"][:5]
    assert own == shared and {float(each.split()[0]) for each in differences} == {0.0}
    least_own, least_shared, mean = map(float, rows["arm", "tflite"][:3])
    assert least_own > 20 and least_shared > 20 and abs(mean) < 1
    assert rows["arm", "tflite"][-1] == "35 and 0"
