"""What pictures show: marks where they belong, text that can be read, colours that can be told apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.tasks.classification.task import ClassificationTask
from edgeq.tasks.detection.task import DetectionTask
from edgeq.tasks.drawing import Canvas, class_style, contrast, ink_on, side_by_side
from edgeq.tasks.drawing.palette import BLACK, OKABE_ITO, WHITE
from edgeq.tasks.drawing.plates import Rectangle, place
from edgeq.tasks.evidence import Box, Finding, Mark

GRAY = (90, 90, 90)
# What eyes without one kind of cone see, from linear RGB: Viénot, Brettel and Mollon (1999).
DICHROMATS = {
    "protan": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
    "deutan": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
}


def plain(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), GRAY, np.uint8)


def box(left: float, top: float, width: float, height: float, index: int = 0, **more) -> Box:
    return Box(f"class {index}", index, more.pop("score", 0.75), left=left, top=top, width=width, height=height, **more)


@pytest.mark.parametrize(("width", "height"), [(40, 30), (640, 480), (3000, 2000)])
def test_a_box_lies_where_it_belongs_at_any_size(width, height):
    found = box(width * 0.25, height * 0.4, width * 0.5, height * 0.5)
    canvas = Canvas(width, height)
    DetectionTask.draw(canvas, [found])
    picture = np.asarray(canvas.over(plain(width, height)))
    scale = picture.shape[1] / width
    assert picture.shape[:2] == (height * scale, width * scale)
    assert picture.shape[1] >= 320
    colour = class_style(0).colour
    left, top, right, bottom = (
        round(each * scale) for each in (width * 0.25, height * 0.4, width * 0.75, height * 0.9)
    )
    middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
    for x, y in ((left, middle_y), (right, middle_y), (middle_x, bottom), (left, bottom), (right, bottom)):
        assert tuple(picture[y, x]) == colour, (x, y)
    assert tuple(picture[middle_y, middle_x]) == GRAY
    assert tuple(picture[middle_y, left - 2 * canvas.line_px]) == GRAY
    assert tuple(picture[middle_y, left + 2 * canvas.line_px]) == GRAY


@pytest.mark.parametrize(("width", "height"), [(28, 28), (640, 480), (4000, 3000)])
def test_a_label_can_be_read_at_any_size(width, height):
    canvas = Canvas(width, height)
    canvas.note("Ag 0.75")
    picture = np.asarray(canvas.over(plain(width, height))).astype(int)
    plate = picture[:, : picture.shape[1]]
    ground = (plate == 255).all(axis=2)
    rows, columns = np.flatnonzero(ground.any(axis=1)), np.flatnonzero(ground.any(axis=0))
    inside = plate[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    darkest = min(map(tuple, inside.reshape(-1, 3).tolist()))
    assert contrast(darkest, WHITE) >= 4.5
    letters = np.flatnonzero((inside.max(axis=2) < 100).any(axis=1))
    assert letters[-1] - letters[0] + 1 >= max(8, 0.015 * min(picture.shape[:2]))
    assert len(rows) < 0.1 * max(picture.shape[:2])


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_text_has_contrast_on_every_colour(colour):
    assert contrast(ink_on(colour), colour) >= 4.5
    assert 1 <= contrast(colour, BLACK) <= 21


def test_contrast_is_that_of_wcag():
    assert contrast(BLACK, WHITE) == pytest.approx(21)
    assert contrast((118, 118, 118), WHITE) == pytest.approx(4.54, abs=0.01)  # the darkest gray that passes on white


def _linear(colour) -> np.ndarray:
    share = np.array(colour) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def _lab(linear: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ linear.clip(0, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eyes", DICHROMATS)
def test_classes_are_told_apart_without_red_or_green(eyes):
    seen = [_lab(DICHROMATS[eyes] @ _linear(colour)) for colour in OKABE_ITO]
    assert min(np.linalg.norm(first - other) for first, other in itertools.combinations(seen, 2)) > 10
    assert len({class_style(index) for index in range(28)}) == 28


boxes = st.tuples(st.integers(0, 600), st.integers(0, 440), st.integers(5, 300), st.integers(5, 200))


@settings(deadline=None, max_examples=60)
@given(st.lists(boxes, min_size=1, max_size=12))
def test_labels_stay_inside_and_apart_while_there_is_room(found):
    size = (90.0, 18.0)
    taken: list[Rectangle] = []
    for left, top, width, height in found:
        at = Rectangle(left, top, min(left + width, 640), min(top + height, 480))
        plate = place(size, at, taken, (640, 480))
        assert plate.left >= 0 and plate.top >= 0 and plate.right <= 640 and plate.bottom <= 480
        for other in taken:
            beside = plate.right <= other.left or other.right <= plate.left
            assert beside or plate.bottom <= other.top or other.bottom <= plate.top
        taken.append(plate)


def test_what_both_files_see_is_thin_and_unnamed_and_what_one_sees_thick():
    def drawn(mark: Mark | None) -> int:
        canvas = Canvas(640, 480)
        DetectionTask.draw(canvas, [box(100, 100, 300, 200, 4, mark=mark)])
        picture = np.asarray(canvas.over(plain(640, 480)))
        return int((picture == class_style(4).colour).all(axis=2).sum())

    thin, normal, thick = drawn("both"), drawn(None), drawn("alone")
    assert thin < 2 * 1000 + 100  # a line of one pixel around the box, and no plate
    assert thin < normal < thick


def test_boxes_of_two_files_are_lost_won_and_false():
    truth = [box(0, 0, 100, 100), box(200, 0, 100, 100, 1), box(400, 0, 100, 100, 2)]
    first = [box(2, 0, 100, 100), box(205, 0, 100, 100, 1), box(0, 300, 50, 50)]
    other = [box(0, 4, 100, 100, score=0.5), box(400, 3, 100, 100, 2), box(300, 300, 50, 50)]
    left, right = DetectionTask.compare(first, other, truth)
    assert [each.mark for each in left] == ["both", "lost", "false alarm"]
    assert [each.mark for each in right] == ["both", "won", "false alarm"]
    unknown, _ = DetectionTask.compare(first, other, None)
    assert [each.mark for each in unknown] == ["both", "alone", "alone"]


def test_a_classifiers_best_class_is_lost_or_won():
    cat, dog, emu = (Finding(name, index) for index, name in enumerate(("cat", "dog", "emu")))
    left, right = ClassificationTask.compare([cat, dog, emu], [dog, cat, emu], [cat])
    assert [each.mark for each in left] == ["lost", "alone", "both"]
    assert [each.mark for each in right] == ["alone", "alone", "both"]


def test_panels_lie_side_by_side_under_their_captions():
    from PIL import Image

    panels = [
        ("first", Image.new("RGB", (200, 100), (255, 0, 0))),
        ("x" * 500, Image.new("RGB", (200, 100), (0, 0, 255))),
    ]
    whole = np.asarray(side_by_side(panels, 12))
    bar = whole.shape[0] - 100
    assert (whole[bar:, :200] == (255, 0, 0)).all()
    assert (whole[bar:, -200:] == (0, 0, 255)).all()
    assert contrast(tuple(whole[:bar].reshape(-1, 3).max(axis=0).tolist()), tuple(whole[0, 0].tolist())) >= 4.5
