"""Findings with a shape: which of them are the same, what became of the others, how they are drawn and outlined."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.boundary import convert
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact, Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.results.serialization import to_json
from edgeq.tasks.agreement import compare_findings, difference
from edgeq.tasks.depth import DepthMap, DepthTask
from edgeq.tasks.drawing import Canvas, class_style
from edgeq.tasks.drawn_findings import draw_findings
from edgeq.tasks.evidence import Finding, Mark
from edgeq.tasks.instances.contours import largest_outline
from edgeq.tasks.keypoints.poses import similarity
from edgeq.tasks.semantic.areas import area_difference, class_areas, compare_areas
from edgeq.tasks.shapes import Mask, Outline, PixelSet, Pose

GRAY = (90, 90, 90)
Pixels = np.ndarray[Any, np.dtype[np.bool_]]


def rectangle(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (60, 80)) -> Pixels:
    pixels = np.zeros(size, bool)
    pixels[top:bottom, left:right] = True
    return pixels


def mask(left: int, top: int, right: int, bottom: int, label: str = "cat", score: float | None = 0.9) -> Mask:
    pixels = PixelSet.of(rectangle(left, top, right, bottom))
    return Mask(label, 0, score, left=left, top=top, width=right - left, height=bottom - top, segmentation=pixels)


def outline(left: float, top: float, score: float | None = 0.9, text: str = "") -> Outline:
    corners = ((left + 10, top), (left + 20, top + 10), (left + 10, top + 20), (left, top + 10))
    return Outline("ship", 0, score, corners=corners, text=text)


def pose(left: float, top: float, score: float | None = 0.9) -> Pose:
    places = ((0, 0), (20, 0), (10, 10), (2, 20), (18, 20))
    return Pose("face", 0, score, points=tuple((left + x, top + y, 1.0) for x, y in places))


# -- What is the same


@pytest.mark.parametrize(
    ("same", "true", "false"),
    [
        ((mask(0, 0, 20, 20), mask(2, 0, 22, 20)), mask(40, 0, 60, 20), mask(0, 40, 20, 60)),
        ((outline(0, 0), outline(2, 0)), outline(40, 0), outline(0, 30)),
        ((pose(0, 0), pose(2, 0)), pose(40, 0), pose(0, 35)),
        ((Finding("cat"), Finding("cat")), Finding("dog"), Finding("emu")),
    ],
)
def test_what_two_files_find_is_shared_lost_won_or_false(
    same: tuple[Finding, Finding], true: Finding, false: Finding
) -> None:
    truth = [same[0], true]
    first, second = compare_findings([same[0], true, false], [same[1]], truth)
    assert [each.mark for each in first] == ["both", "lost", "false alarm"]
    assert [each.mark for each in second] == ["both"]
    _, second = compare_findings([same[0]], [true, false], truth)
    assert [each.mark for each in second] == ["won", "false alarm"]
    first, _ = compare_findings([true], [], None)
    assert [each.mark for each in first] == ["alone"]
    alone = sum(1.0 if each.score is None else each.score for each in (true, false))
    assert difference([same[0], true], [same[1], false]) == pytest.approx(alone)
    assert difference([same[0]], [same[1]]) == 0


def test_masks_are_compared_by_pixels_and_not_by_boxes() -> None:
    upper, lower = np.tri(40, dtype=bool), ~np.tri(40, dtype=bool)
    first, second = (
        Mask("cat", 0, 0.9, left=0, top=0, width=40, height=40, segmentation=PixelSet.of(each))
        for each in (upper, lower)
    )
    assert [each.mark for each in compare_findings([first], [second], None)[0]] == ["alone"]


def test_similarity_is_that_of_coco() -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    truth = np.concatenate([rng.uniform(0, 100, (3, 17, 2)), np.full((3, 17, 1), 2.0)], axis=2)
    found = truth[:, :, :] + np.concatenate([rng.normal(0, 4, (3, 17, 2)), np.zeros((3, 17, 1))], axis=2)
    coco, results = COCO(), COCO()
    for target, poses in ((coco, truth), (results, found)):
        entries = []
        for number, each in enumerate(poses, start=1):
            (left, top), (right, bottom) = each[:, :2].min(axis=0), each[:, :2].max(axis=0)
            entries.append({
                "id": number, "image_id": 1, "category_id": 1, "keypoints": each.ravel().tolist(), "iscrowd": 0,
                "area": (right - left) * (bottom - top), "bbox": [left, top, right - left, bottom - top],
                "num_keypoints": 17, "score": 1 - number / 10,
            })  # fmt: skip
        target.dataset = {"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": entries}
        target.createIndex()
    evaluator = COCOeval(coco, results, "keypoints")
    evaluator.params.imgIds, evaluator.params.catIds = [1], [1]
    evaluator._prepare()
    expected = evaluator.computeOks(1, 1)
    assert expected.max() > 0.5
    np.testing.assert_allclose(similarity(found, truth), expected, atol=1e-9)


# -- Areas of classes

LABELS = ("background", "road", "sky")
ARTIFACT = Artifact(Path("net.onnx"), "onnx", "fp32", "x86", (), (), None, Postprocessing("depth"), labels=LABELS)


def test_areas_are_split_by_what_became_of_their_pixels() -> None:
    truth, first, second = (np.zeros((50, 100), np.uint8) for _ in range(3))
    truth[:, :40] = 1
    first[:, :50] = 1  # ten columns too many
    second[:, 20:40], second[:, 90:] = 1, 2
    sides = [class_areas(pixels, ARTIFACT) for pixels in (first, second, truth)]
    left, right = compare_areas(*sides)
    assert {(each.label, each.mark): round(each.share, 6) for each in left} == {
        ("road", "both"): 0.2, ("road", "lost"): 0.2, ("road", "false alarm"): 0.1,
    }  # fmt: skip
    assert {(each.label, each.mark): round(each.share, 6) for each in right} == {
        ("road", "both"): 0.2, ("sky", "false alarm"): 0.1,
    }  # fmt: skip
    np.testing.assert_array_equal(left[1].segmentation.pixels(), rectangle(0, 0, 20, 50, (50, 100)))
    unknown, _ = compare_areas(sides[0], sides[1], None)
    assert [each.mark for each in unknown] == ["both", "alone"]
    assert area_difference(sides[0], sides[1]) == pytest.approx(0.4)
    assert left[1].describe() == "lost: road 20.0%"


def test_depths_become_bands_of_as_many_pixels() -> None:
    metres = np.linspace(1, 9, 800, dtype=np.float32).reshape(20, 40)
    place = Placement(40, 20, 40, 20, 1, 1, 0, 0)
    found = DepthTask.findings(ARTIFACT, DepthMap(metres, place))
    assert [each.describe() for each in found][::7] == ["1 to 2 m", "8 to 9 m"]
    assert [each.share for each in found] == pytest.approx([1 / 8] * 8, abs=0.01)
    assert np.sum([each.segmentation.pixels() for each in found], axis=0).min() == 1
    (whole,) = DepthTask.findings(
        ARTIFACT, DepthMap(np.full((20, 40), 3, np.float32), Placement(40, 20, 40, 20, 1, 1, 0, 0))
    )
    assert whole.share == 1


# -- Outlines of masks


def flood(pixels: Pixels, start: tuple[int, int], ways: list[tuple[int, int]]) -> set[tuple[int, int]]:
    """Returns the equal pixels that are reached from one."""
    wanted, seen, edge = pixels[start], {start}, [start]
    while edge:
        row, column = edge.pop()
        for down, right in ways:
            at = row + down, column + right
            if (
                0 <= at[0] < pixels.shape[0]
                and 0 <= at[1] < pixels.shape[1]
                and at not in seen
                and pixels[at] == wanted
            ):
                seen.add(at)
                edge.append(at)
    return seen


STRAIGHT = [(0, 1), (0, -1), (1, 0), (-1, 0)]
ALL = [*STRAIGHT, (1, 1), (1, -1), (-1, 1), (-1, -1)]


def enclosed(corners: np.ndarray[Any, Any], shape: tuple[int, int]) -> Pixels:
    """Returns the pixels whose centre a polygon of upright and level edges has to its left an odd number of times."""
    inside = np.zeros(shape, bool)
    for (x, y), (u, v) in itertools.pairwise([*corners.tolist(), corners[0].tolist()]):
        if x == u:
            inside[int(min(y, v)) : int(max(y, v)), int(x) :] ^= True
    return inside


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.3, 0.5, 0.7, 0.9]))
def test_an_outline_encloses_the_largest_part_with_its_holes(seed: int, share: float) -> None:
    pixels = np.random.default_rng(seed).random((7, 9)) < share
    filled, left = [], {(row, column) for row, column in np.argwhere(pixels).tolist()}
    while left:
        flooded = flood(pixels, next(iter(left)), STRAIGHT)
        left -= flooded
        part = np.zeros((9, 11), bool)
        part[tuple((np.array(list(flooded)) + 1).T)] = True
        outside = flood(part, (0, 0), ALL)
        filled.append(np.array([[(row, column) not in outside for column in range(1, 10)] for row in range(1, 8)]))
    corners = largest_outline(pixels)
    found = enclosed(corners, pixels.shape) if len(corners) else np.zeros(pixels.shape, bool)
    assert found.sum() == max((each.sum() for each in filled), default=0)
    assert not filled or any(np.array_equal(found, each) for each in filled)


def test_pixel_sets_come_back_and_broken_ones_are_refused() -> None:
    found = mask(3, 4, 20, 30)
    document = json.loads(json.dumps(to_json(found)))
    again = convert(document, Mask, source="x", kind="a mask")
    assert again == found
    np.testing.assert_array_equal(again.segmentation.pixels(), rectangle(3, 4, 20, 30))
    for changes in (
        {"size": [60, 81]}, {"size": [10**9, 10**9]}, {"counts": "~~"}, {"counts": found.segmentation.counts + "o"},
        {"counts": ""}, {"size": [-60, -80]},
    ):  # fmt: skip
        with pytest.raises(InputError, match="runs that do not fill their image"):
            convert(document | {"segmentation": document["segmentation"] | changes}, Mask, source="x", kind="a mask")


# -- Pictures


def drawn(findings: list[Finding], width: int, height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    canvas = Canvas(width, height)
    draw_findings(canvas, findings)
    return np.asarray(canvas.over(np.full((height, width, 3), GRAY, np.uint8)))


@pytest.mark.parametrize("size", [(40, 30), (640, 480), (2000, 1500)])
def test_a_mask_is_filled_and_bordered_where_it_lies(size: tuple[int, int]) -> None:
    width, height = size
    left, top, right, bottom = width // 4, height // 3, width * 3 // 4, height * 5 // 6
    pixels = PixelSet.of(rectangle(left, top, right, bottom, (height, width)))
    found = Mask("cat", 4, 0.8, left=left, top=top, width=right - left, height=bottom - top, segmentation=pixels)
    picture = drawn([found], width, height)
    scale = picture.shape[1] // width
    middle = (top + bottom) // 2 * scale
    colour = np.array(class_style(4).colour)
    assert tuple(picture[middle, left * scale]) == tuple(colour)
    assert tuple(picture[middle, left * scale - 2]) == GRAY
    inside = picture[middle, (left + right) // 2 * scale].astype(float)
    share = (inside - GRAY) / (colour - GRAY)
    assert share.min() == pytest.approx(0.4, abs=0.02) and share.max() == pytest.approx(0.4, abs=0.02)


def test_classes_of_one_colour_differ_in_the_direction_of_their_stripes() -> None:
    pixels = PixelSet.of(rectangle(50, 50, 350, 250, (300, 400)))
    pictures = [
        drawn([Mask("x", index, None, left=50, top=50, width=300, height=200, segmentation=pixels)], 400, 300)
        for index in (0, 7, 14, 21)
    ]
    insides = [picture[100:200, 100:300] for picture in pictures]
    assert len({each.tobytes() for each in insides}) == 4


@pytest.mark.parametrize("size", [(60, 50), (640, 480), (2000, 1500)])
def test_keypoints_that_are_seen_are_dots_joined_by_limbs(size: tuple[int, int]) -> None:
    width, height = size
    places = [(0.2 + 0.6 * (number % 5) / 4, 0.2 + 0.6 * (number // 5) / 3) for number in range(17)]
    points = [(x * width, y * height, 0.9) for x, y in places]
    points[9] = (points[9][0], points[9][1], 0.1)  # the left wrist is not seen
    picture = drawn([Pose("person", 3, 0.9, points=tuple(points))], width, height)
    scale = picture.shape[1] / width
    colour = class_style(3).colour

    def at(x: float, y: float) -> tuple[int, ...]:
        return tuple(picture[round(y * scale), round(x * scale)].tolist())

    assert [at(x, y) == colour for x, y, _ in points[5:]] == [number != 9 for number in range(5, 17)]
    hip, knee = points[11], points[13]
    assert at((hip[0] + knee[0]) / 2, (hip[1] + knee[1]) / 2) == colour
    elbow, wrist = points[7], points[9]
    assert at(elbow[0] + 0.7 * (wrist[0] - elbow[0]), elbow[1] + 0.7 * (wrist[1] - elbow[1])) == GRAY


def test_an_oriented_box_is_drawn_along_its_sides_and_far_corners_do_no_harm() -> None:
    corners = ((320.0, 100.0), (420.0, 240.0), (320.0, 380.0), (220.0, 240.0))
    picture = drawn([Outline("ship", 1, 0.9, corners=corners)], 640, 480)
    colour = class_style(1).colour
    for (x, y), (u, v) in itertools.pairwise(corners):
        row, column = round((y + v) / 2), round((x + u) / 2)
        near = picture[row - 2 : row + 3, column - 2 : column + 3]
        assert (near == colour).all(axis=2).any()
    assert tuple(picture[240, 320]) == GRAY
    drawn([Outline("ship", 1, 0.9, corners=((-1e30, 0), (1e30, 5), (3, 1e20)))], 640, 480)
    drawn([Pose("face", 0, 0.9, points=((-1e30, 1e30, 1.0), (5, 5, 1.0)))], 640, 480)


def test_what_does_not_fit_below_each_other_is_counted() -> None:
    canvas = Canvas(320, 100)
    many: list[Finding] = [Finding(f"line {number}") for number in range(40)]
    draw_findings(canvas, many)
    few = Canvas(320, 100)
    draw_findings(few, many[:3])
    assert len(canvas._fitting_notes(17)) == 5
    assert canvas._fitting_notes(17)[-1].text == "and 36 more"
    assert [note.text for note in few._fitting_notes(17)] == ["line 0", "line 1", "line 2"]


@pytest.mark.parametrize("found", [mask(5, 5, 60, 50), outline(20, 20), pose(20, 20)])
def test_what_both_find_is_lighter_than_what_one_does(found: Any) -> None:
    def shown(mark: Mark | None) -> int:
        picture = drawn([type(found)(**vars(found) | {"mark": mark})], 80, 60)
        return int(np.abs(picture.astype(int) - GRAY[0]).sum())

    assert 0 < shown("both") < shown("lost")
