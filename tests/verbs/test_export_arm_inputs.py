"""TFLite files of models whose input is another than one image of three channels first."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.calibration.source import CalibrationSource
from edgeq.inputs import items_of
from edgeq.runtimes import open_session
from edgeq.verbs.export import export_model
from tests import tflite_nets
from tests.exporting import nets
from tests.verbs.test_export_inputs import ARRAY_MODELS, ARRAYS, GRAY, IMAGE, IMAGES, answers, save


def files_of(request, data, rank, folder):
    tflite_nets.require_converter()
    source = CalibrationSource(list(items_of(data, 8, rank)), method="minmax")
    result = export_model(request, "arm", ("fp32", "int8"), folder, formats=["tflite"], calibration=source)
    return {each.artifact.precision: each for each in result.files}


def requires_the_same(file, image, expected):
    (spec,) = file.artifact.inputs
    with open_session(file.artifact, "litert", 1) as session:
        found = session.run({spec.name: spec.encode(image)})
    (output,) = file.artifact.outputs
    np.testing.assert_allclose(output.decode(found[output.name]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["channels last, free sides", "fixed batch", "one plane"])
def test_an_image_goes_into_a_tflite_file_of_any_layout(tmp_path, kind):
    text, preset, as_source = IMAGES[kind]
    request = save(tmp_path, text, preset, channels=1 if GRAY in preset else 3)
    files = files_of(request, list(IMAGE), 3, tmp_path / "out")
    image = nets.normal(5, 1, 1 if GRAY in preset else 3, 12, 16)
    (expected,) = answers(tmp_path / "model.onnx", x=as_source(image))
    requires_the_same(files["fp32"], image, expected)
    assert files["int8"].artifact.quantization["int8_nodes"] > 0
    assert files["int8"].comparison.signal.snr_db > 15


@pytest.mark.parametrize("kind", ["3-D", "4 channels", "a batch of 4"])
def test_prepared_arrays_go_into_a_tflite_file(tmp_path, kind):
    text, shape, weight = ARRAY_MODELS[kind]
    request = save(tmp_path, text, ARRAYS, w=nets.normal(1, *weight))
    arrays = nets.normal(2, 4, *shape)
    files = files_of(request, arrays, len(shape), tmp_path / "out")
    (expected,) = answers(tmp_path / "model.onnx", x=arrays[0] if kind == "a batch of 4" else arrays[:1])
    requires_the_same(files["fp32"], arrays[:1], expected)
    assert files["int8"].comparison.cosine > 0.99
