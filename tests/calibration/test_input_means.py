from __future__ import annotations

import numpy as np
import pytest

from edgeq.calibration import input_means as module
from edgeq.calibration.input_means import input_means
from edgeq.calibrators.kept_samples import KeptSample
from edgeq.runtimes.observer import ActivationObserver
from edgeq.sources.model import ModelRequest, open_float_model


@pytest.fixture(scope="module")
def model(small_onnx):
    return open_float_model(ModelRequest(str(small_onnx), preset="centernet"))


@pytest.fixture(scope="module")
def samples(model):
    rng = np.random.default_rng(0)
    shape = (1, *model.preprocessing.input_shape)
    return [KeptSample.of(rng.normal(size=shape).astype(np.float32)) for _ in range(3)]


def test_the_means_of_what_every_layer_reads(model, samples, monkeypatch):
    means = input_means(model, samples, 1)
    convolutions = [node for node in model.graph.graph if node.op_type == "Conv"]
    assert set(means) == {str(node.inputs[0].name) for node in convolutions}
    observer = ActivationObserver(model.graph, list(means), 1)
    runs = [observer.observe({model.input.name: model.input.encode(sample.array())}) for sample in samples]
    for name, found in means.items():
        expected = np.mean([run[name].astype(np.float64).mean(axis=(0, 2, 3)) for run in runs], axis=0)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(module, "_BYTES", 1)  # each tensor by itself
    for name, found in input_means(model, samples[:1], 1).items():
        np.testing.assert_allclose(found, runs[0][name].mean(axis=(0, 2, 3)), rtol=1e-3, atol=1e-5)


def test_without_inputs_there_are_no_means(model):
    assert input_means(model, []) == {}
