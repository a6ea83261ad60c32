"""Smoke test of the benchmark that compares boxes, and what it takes for the same boxes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks import families
from benchmarks.families import FAMILIES, pick_images
from benchmarks.family_boxes.pairs import Boxes, Setting, Tolerance, tally
from edgeq.tasks.detection.shapes import draw_shapes_dataset
from tests.benchmarks.conftest import table

WANTED = Boxes(np.array([[0, 0, 9, 9], [5, 5, 20, 20.0]]), np.array([0.9, 0.4]), np.array([1, 0]))
LOWER = np.array([0, 0.25, 0, 0])


@pytest.mark.parametrize(
    ("change", "equal", "both", "pixels"),
    [
        ({}, 2, 4, [0, 0]),
        ({"places": WANTED.places + LOWER}, 2, 4, [0.125, 0.25]),
        ({"places": WANTED.places + 3 * LOWER}, 1, 2, [0, 0]),
        ({"scores": WANTED.scores + LOWER[1:3] / 100}, 1, 3, [0, 0]),
        ({"classes": WANTED.classes + 1}, 1, 2, [0, 0]),
        ({"places": WANTED.places[:1], "scores": WANTED.scores[:1], "classes": WANTED.classes[:1]}, 1, 3, [0, 0]),
        ({"places": WANTED.places[::-1], "scores": WANTED.scores[::-1], "classes": WANTED.classes[::-1]}, 2, 4, [0, 0]),
    ],
)
def test_boxes_are_matched_by_class_score_and_place(
    change: dict[str, np.ndarray], equal: int, both: int, pixels: list[float]
) -> None:
    found = dataclasses.replace(WANTED, **change)
    result = tally([(found, WANTED), (WANTED, WANTED)], Tolerance())
    assert (result.images, result.equal, result.boxes, result.both) == (2, equal, 4, both)
    assert list(result.pixels) == pytest.approx(pixels)


def test_a_box_is_matched_once() -> None:
    twice = Boxes(WANTED.places[[0, 0]], WANTED.scores[[0, 0]], WANTED.classes[[0, 0]])
    apart = dataclasses.replace(twice, places=np.array([[0, 0, 9, 9], [30, 30, 39, 39.0]]))
    result = tally([(twice, apart)], Tolerance())
    assert (result.equal, result.both) == (0, 1)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("families")
    draw_shapes_dataset(folder / "coco" / "val2017", images=2, seed=5)
    return Setting(pick_images(folder, 2, 0), 0, folder, folder / "work")


def test_a_row_says_what_was_measured(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    elsewhere = dataclasses.replace(FAMILIES["yolov5"], package="no-such-package==1")
    monkeypatch.setitem(families.FAMILIES, "elsewhere", elsewhere)
    rows = table(families.run(tmp_path, ["gfl", "scrfd", "elsewhere"], setting))
    for name in ("gfl", "scrfd"):
        images, equal, boxes, both, median, largest = rows[(name, f"head of {name}")][2:]
        assert (images, equal) == ("2", "2")
        assert boxes == both and int(boxes) > 50 and 0 < float(median) <= float(largest) < 1e-3
    assert rows[("elsewhere", "head of yolov5")][2] == "not measured: pip install no-such-package==1"
    kept = dataclasses.replace(setting, images=())
    assert rows == table(families.run(tmp_path, ["gfl", "scrfd", "elsewhere"], kept))


def test_every_reference_is_a_function() -> None:
    assert all(callable(family.load()) for family in FAMILIES.values())


def test_each_seed_takes_other_images(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no COCO images below"):
        pick_images(tmp_path, 2, 0)
    draw_shapes_dataset(tmp_path / "coco" / "val2017", images=3, seed=5)
    first, second = pick_images(tmp_path, 2, 0), pick_images(tmp_path, 2, 1)
    assert len(first) == len(second) == 2 and first != second
