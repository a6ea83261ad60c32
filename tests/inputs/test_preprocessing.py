"""Pre-processing against the conventions written out pixel by pixel, in float64 and without any library."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeq.exporting.artifact import Preprocessing
from edgeq.inputs.images import read_image
from edgeq.inputs.preprocessing import Placement, preprocess

# Weights between rows are rounded to 1/256, which moves a value by half a level at the most.
HALF_A_LEVEL = 0.51


def plain(height: int, width: int, **fields: Any) -> Preprocessing:
    """Returns a pre-processing that leaves the pixel values in 0..255."""
    return Preprocessing(height, width, **({"scale": 1.0} | fields))


def pixels(spec: Preprocessing, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the input as `(H, W, 3)`."""
    array, _ = preprocess(image, spec)
    return np.moveaxis(array[0], 0, -1)


def random_image(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def bilinear(image: NDArray[np.uint8], y: float, x: float, outside: Any) -> NDArray[np.float64]:
    """Returns the value at (y, x), pixel centres at whole coordinates; `outside` None repeats the edge."""

    def pixel(row: int, column: int) -> NDArray[np.float64]:
        height, width = image.shape[:2]
        if outside is not None and not (0 <= row < height and 0 <= column < width):
            return np.full(3, outside)
        return np.asarray(image[min(max(row, 0), height - 1), min(max(column, 0), width - 1)], np.float64)

    top, left = math.floor(y), math.floor(x)
    down, right = y - top, x - left
    upper = pixel(top, left) * (1 - right) + pixel(top, left + 1) * right
    lower = pixel(top + 1, left) * (1 - right) + pixel(top + 1, left + 1) * right
    return np.asarray(upper * (1 - down) + lower * down)


def warp_centered(image: NDArray[np.uint8], spec: Preprocessing) -> NDArray[np.float64]:
    """CenterNet: OpenCV's warpAffine with a constant border."""
    height, width = image.shape[:2]
    scale = min(spec.width_px / width, spec.height_px / height)
    result = np.empty((spec.height_px, spec.width_px, 3))
    for row in range(spec.height_px):
        for column in range(spec.width_px):
            y = (row - spec.height_px / 2) / scale + height / 2
            x = (column - spec.width_px / 2) / scale + width / 2
            result[row, column] = bilinear(image, y, x, outside=spec.fill)
    return result


def resize_bilinear(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    """OpenCV's resize with INTER_LINEAR."""
    result = np.empty((height, width, 3))
    for row in range(height):
        for column in range(width):
            y = (row + 0.5) * image.shape[0] / height - 0.5
            x = (column + 0.5) * image.shape[1] / width - 0.5
            result[row, column] = bilinear(image, y, x, outside=None)
    return result


def resize_antialiased(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    """Pillow's BILINEAR: a triangle as wide as two output pixels, or two input pixels where those are wider."""
    result = image.astype(np.float64)
    for axis, count in ((0, height), (1, width)):
        size = image.shape[axis]
        support = max(size / count, 1.0)
        centres = (np.arange(count) + 0.5) * size / count
        distances = np.abs(np.arange(size) + 0.5 - centres[:, None]) / support
        weights = np.maximum(0, 1 - distances)
        weights /= weights.sum(axis=1, keepdims=True)
        result = np.moveaxis(np.tensordot(weights, result, axes=(1, axis)), 0, axis)
    return result


sizes = st.integers(1, 24)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, sizes, sizes, st.sampled_from([0, 114, 127.5]))
def test_center_is_opencvs_affine_warp(height: int, width: int, out_height: int, out_width: int, fill: float) -> None:
    image = random_image(height, width)
    spec = plain(out_height, out_width, resize="center", fill=fill)
    np.testing.assert_allclose(pixels(spec, image), warp_centered(image, spec), atol=HALF_A_LEVEL)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, sizes, sizes)
def test_letterbox_is_opencvs_resize_in_the_top_left_corner(
    height: int, width: int, out_height: int, out_width: int
) -> None:
    image = random_image(height, width)
    ratio = min(out_height / height, out_width / width)
    expected = np.full((out_height, out_width, 3), 114.0)
    new_height, new_width = max(1, int(height * ratio)), max(1, int(width * ratio))
    expected[:new_height, :new_width] = resize_bilinear(image, new_height, new_width)
    spec = plain(out_height, out_width, resize="letterbox", fill=114)
    np.testing.assert_allclose(pixels(spec, image), expected, atol=HALF_A_LEVEL)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_fit_fills_with_a_colour_and_maps_boxes_by_whole_sizes(order: Any, antialias: bool) -> None:
    fill = (10, 20, 30)
    for height, width, new_height, new_width in ((29, 10, 20, 6), (10, 29, 11, 32)):
        spec = plain(20, 32, resize="fit", channel_order=order, fill=fill, antialias=antialias)
        array, placement = preprocess(random_image(height, width), spec)
        found = np.moveaxis(array[0], 0, -1)
        np.testing.assert_allclose(found[new_height:], np.broadcast_to(fill, found[new_height:].shape), atol=1e-3)
        np.testing.assert_allclose(found[:, new_width:], np.broadcast_to(fill, found[:, new_width:].shape), atol=1e-3)
        letterbox = preprocess(random_image(height, width), dataclasses.replace(spec, resize="letterbox"))[0]
        np.testing.assert_array_equal(array, letterbox)
        box = np.array([[0, 0, width, height]], np.float32)
        np.testing.assert_allclose(placement.to_input(box)[0], [0, 0, new_width, new_height], rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, sizes, sizes)
def test_letterbox_center_is_opencvs_resize_between_whole_borders(
    height: int, width: int, out_height: int, out_width: int
) -> None:
    image = random_image(height, width)
    ratio = min(out_height / height, out_width / width)
    new_height, new_width = max(1, round(height * ratio)), max(1, round(width * ratio))
    top, left = round((out_height - new_height) / 2 - 0.1), round((out_width - new_width) / 2 - 0.1)
    expected = np.full((out_height, out_width, 3), 114.0)
    expected[top : top + new_height, left : left + new_width] = resize_bilinear(image, new_height, new_width)
    spec = plain(out_height, out_width, resize="letterbox_center", fill=114)
    array, placement = preprocess(image, spec)
    np.testing.assert_allclose(np.moveaxis(array[0], 0, -1), expected, atol=HALF_A_LEVEL)
    corners = np.array([[0, 0, width, height]], np.float32)
    on_input = [left, top, left + width * ratio, top + height * ratio]
    np.testing.assert_allclose(placement.to_input(corners)[0], on_input, rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, sizes, sizes)
def test_stretch_is_opencvs_resize(height: int, width: int, out_height: int, out_width: int) -> None:
    image = random_image(height, width)
    spec = plain(out_height, out_width, resize="stretch")
    np.testing.assert_allclose(pixels(spec, image), resize_bilinear(image, out_height, out_width), atol=HALF_A_LEVEL)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, sizes, sizes)
