"""The drawn data set: the same everywhere, tight boxes, all sizes, whole or not at all."""

from __future__ import annotations

import hashlib
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.errors import InputError
from edgeq.tasks.detection import shapes
from edgeq.tasks.detection.shapes import CATEGORIES, draw_image, draw_shapes_dataset

indices = st.integers(0, 2**31)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_draws_the_same_bytes(tmp_path):
    first = draw_shapes_dataset(tmp_path / "a", 3, seed=5)
    again = draw_shapes_dataset(tmp_path / "b", 3, seed=5)
    assert contents(first.parent) == contents(again.parent)


def test_another_seed_draws_other_images():
    assert draw_image(5, 0).pixels.tobytes() != draw_image(6, 0).pixels.tobytes()
    assert draw_image(5, 0).pixels.tobytes() != draw_image(5, 1).pixels.tobytes()


def test_pixels_are_the_ones_the_shipped_detector_was_scored_on():
    """Guards against a change of the drawing that forgets to raise its version."""
    digest = hashlib.sha256()
    for index in range(4):
        drawn = draw_image(5, index)
        digest.update(drawn.pixels.tobytes() + drawn.boxes.tobytes() + drawn.labels.tobytes())
    assert (shapes._VERSION, digest.hexdigest()[:16]) == (2, "d2cd542208c06dff")


@given(indices)
@settings(max_examples=25, deadline=None)
def test_boxes_are_tight_around_the_visible_pixels(index):
    drawn = draw_image(1, index)
    height, width = drawn.instances.shape
    assert len(drawn.labels) == len(drawn.boxes) == len(drawn.areas) == drawn.instances.max()
    for number, ((x, y, w, h), area) in enumerate(zip(drawn.boxes, drawn.areas, strict=True), 1):
        visible = drawn.instances == number
        assert min(x, y) >= 0 and x + w <= width and y + h <= height
        inside = visible[y : y + h, x : x + w]
        assert inside.sum() == visible.sum() == area
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


def test_a_shape_on_a_plain_ground_fills_its_box(monkeypatch):
    """Boxes agree with the pixels themselves, not only with the drawing's own notes."""
    monkeypatch.setattr(shapes, "_background", lambda _rng, h, w: np.full((h, w, 3), 128, np.float32))
    monkeypatch.setattr(shapes, "_draw_clutter", lambda _canvas, _rng: None)
    monkeypatch.setattr(shapes, "_photograph", lambda canvas, _rng: canvas.clip(0, 255).astype(np.uint8))
    for index in range(10):
        drawn = draw_image(2, index)
        for number, (x, y, w, h) in enumerate(drawn.boxes, 1):
            changed = (np.abs(drawn.pixels.astype(int) - 128).max(2) > 10) & (drawn.instances == number)
            assert changed[y].any() and changed[y + h - 1].any() and changed[:, x].any() and changed[:, x + w - 1].any()
        # Besides, only pixels next to a shape differ from the ground: those that it covers by less than half.
        shown = np.pad(drawn.instances > 0, 3)
        near = np.logical_or.reduce(
            [np.roll(shown, step, (0, 1)) for step in itertools.product(range(-3, 4), repeat=2)]
        )
        assert (drawn.pixels[~near[3:-3, 3:-3]] == 128).all()


def test_every_class_and_every_coco_size_occurs():
    drawn = [draw_image(3, index) for index in range(40)]
    labels = np.concatenate([image.labels for image in drawn])
    areas = np.concatenate([image.areas for image in drawn])
    assert np.bincount(labels, minlength=len(CATEGORIES)).min() >= 20
    small, large = (areas < 32**2).mean(), (areas >= 96**2).mean()
    assert small > 0.2 and large > 0.02 and 1 - small - large > 0.2
    assert sum(image.pixels.shape[0] != image.pixels.shape[1] for image in drawn) > 30


def test_the_annotations_are_coco(tmp_path):
    from PIL import Image
    from pycocotools.coco import COCO

    annotations = draw_shapes_dataset(tmp_path / "set", 4, seed=9)
    coco = COCO(str(annotations))
    assert [coco.cats[number]["name"] for number in sorted(coco.cats)] == list(CATEGORIES)
    assert len(coco.imgs) == 4
    for index, record in enumerate(coco.loadImgs(sorted(coco.imgs))):
        pixels = np.asarray(Image.open(tmp_path / "set" / record["file_name"]))
        drawn = draw_image(9, index)
        assert pixels.shape == (record["height"], record["width"], 3)
        assert (pixels == drawn.pixels).all()
        found = coco.loadAnns(coco.getAnnIds(record["id"]))
        assert [annotation["bbox"] for annotation in found] == drawn.boxes.tolist()
        assert [annotation["area"] for annotation in found] == drawn.areas.tolist()
        assert [CATEGORIES[annotation["category_id"] - 1] for annotation in found] == [
            CATEGORIES[label] for label in drawn.labels
        ]
        assert all(annotation["iscrowd"] == 0 for annotation in found)


def test_a_larger_set_begins_with_the_smaller_one(tmp_path):
    small = json.loads(draw_shapes_dataset(tmp_path / "small", 2, seed=4).read_text())
    large = json.loads(draw_shapes_dataset(tmp_path / "large", 3, seed=4).read_text())
    assert large["images"][:2] == small["images"]
    assert large["annotations"][: len(small["annotations"])] == small["annotations"]


def test_a_complete_set_is_reused(tmp_path, monkeypatch):
    annotations = draw_shapes_dataset(tmp_path / "set", 2, seed=4)
    monkeypatch.setattr(shapes, "draw_image", lambda *_: pytest.fail("drawn again"))
    assert draw_shapes_dataset(tmp_path / "set", 2, seed=4) == annotations


@pytest.mark.parametrize(("images", "seed"), [(3, 4), (2, 5)])
def test_a_set_of_other_parameters_is_never_overwritten(tmp_path, images, seed):
    annotations = draw_shapes_dataset(tmp_path / "set", 2, seed=4)
    before = contents(annotations.parent)
    with pytest.raises(InputError, match="remove it or name another folder"):
        draw_shapes_dataset(tmp_path / "set", images, seed)
    assert contents(annotations.parent) == before


def test_an_incomplete_set_and_foreign_folders_are_refused(tmp_path):
    annotations = draw_shapes_dataset(tmp_path / "set", 2, seed=4)
    (annotations.parent / "000001.png").unlink()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"mine")
    (tmp_path / "file").write_bytes(b"mine")
    for name in ("set", "photos", "file"):
        with pytest.raises(InputError, match="holds something else"):
            draw_shapes_dataset(tmp_path / name, 2, seed=4)
    assert contents(tmp_path / "photos") == {"cat.jpg": b"mine"}


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    original = shapes.draw_image

    def interrupted(seed, index):
        if index == 1:
            raise KeyboardInterrupt
        return original(seed, index)

    monkeypatch.setattr(shapes, "draw_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw_shapes_dataset(tmp_path / "set", 3, seed=4)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    from PIL import Image

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(InputError, match="No space left on device"):
        draw_shapes_dataset(tmp_path / "set", 3, seed=4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("images", "seed"), [(0, 1), (1, -1)])
def test_numbers_out_of_range_are_refused(tmp_path, images, seed):
    with pytest.raises(InputError, match="wanted images >= 1 and seed >= 0"):
        draw_shapes_dataset(tmp_path / "set", images, seed)
