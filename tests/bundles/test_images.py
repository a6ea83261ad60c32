"""Image processors of transformers as edgeq's preprocessing."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.bundles.images import image_input
from edgeq.bundles.source import ModelFolder
from edgeq.memory.config_file import ConfigFile

_CLIP = {
    "do_resize": True, "size": {"shortest_edge": 336}, "do_center_crop": True,
    "crop_size": {"height": 336, "width": 336}, "resample": 3,
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28],
}  # fmt: skip


def _read(processor, **config):
    described = ConfigFile(Path("config.json"), {"model_type": "llava", **config}, {})
    return image_input(ModelFolder(Path(), described, (), (), {}, processor))


def test_clip_crops_the_centre_of_its_short_side():
    found = _read(_CLIP)
    assert found.resample == "bicubic"
    assert found.preprocessing.input_shape == (3, 336, 336)
    assert (found.preprocessing.resize, found.preprocessing.crop_fraction) == ("crop", 1.0)
    low, high = found.preprocessing.value_range
    assert low == pytest.approx((0 - 0.48) / 0.27)
    assert high == pytest.approx((1 - 0.41) / 0.28)


def test_siglip_stretches_and_a_crop_keeps_a_share_of_the_short_side():
    stretched = _read({"size": {"height": 224, "width": 256}, "resample": 2})
    assert (stretched.preprocessing.resize, stretched.resample) == ("stretch", "bilinear")
    assert stretched.preprocessing.input_shape == (3, 224, 256)
    cropped = _read(_CLIP | {"size": {"shortest_edge": 256}, "crop_size": 224})
    assert cropped.preprocessing.crop_fraction == 224 / 256


def test_qwen2_vl_takes_patches():
    config = {"model_type": "qwen2_vl", "vision_config": {"patch_size": 7}}
    found = _read({"min_pixels": 3136, "size": {"longest_edge": 401408}}, **config)
    assert found.preprocessing is None
    assert (found.patches.patch_px, found.patches.frames, found.patches.merge) == (7, 2, 2)
    assert (found.patches.min_pixels, found.patches.max_pixels) == (3136, 401408)
    assert _read({}, **config).patches.max_pixels == 1003520  # the default of transformers


def test_a_folder_that_says_nothing_is_left_open():
    assert _read({}).preprocessing is None
