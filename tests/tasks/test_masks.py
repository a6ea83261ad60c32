"""Masks as runs: what pycocotools makes of them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask

from edgeq.errors import InputError
from edgeq.tasks.masks import RunLengths, decode, encode, to_rle


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0, 0.1, 0.5, 0.9, 1]), width=st.integers(1, 70))
def test_runs_are_those_of_pycocotools(seed, share, width):
    pixels = np.random.default_rng(seed).random((9, width)) < share
    rle = mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    runs = encode(pixels, 0, 0, width, 9)
    assert to_rle({"size": [9, width], "counts": runs.tolist()}, width, 9, "here") == rle
    np.testing.assert_array_equal(decode(rle), pixels)
    again = to_rle({"size": [9, width], "counts": rle["counts"].decode()}, width, 9, "here")
    assert again is not None
    np.testing.assert_array_equal(decode(again), pixels)


def test_a_part_lies_where_it_is_put():
    pixels = np.zeros((20, 30), bool)
    pixels[3:8, 21:30] = np.random.default_rng(0).random((5, 9)) < 0.5
    np.testing.assert_array_equal(encode(pixels[3:8, 21:30], 21, 3, 30, 20), encode(pixels, 0, 0, 30, 20))


def test_masks_are_kept_apart():
    masks = [np.array([3, 2, 1], np.int32), np.array([6], np.int32)]
    assert [each.tolist() for each in RunLengths.of(masks).split()] == [[3, 2, 1], [6]]
    assert RunLengths.of([]).split() == []


def test_polygons_cover_what_pycocotools_draws(shared_data):
    import json

    document = json.loads((shared_data / "coco" / "instances_val.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    for entry in document["annotations"][::10]:
        height, width = sizes[entry["image_id"]]
        rle = to_rle(entry["segmentation"], width, height, "here")
        assert rle is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools 2.0.11 with numpy 2
            drawn = mask.decode(rle)
        np.testing.assert_array_equal(decode(rle), drawn)
        assert mask.area(rle) == pytest.approx(entry["area"], rel=0.25, abs=25)


def test_damaged_runs_are_refused():
    with pytest.raises(InputError, match="does not fill its 3 x 2 pixels"):
        decode({"size": [2, 3], "counts": b"5"})
