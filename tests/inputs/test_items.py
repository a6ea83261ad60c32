"""What may be given as images or inputs, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import InputError
from edgeq.exporting.artifact import Preprocessing
from edgeq.inputs import ImageFile, evenly_spaced, items_of, model_input
from edgeq.inputs.preprocessing import preprocess

SPEC = Preprocessing(4, 6, resize="stretch", mean=(0.5,) * 3, std=(0.25,) * 3)
RNG = np.random.default_rng(0)


def inputs(count: int) -> np.ndarray:
    return RNG.uniform(-1, 1, (count, 3, 4, 6)).astype(np.float32)


def contents(data: Any, num: int = 100) -> list[np.ndarray]:
    return [np.asarray(model_input(item.read(), SPEC, item.name)[0]) for item in items_of(data, num)]


def test_inputs_are_the_same_however_they_are_given():
    torch = pytest.importorskip("torch")
    whole = inputs(5)
    given = [
        whole,
        list(whole),
        [whole[:2], whole[2:]],
        tuple(whole.astype(np.float64)),
        (row for row in whole),
        torch.from_numpy(whole),
        torch.utils.data.DataLoader(torch.from_numpy(whole), batch_size=2),
    ]
    digests = set()
    for data in given:
        items = list(items_of(data, 100))
        np.testing.assert_array_equal(np.concatenate([item.read() for item in items]), whole)
        digests.add(tuple(item.digest() for item in items))
    assert len(digests) == 1
    assert len(set(digests.pop())) == 5


def test_images_in_memory_are_pre_processed_like_those_of_files():
    images = RNG.integers(0, 256, (3, 9, 7, 3)).astype(np.uint8)
    for data in (images, list(images)):
        for found, image in zip(contents(data), images, strict=True):
            np.testing.assert_array_equal(found, preprocess(image, SPEC)[0])
    (single,) = contents(images[0])
    np.testing.assert_array_equal(single, preprocess(images[0], SPEC)[0])
    (item,) = items_of(images[0], 1)
    assert model_input(item.read(), SPEC, item.name)[1] == preprocess(images[0], SPEC)[1]


def test_an_input_that_is_ready_covers_the_whole_image():
    (item,) = items_of(inputs(1), 1)
    _, placement = model_input(item.read(), SPEC, item.name)
    boxes = np.array([[0, 0, 6, 4], [1, 2, 3, 4]], np.float32)
    np.testing.assert_array_equal(placement.to_image(boxes), boxes)


def test_num_takes_evenly_spaced_ones_of_what_is_in_memory_and_the_first_of_a_stream(tmp_path):
    whole = inputs(10)
    np.testing.assert_array_equal(np.concatenate(contents(whole, 5)), whole[::2])
    np.testing.assert_array_equal(np.concatenate(contents((row for row in whole), 5)), whole[:5])
    paths = [tmp_path / f"{number}.png" for number in range(10)]
    assert items_of(paths, 5) == items_of([str(path) for path in paths], 5) == [ImageFile(path) for path in paths[::2]]
    for data in (whole, paths, iter(whole)):
        with pytest.raises(InputError, match="`num` 0: wanted at least 1"):
            items_of(data, 0)
    assert evenly_spaced([], 3) == []


def test_a_stream_may_fill_one_array_again_and_again():
    whole = inputs(4)

    def stream() -> Iterator[np.ndarray]:
        buffer = np.empty_like(whole[0])
        for row in whole:
            buffer[:] = row
            yield buffer

    items = list(items_of(stream(), 4))
    np.testing.assert_array_equal(np.concatenate([item.read() for item in items]), whole)


def test_a_stream_is_drawn_one_by_one():
    drawn: list[int] = []

    def stream() -> Iterator[np.ndarray]:
        while True:
            drawn.append(len(drawn))
            yield inputs(1)

    items = iter(items_of(stream(), 3))
    next(items)
    assert len(drawn) == 1
    assert len(list(items)) == 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Path("images"), "is a single path; wanted a list of paths"),
        ("images", "is a single path"),
        (5, "is of type int; wanted paths, arrays"),
        ([Path("a.png"), inputs(1)], r"item 0: is of type PosixPath; wanted images \(H, W, 3\) of uint8"),
        ([inputs(1), {"image": 1}], "item 1: is of type dict"),
        ([(inputs(1), 3)], "item 0: is of type tuple"),
        (np.zeros((4, 5)), r"item 0: is an array \(4, 5\) of float64"),
        (np.zeros((2, 3, 4, 6), np.uint8), r"item 0: is an array \(3, 4, 6\) of uint8"),
        ([inputs(1), np.zeros((3, 4, 6), np.int64)], r"item 1: is an array \(3, 4, 6\) of int64"),
        (np.zeros((0, 3, 4, 6), np.float32)[None], r"item 0: is an array \(0, 3, 4, 6\) of float32"),
        ([inputs(2), inputs(1)[:, :, :, ::2]], r"item 1, row 0: has shape \(3, 4, 3\), the model takes \(3, 4, 6\)"),
        ([inputs(1).transpose(0, 2, 3, 1)], r"item 0, row 0: has shape \(4, 6, 3\), the model takes \(3, 4, 6\)"),
        ([inputs(1) * 255], r"has values from -2.* the model's pre-processing leads to -2 to 2; scale and normalise"),
        ([inputs(1) * np.nan], "has values from nan to nan"),
        ([inputs(1).astype(np.float64) * 1e300], "has values from -inf to inf"),
    ],
)
def test_what_cannot_be_an_input_is_one_clear_line(data, said):
    with pytest.raises(InputError, match=said) as caught:
        contents(data)
    assert "\n" not in str(caught.value)


def test_an_iterable_that_raises_is_named_with_the_item():
    def stream() -> Iterator[np.ndarray]:
        yield from inputs(2)
        raise ConnectionError("the camera is gone")

    with pytest.raises(InputError, match=r"raised ConnectionError at item 2 \(the camera is gone\); nothing was writ"):
        contents(stream())
    with pytest.raises(KeyboardInterrupt):
        contents(_interrupted())


def _interrupted() -> Iterator[np.ndarray]:
    raise KeyboardInterrupt
    yield


def test_a_tensor_that_is_no_array_is_told():
    torch = pytest.importorskip("torch")
    with pytest.raises(InputError, match=r"item 0: cannot be read as an array .*grad"):
        contents([torch.zeros(3, 4, 6, requires_grad=True)])
