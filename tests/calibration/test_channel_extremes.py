"""Extremes of channels over images: of all of them, in any order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torchvision")

from edgeq.calibration.channel_extremes import channel_statistics
from edgeq.errors import InputError, ModelError
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.passes.rescale import rescalable_tensors, unify_channels
from edgeq.inputs.images import list_images, read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.inputs.presets import load_preset
from edgeq.runtimes.observer import ActivationObserver
from tests.exporting import encoders


@pytest.fixture(scope="module")
def model() -> FloatModel:
    preprocessing = load_preset("imagenet", encoders.IMAGE[2:]).preprocessing
    return FloatModel("deit", encoders.exported("deit", 18), preprocessing)


@pytest.fixture(scope="module")
def images(drawn):
    return list_images(drawn.folder)[:6]


def test_they_are_the_extremes_over_all_images(model, images):
    found = channel_statistics(model, rescalable_tensors(model.graph), images, threads=1)
    assert tuple(found) == rescalable_tensors(model.graph)
    observer = ActivationObserver(model.graph, list(found), threads=1)
    inputs = [preprocess(read_image(path), model.preprocessing)[0] for path in images]
    seen = [observer.observe({"image": array}) for array in inputs]
    for name, (low, high) in found.items():
        rows = np.concatenate([each[name].reshape(-1, encoders.WIDTH) for each in seen])
        np.testing.assert_array_equal(low, rows.min(axis=0))
        np.testing.assert_array_equal(high, rows.max(axis=0))
    backwards = channel_statistics(model, rescalable_tensors(model.graph), images[::-1], threads=1)
    assert all(np.array_equal(found[name], backwards[name]) for name in found)


def test_they_are_what_rescaling_wants(model, images):
    rescaled = dataclasses.replace(model, graph=model.copy_graph())
    assert (
        unify_channels(
            rescaled.graph, channel_statistics(model, rescalable_tensors(model.graph), images, threads=1)
        ).left
        == {}
    )
    for low, high in channel_statistics(rescaled, rescalable_tensors(rescaled.graph), images, threads=1).values():
        np.testing.assert_allclose(high - low, np.mean(high - low), rtol=1e-3)


def test_num_limits_the_images(model, images):
    one = channel_statistics(model, rescalable_tensors(model.graph), images, num=1, threads=1)
    first = channel_statistics(model, rescalable_tensors(model.graph), images[:1], threads=1)
    assert all(np.array_equal(one[name], first[name]) for name in one)


def test_no_readable_image_is_told(model, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.png"):
        channel_statistics(model, rescalable_tensors(model.graph), [tmp_path / "a.png"], threads=1)
    with pytest.raises(InputError, match="no image could be used"):
        channel_statistics(model, rescalable_tensors(model.graph), [], threads=1)


def test_a_broken_model_is_told(model, images):
    broken = dataclasses.replace(model, graph=model.copy_graph())
    weight = next(value for value in broken.graph.graph.initializers.values() if value.name == "patches.weight")
    import onnx_ir as ir

    weight.const_value = ir.tensor(np.full(weight.const_value.shape.numpy(), np.nan, np.float32), name=weight.name)
    with pytest.raises(ModelError, match="NaN"):
        channel_statistics(broken, rescalable_tensors(broken.graph), images[:1], threads=1)
