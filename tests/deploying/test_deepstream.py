"""DeepStream prepares an image as the manifest states, or its configuration says that it does not."""

from __future__ import annotations

import ctypes
import ctypes.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.deploying.deepstream import config, express
from edgeq.deploying.packed import pack
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.tensor_spec import TensorSpec
from tests.deploying.deepstream_keys import INTEGERS, LISTS, NAMES, NUMBERS, PATHS
from tests.deploying.written import save_model, with_preprocessing

IMAGE = (TensorSpec("image", "float32", (1, 3, 8, 12)),)


def key_file(path: Path) -> dict[str, str]:
    """Returns the keys of `[property]` as GLib reads them, which DeepStream's parser calls."""
    name = ctypes.util.find_library("glib-2.0")
    if name is None:
        pytest.skip("GLib is not installed; run: apt install libglib2.0-0")
    glib = ctypes.CDLL(name)
    for function in (glib.g_key_file_new, glib.g_key_file_get_keys, glib.g_key_file_get_string):
        function.restype = ctypes.c_void_p
    file = ctypes.c_void_p(glib.g_key_file_new())
    assert glib.g_key_file_load_from_file(file, str(path).encode(), 0, None), path.read_text()
    count = ctypes.c_size_t()
    pointer = glib.g_key_file_get_keys(file, b"property", ctypes.byref(count), None)
    keys = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_char_p))[: count.value]
    found = {key: glib.g_key_file_get_string(file, b"property", key, None) for key in keys}
    return {key.decode(): (ctypes.cast(text, ctypes.c_char_p).value or b"").decode() for key, text in found.items()}


def _configured(tmp_path, name="net.int8.onnx", **options):
    model = pack(save_model(tmp_path / name, target="jetson-orin", **options), "tensorrt")
    (tmp_path / "config.txt").write_text(config(model))
    return key_file(tmp_path / "config.txt")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "fp32"},
        {"batch": None, "labels": ()},
        {"preprocessing": None},
        {"preprocessing": with_preprocessing(std=(1.0, 2.0, 3.0))},
        {"preprocessing": Preprocessing(8, 12, "stretch", "gray", 1 / 255, (0.5,), (0.5,))},
    ],
)
def test_every_key_is_one_of_deepstreams_with_a_value_of_its_kind(tmp_path, options):
    found = _configured(tmp_path, "a b$(x).int8.onnx", **options)
    assert found["model-engine-file"].endswith("/1/model.plan")
    for key, value in found.items():
        if key in INTEGERS:
            assert INTEGERS[key][0] <= int(value) <= INTEGERS[key][1], key
        elif key in NUMBERS | LISTS:
            assert all(float(each) >= 0 for each in value.split(";")), key
        else:
            assert key in PATHS, key
            assert value.startswith("../models/a_b__x_")
    assert not found.keys() & NAMES


def test_an_int8_engine_is_never_rebuilt_by_deepstream(tmp_path):
    assert "onnx-file" not in _configured(tmp_path)
    assert _configured(tmp_path, precision="fp16")["onnx-file"].endswith("/1/net.int8.onnx")


@given(
    scale=st.floats(1e-3, 4),
    mean=st.lists(st.floats(0, 300), min_size=3, max_size=3),
    std=st.floats(1e-3, 300),
    pixel=st.integers(0, 255),
)
def test_what_is_expressed_is_what_the_manifest_states(scale, mean, std, pixel):
    spec = with_preprocessing(scale=scale, mean=tuple(mean), std=(std,) * 3, fill=0.0)
    expressed = express(spec, IMAGE)
    assert (expressed.impossible, expressed.differs) == ((), ())
    offsets = [float(each) for each in expressed.keys.get("offsets", "0;0;0").split(";")]
    theirs = float(expressed.keys["net-scale-factor"]) * (pixel - np.array(offsets))
    np.testing.assert_allclose(theirs, (pixel * scale - np.array(mean)) / std, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (with_preprocessing(mean=(0.4, 0.5, 0.5), std=(0.289, 0.274, 0.278)), "std differs per channel"),
        (with_preprocessing(mean=(-1.0, 0.0, 0.0)), "a mean is negative"),
        (with_preprocessing(scale=0.0, mean=(1.0, 1.0, 1.0)), "multiplied by 0"),
        (with_preprocessing(resize="crop"), "centre of the image is cut out"),
        (None, "does not say how images are prepared"),
    ],
)
def test_what_it_cannot_express_asks_for_prepared_tensors(spec, reason):
    expressed = express(spec, IMAGE)
    assert expressed.keys == {}
    assert len(expressed.impossible) == 1
    assert reason in expressed.impossible[0]


def test_two_inputs_and_integers_are_prepared_outside():
    spec = with_preprocessing()
    assert "one image of floats" in express(spec, (*IMAGE, *IMAGE)).impossible[0]
    assert "one image of floats" in express(spec, (TensorSpec("image", "uint8", (1, 3, 8, 12)),)).impossible[0]


def test_what_differs_is_said():
    (padding,) = express(with_preprocessing(fill=114.0), IMAGE).differs
    assert "pads with black, and the model expects the pixel value 114" in padding
    assert express(with_preprocessing(resize="stretch"), IMAGE).differs == ()
    (centring,) = express(with_preprocessing(resize="center", fill=0.0), IMAGE).differs
    assert "whole pixels" in centring
    (sampling,) = express(with_preprocessing(resize="stretch", antialias=True), IMAGE).differs
    assert "antialiasing" in sampling


@pytest.mark.parametrize(
    ("resize", "expected"),
    [("stretch", ("0", "0")), ("letterbox", ("1", "0")), ("fit", ("1", "0")), ("letterbox_center", ("1", "1"))],
)
def test_the_image_lies_where_the_model_expects_it(resize, expected):
    keys = express(with_preprocessing(resize=resize), IMAGE).keys
    assert (keys["maintain-aspect-ratio"], keys["symmetric-padding"]) == expected