def test_antialiasing_averages_over_all_pixels(height: int, width: int, out_height: int, out_width: int) -> None:
    image = random_image(height, width)
    spec = plain(out_height, out_width, resize="stretch", antialias=True)
    # Pillow rounds to whole levels after each of two passes.
    np.testing.assert_allclose(pixels(spec, image), resize_antialiased(image, out_height, out_width), atol=1.1)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("height", "width"), [(30, 50), (50, 30), (37, 37)])
def test_crop_cuts_the_centre_of_the_resized_image(height: int, width: int, antialias: bool) -> None:
    image = random_image(height, width)
    short = round(14 / 0.875)
    new_height, new_width = (short, short * width // height) if height <= width else (short * height // width, short)
    resized = (resize_antialiased if antialias else resize_bilinear)(image, new_height, new_width)
    top, left = round((new_height - 14) / 2), round((new_width - 14) / 2)
    spec = plain(14, 14, resize="crop", antialias=antialias)
    np.testing.assert_allclose(
        pixels(spec, image), resized[top : top + 14, left : left + 14], atol=1.1 if antialias else HALF_A_LEVEL
    )


@pytest.mark.parametrize(("height", "width"), [(480, 640), (641, 427), (224, 224), (100, 90)])
def test_crop_is_torchvisions_classification_transform(height: int, width: int) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    from PIL import Image

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image = random_image(height, width)
    reference = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    spec = Preprocessing(224, 224, resize="crop", mean=mean, std=std, antialias=True)
    expected = reference(Image.fromarray(image)).numpy()[None]
    np.testing.assert_allclose(preprocess(image, spec)[0], expected, atol=1e-5)


def test_antialiased_center_leaves_equal_margins() -> None:
    image = np.full((30, 60, 3), 200, np.uint8)
    result = pixels(plain(20, 20, resize="center", antialias=True, fill=7), image)
    assert (result[5:15] == 200).all() and (result[:5] == 7).all() and (result[15:] == 7).all()


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_normalisation_goes_by_the_channel_order_of_the_model(order: str, antialias: bool) -> None:
    image = np.empty((6, 6, 3), np.uint8)
    image[:] = (10, 20, 30)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    spec = Preprocessing(6, 6, resize="stretch", channel_order=order, mean=mean, std=std, antialias=antialias)  # type: ignore[arg-type]
    array, _ = preprocess(image, spec)
    assert array.shape == (1, 3, 6, 6) and array.dtype == np.float32 and array.flags.c_contiguous
    values = (10, 20, 30) if order == "rgb" else (30, 20, 10)
    expected = [(value / 255 - mean[index]) / std[index] for index, value in enumerate(values)]
    np.testing.assert_allclose(array[0].reshape(3, -1).T, np.broadcast_to(expected, (36, 3)), atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_gray_is_pillows_luminance_exactly(seed: int) -> None:
    from PIL import Image

    image = random_image(9, 13, seed)
    array, _ = preprocess(image, plain(9, 13, resize="stretch", channel_order="gray"))
    assert array.shape == (1, 1, 9, 13) and array.dtype == np.float32 and array.flags.c_contiguous
    np.testing.assert_array_equal(array[0, 0], np.asarray(Image.fromarray(image).convert("L")))


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("resize", ["center", "letterbox", "stretch", "crop"])
def test_gray_is_resized_as_each_channel_of_a_gray_image_in_rgb(resize: str, antialias: bool) -> None:
    image = np.repeat(random_image(19, 30)[:, :, :1], 3, axis=2)
    fields = {"resize": resize, "antialias": antialias, "fill": 114, "mean": (0.5,), "std": (0.25,)}
    gray, placement = preprocess(image, Preprocessing(16, 24, channel_order="gray", **fields))  # type: ignore[arg-type]
    fields |= {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    colour, expected = preprocess(image, Preprocessing(16, 24, **fields))  # type: ignore[arg-type]
    np.testing.assert_array_equal(gray, colour[:, :1])
    assert placement == expected


def test_a_gray_file_comes_out_as_it_is(tmp_path: Path) -> None:
    from PIL import Image

    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / "gray.png")
    array, _ = preprocess(read_image(tmp_path / "gray.png"), plain(16, 16, resize="stretch", channel_order="gray"))
    np.testing.assert_array_equal(array[0, 0], levels)


def test_mean_and_std_have_a_number_a_channel() -> None:
    with pytest.raises(ValueError, match=r"mean is \(0\.5, 0\.5, 0\.5\), wanted 1 numbers for gray images"):
        Preprocessing(8, 8, channel_order="gray", mean=(0.5,) * 3)
    with pytest.raises(ValueError, match=r"std is \(0\.5,\), wanted 3 numbers for bgr images"):
        Preprocessing(8, 8, channel_order="bgr", std=(0.5,))


@pytest.mark.parametrize("antialias", [False, True])
def test_fill_is_normalised_like_a_pixel(antialias: bool) -> None:
    image = np.full((8, 16, 3), 114, np.uint8)
    spec = Preprocessing(
        16, 16, resize="letterbox", fill=114, mean=(0.4,) * 3, std=(0.2, 0.3, 0.4), antialias=antialias
    )
    array, _ = preprocess(image, spec)
    for plane in array[0]:
        np.testing.assert_allclose(plane, plane[0, 0], atol=1e-6)


def test_a_read_only_or_strided_image_is_taken() -> None:
    image = random_image(20, 20)
    view = image[::2, ::2]
    spec = plain(10, 10, resize="stretch")
    np.testing.assert_array_equal(pixels(spec, view), view)
    image.flags.writeable = False
    preprocess(image, spec)


RESIZES = st.sampled_from(["center", "letterbox", "stretch", "crop"])


@settings(max_examples=100, deadline=None)
@given(
    RESIZES,
    st.booleans(),
    st.tuples(st.integers(8, 500), st.integers(8, 500)),
    st.tuples(st.integers(8, 64), st.integers(8, 64)),
    st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=5),
)
def test_a_box_comes_back_from_the_input_as_it_went(
    resize: str, antialias: bool, size: tuple[int, int], input_size: tuple[int, int], corners: list[tuple[float, ...]]
) -> None:
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    _, placement = preprocess(image, plain(*input_size, resize=resize, antialias=antialias))
    boxes = np.sort(np.array(corners).reshape(-1, 2, 2), axis=1).reshape(-1, 4) * [width, height, width, height]
    np.testing.assert_allclose(placement.to_image(placement.to_input(boxes)), boxes, atol=0.01)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("resize", ["center", "letterbox", "stretch", "crop"])
@pytest.mark.parametrize(("height", "width"), [(90, 120), (120, 90), (24, 32)])
def test_what_is_drawn_in_a_box_lies_where_the_box_is_placed(
    resize: str, antialias: bool, height: int, width: int
) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = width * 3 // 8, height // 2, width * 5 // 8, height * 3 // 4
    image[top:bottom, left:right] = 255
    array, placement = preprocess(image, plain(64, 64, resize=resize, antialias=antialias))
    mass = array[0, 0].astype(np.float64)
    centre = [((np.arange(64) + 0.5) * mass.sum(axis=axis)).sum() / mass.sum() for axis in (0, 1)]
    x1, y1, x2, y2 = placement.to_input(np.array([[left, top, right, bottom]], np.float32))[0]
    np.testing.assert_allclose(centre, [(x1 + x2) / 2, (y1 + y2) / 2], atol=0.75)
    np.testing.assert_allclose(mass.sum() / 255, (x2 - x1) * (y2 - y1), rtol=0.08)


def test_boxes_end_at_the_image() -> None:
    placement = Placement(100, 50, 50, 50, 0.5, 0.5, 0, 12.5)
    boxes = np.array([[-10, 0, 60, 50], [5, 20, 10, 30]], np.float32)
    np.testing.assert_allclose(placement.to_image(boxes), [[0, 0, 100, 50], [10, 15, 20, 35]])
