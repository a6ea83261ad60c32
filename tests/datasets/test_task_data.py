"""`--data` for masks, keypoints, maps, text and oriented boxes: every layout says what `--annotations` says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from edgeq.datasets import Split, open_split
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.depth import DepthMap, DepthTask
from edgeq.tasks.instances.task import InstanceTask
from edgeq.tasks.keypoints.task import KeypointTask
from edgeq.tasks.oriented.boxes import OrientedBoxes
from edgeq.tasks.oriented.task import OrientedTask
from edgeq.tasks.semantic.task import SemanticTask
from edgeq.tasks.semantic.truth import load_pixel_truth, pixel_truth_of
from edgeq.tasks.text.detection import TextDetectionTask
from edgeq.tasks.text.recognition import TextRecognitionTask
from edgeq.tasks.text.regions import TextRegions
from tests.tasks.instances.test_instances import shifted
from tests.tasks.keypoints.test_keypoints import made
from tests.tasks.test_depth import artifact as depth_artifact

ENGINE = "pycocotools"
ARTIFACT = Artifact(Path("net.onnx"), "onnx", "fp32", "x86", (), (), None)


def odd(split: Split) -> dict[str, int]:
    return {found.what.split(",")[0]: found.count for found in split.findings.kinds}


def save(path: Path, pixels: np.ndarray[Any, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def blank(path: Path, width: int = 20, height: int = 10) -> Path:
    return save(path, np.zeros((height, width, 3), np.uint8))


# -- Masks of objects


def test_masks_of_real_data_score_as_from_its_annotations(shared_data: Path) -> None:
    coco = shared_data / "coco"
    data = InstanceTask.from_split(open_split(coco / "instances_val.json", "evaluation"), ENGINE)
    files = InstanceTask.from_files(coco / "instances_val.json", coco / "val2017", ENGINE)
    found = shifted(coco, files)
    expected = files.score(ARTIFACT, found, {}).numbers
    assert 0.3 < (expected["AP"] or 0) < 0.9
    assert data.score(ARTIFACT, found, {}).numbers == expected


def test_outlines_of_yolo_are_masks(tmp_path: Path) -> None:
    blank(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .1 .2 .5 .2 .5 .8 .1 .8\n0 .75 .5 .1 .2\n")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"val": "images", "names": ["cell"]}))
    split = open_split(tmp_path, "evaluation")
    task = InstanceTask.from_split(split, ENGINE)
    (area,) = [entry["area"] for entry in task._truth]
    assert area == pytest.approx(8 * 6)
    truth = pixel_truth_of(split).pixels(0, ("background", "cell"))
    expected = np.zeros((10, 20), int)
    expected[2:8, 2:10] = 1
    np.testing.assert_array_equal(truth, expected)


@pytest.mark.parametrize(
    ("segmentation", "what"),
    [
        ({"size": [10, 21], "counts": [210]}, "masks of another size than their image"),
        ({"size": [10, 20], "counts": [1, 198]}, "masks whose runs do not fill their image"),
        ({"size": [10, 20], "counts": "abc"}, "masks whose runs do not fill their image"),
        ({"size": [10, 20], "counts": [-1, 201]}, "masks whose runs do not fill their image"),
        ({"size": [10, 20], "counts": [200]}, "masks of zero area"),
        ({"counts": "x"}, "masks that are neither polygons nor RLE"),
        ([[1, 1, 5, 5]], "polygons of less than three points"),
        ([[1, 1, 5, 5, 9, 9]], "polygons of zero area"),
        ([["a", 1, 5, 5, 9, 1]], "polygons that are not numbers"),
    ],
)
def test_what_is_no_mask_is_left_out_and_counted(tmp_path: Path, segmentation: Any, what: str) -> None:
    blank(tmp_path / "images" / "a.png")
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}
    outline = [[1, 1, 9, 1, 9, 9]]
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{**box, "segmentation": segmentation}, {**box, "segmentation": outline}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(document))
    split = open_split(tmp_path, "evaluation")
    assert odd(split) == {what: 1}
    assert len(InstanceTask.from_split(split, ENGINE)._truth) == 1
    document["annotations"] = document["annotations"][:1]
    (tmp_path / "truth.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="none of its 1 objects has a mask"):
        InstanceTask.from_split(open_split(tmp_path, "evaluation"), ENGINE)


# -- Keypoints


def test_keypoints_score_as_from_their_annotations(tmp_path: Path) -> None:
    source, found = made(tmp_path, 3)
    document = json.loads(source.read_text())
    for image in document["images"]:
        blank(tmp_path / image["file_name"], 300, 200)
    expected = KeypointTask.from_files(source, tmp_path, ENGINE).score(ARTIFACT, found, {})
    assert 0.1 < (expected.AP or 0) < 0.9
    data = KeypointTask.from_split(open_split(source, "evaluation"), ENGINE)
    assert data.score(ARTIFACT, found, {}).numbers == expected.numbers


def test_keypoints_of_yolo_are_those_of_coco(tmp_path: Path) -> None:
    blank(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 .5 .5 .25 .5 2 0 0 0\n0 .2 .2 .1 .1 0 0 0 0 0 0\n")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"val": "images", "names": ["face"], "kpt_shape": [2, 3]}))
    first, second = KeypointTask.from_split(open_split(tmp_path, "evaluation"), ENGINE)._truth
    assert (first["keypoints"], first["num_keypoints"]) == ([5, 5, 2, 0, 0, 0], 1)
    assert second["num_keypoints"] == 0


def test_data_without_keypoints_is_refused(shared_data: Path) -> None:
    split = open_split(shared_data / "coco" / "instances_val.json", "evaluation")
    with pytest.raises(InputError, match="found none; COCO's are in a separate file"):
        KeypointTask.from_split(split, ENGINE)


# -- Classes of pixels

LABELS = ("background", "square", "disc")


def mask() -> np.ndarray[Any, np.dtype[np.uint8]]:
    found = np.zeros((10, 20), np.uint8)
    found[2:5, 3:9], found[6:9, 10:12], found[0] = 1, 2, 255
    return found


def in_folders(root: Path) -> None:
    for name in ("a", "b"):
        blank(root / "images" / f"{name}.png")
    save(root / "masks" / "a.png", mask())


def in_splits(root: Path) -> None:
    for split in ("train", "val"):
        blank(root / "images" / split / "a.jpg")
        save(root / "annotations" / split / "a.png", mask() if split == "val" else mask() * 0)


def of_each_split(root: Path) -> None:
    blank(root / "val" / "img" / "a.jpg")
    save(root / "val" / "mask" / "a.png", mask())


def voc(root: Path) -> None:
    blank(root / "JPEGImages" / "a.jpg")
    save(root / "SegmentationClass" / "a.png", mask())
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")
    (root / "classes.txt").write_text("\n".join(LABELS))


def cvat(root: Path) -> None:
    colours = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 200, 10), 255: (224, 224, 192)}
    blank(root / "JPEGImages" / "deep" / "a.jpg")
    pixels = np.zeros((10, 20, 3), np.uint8)
    for index, colour in colours.items():
        pixels[mask() == index] = colour
    save(root / "SegmentationClass" / "deep" / "a.png", pixels)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "default.txt").write_text("deep/a\n")
    lines = ["# label:color_rgb:parts:actions"]
    lines += [f"{name}:{','.join(map(str, colours[index]))}::" for index, name in enumerate(LABELS)]
    (root / "labelmap.txt").write_text("\n".join(lines))


def panoptic(root: Path) -> None:
    blank(root / "images" / "a.jpg")
    ids = np.zeros((10, 20, 3), np.uint8)
    for index, colour in {0: (9, 0, 0), 1: (1, 2, 0), 2: (0, 0, 1)}.items():
        ids[mask() == index] = colour
    save(root / "annotations" / "panoptic_val" / "a.png", ids)
    segments = [
        {"id": 9, "category_id": 10}, {"id": 513, "category_id": 11}, {"id": 65536, "category_id": 12},
    ]  # fmt: skip
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 20, "height": 10}],
        "categories": [{"id": 10 + number, "name": name} for number, name in enumerate(LABELS)],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
    }
    (root / "annotations" / "panoptic_val.json").write_text(json.dumps(document))


@pytest.mark.parametrize("layout", [in_folders, in_splits, of_each_split, voc, cvat, panoptic])
def test_every_layout_of_masks_says_the_same(tmp_path: Path, layout: Any) -> None:
    layout(tmp_path)
    split = open_split(tmp_path, "evaluation")
    assert odd(split) == ({"images without a mask": 1} if layout is in_folders else {})
    task = SemanticTask.from_split(split, ENGINE)
    task.check(Artifact(Path("net.onnx"), "onnx", "fp32", "x86", (), (), None, labels=LABELS))
    np.testing.assert_array_equal(pixel_truth_of(split).pixels(0, LABELS), mask())
    assert len(task.items) == 1 and "1 class map" in split.describe()


def test_boxes_of_voc_come_before_its_masks(tmp_path: Path) -> None:
    voc(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text("<annotation><filename>a.jpg</filename></annotation>")
    with pytest.raises(InputError, match="another `split`, as Pascal VOC's segmentation-val"):
        SemanticTask.from_split(open_split(tmp_path, "evaluation", "all"), ENGINE)
    split = open_split(tmp_path, "evaluation", "segmentation-val")
    labels = ("background", "aeroplane", "bicycle")
    np.testing.assert_array_equal(pixel_truth_of(split).pixels(0, labels), mask())


def test_real_outlines_are_drawn_as_from_their_annotations(shared_data: Path) -> None:
    coco = shared_data / "coco"
    data = pixel_truth_of(open_split(coco / "instances_val.json", "evaluation"))
    files = load_pixel_truth(coco / "instances_val.json", coco / "val2017")
    labels = ("background", "person", "dog", "chair")
    for number in range(0, 88, 8):
        np.testing.assert_array_equal(data.pixels(number, labels), files.pixels(number, labels))


def test_a_mask_with_unknown_colours_or_classes_is_refused(tmp_path: Path) -> None:
    cvat(tmp_path)
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\nsquare:128,0,0::\ndisc:1,1,1::\n")
    truth = pixel_truth_of(open_split(tmp_path, "evaluation"))
    with pytest.raises(InputError, match="has a segment or colour 706560 that"):
        truth.pixels(0, LABELS)
    (tmp_path / "labelmap.txt").write_text("background:0,0::\n")
    with pytest.raises(InputError, match=r"labelmap.txt: line 1 is 'background:0,0::'; wanted `name:red,green,blue"):
        open_split(tmp_path, "evaluation")


# -- Text

SQUARE = [[2, 2], [12, 2], [12, 8], [2, 8]]


@pytest.mark.parametrize("layout", ["icdar", "labels"])
def test_text_is_where_both_layouts_say(tmp_path: Path, layout: str) -> None:
    for name in ("1", "2"):
        blank(tmp_path / "val_images" / f"img_{name}.png", 60)
    pieces = [(SQUARE, "a, b"), ([[x + 20, y] for x, y in SQUARE], "###"), (SQUARE[:2], "short")]
    if layout == "icdar":
        (tmp_path / "val_gt").mkdir()
        lines = [",".join([*(str(value) for point in points for value in point), text]) for points, text in pieces[:2]]
        (tmp_path / "val_gt" / "gt_img_1.txt").write_text("\ufeff" + "\n".join([*lines, "1,2,x", ""]))
    else:
        stated = [{"transcription": text, "points": points} for points, text in pieces]
        (tmp_path / "val.txt").write_text(f"val_images/img_1.png\t{json.dumps(stated)}\nval_images/img_2.png\t[]\n")
    split = open_split(tmp_path, "evaluation")
    assert (split.format, split.name, len(split.images)) == ("text", "val", 2)
    wrong = "lines that are not x1" if layout == "icdar" else "boxes of zero or negative area"
    assert odd(split) == {wrong: 1}
    assert [each.text for each in split.images[0].objects] == ["a, b", "###"]
    task = TextDetectionTask.from_split(split, ENGINE)
    found = TextRegions(np.array([SQUARE, [[x + 20, y] for x, y in SQUARE]], np.float32), np.ones(2, np.float32))
    nothing = TextRegions(np.zeros((0, 4, 2), np.float32), np.zeros(0, np.float32))
    score = task.score(ARTIFACT, {0: found, 1: nothing}, {})
    assert (score.precision_50, score.recall_50) == (1, 1)


def test_what_images_say_is_a_list_of_them(tmp_path: Path) -> None:
    blank(tmp_path / "a.png")
    (tmp_path / "rec_gt.txt").write_text('a.png\tsay "no", 5\n')
    task = TextRecognitionTask.from_split(open_split(tmp_path / "rec_gt.txt", "evaluation"), ENGINE)
    labels = tuple('5no"ays, ')
    artifact = Artifact(Path("net.onnx"), "onnx", "fp32", "x86", (), (), None, labels=labels)
    indices = np.array([labels.index(letter) for letter in 'say "no", 5'])
    assert task.score(artifact, {0: indices}, {}).exact == 1


# -- Oriented boxes


@pytest.mark.parametrize("layout", ["dota", "yolo", "cvat"])
def test_oriented_boxes_are_the_corners_of_every_layout(tmp_path: Path, layout: str) -> None:
    blank(tmp_path / "images" / "a.png", 40, 40)
    corners = np.array([(20, 10), (30, 20), (20, 30), (10, 20)], float)
    if layout == "dota":
        (tmp_path / "labelTxt").mkdir()
        numbers = " ".join(map(str, corners.ravel()))
        text = f"imagesource:x\ngsd:1\n{numbers} plane 0\n{numbers} plane 1\n1 2 3 plane\n"
        (tmp_path / "labelTxt" / "a.txt").write_text(text)
    elif layout == "yolo":
        (tmp_path / "labels").mkdir()
        (tmp_path / "labels" / "a.txt").write_text("0 " + " ".join(map(str, (corners / 40).ravel())))
        (tmp_path / "data.yaml").write_text(yaml.safe_dump({"val": "images", "names": ["plane"]}))
    else:
        side = 200**0.5 / 2
        box = f'xtl="{20 - side}" ytl="{20 - side}" xbr="{20 + side}" ybr="{20 + side}" rotation="45"'
        image = f'<image id="0" name="a.png" width="40" height="40"><box label="plane" {box}/></image>'
        (tmp_path / "annotations.xml").write_text(f"<annotations><version>1.1</version>{image}</annotations>")
    split = open_split(tmp_path, "evaluation")
    assert split.images[0].objects[0].box == pytest.approx((10, 10, 20, 20))
    task = OrientedTask.from_split(split, ENGINE)
    artifact = Artifact(Path("net.onnx"), "onnx", "fp32", "x86", (), (), None, labels=("ship", "plane"))
    task.check(artifact)
    found = OrientedBoxes(corners[None].astype(np.float32), np.ones(1, np.float32), np.ones(1, np.int64))
    score = task.score(artifact, {0: found}, {})
    assert score.numbers["AP"] == pytest.approx(1)
    assert [(each.name, each.objects) for each in score.per_class] == [("ship", 0), ("plane", 1)]
    if layout == "dota":
        assert odd(split) == {"lines that are not `x1 y1 x2 y2 x3 y3 x4 y4 category difficult`": 1}
        assert [each.is_ignored for each in split.images[0].objects] == [False, True]


def test_a_class_that_only_the_data_has_is_never_found(tmp_path: Path) -> None:
    blank(tmp_path / "images" / "a.png")
    (tmp_path / "labelTxt").mkdir()
    lines = "2 2 8 2 8 8 2 8 plane 0\n2 2 8 2 8 8 2 8 pier 0\n"
    (tmp_path / "labelTxt" / "a.txt").write_text(lines)
    task = OrientedTask.from_split(open_split(tmp_path, "evaluation"), ENGINE)
    artifact = Artifact(Path("net.onnx"), "onnx", "fp32", "x86", (), (), None, labels=("Plane",))
    corners = np.array([[(2, 2), (8, 2), (8, 8), (2, 8)]], np.float32)
    score = task.score(artifact, {0: OrientedBoxes(corners, np.ones(1, np.float32), np.zeros(1, np.int64))}, {})
    assert [each.ap for each in score.per_class] == [pytest.approx(1), 0]


# -- Depth


def test_depth_maps_lie_next_to_the_images(tmp_path: Path) -> None:
    depth = np.random.default_rng(0).uniform(1, 5, (2, 10, 20)).round(3)
    for number in range(2):
        blank(tmp_path / "val" / "rgb" / f"{number}.jpg")
    save(tmp_path / "val" / "depth" / "0.png", np.rint(depth[0] * 1000).astype(np.uint16))
    np.save(tmp_path / "val" / "depth" / "1.npy", depth[1])
    split = open_split(tmp_path, "evaluation")
    assert split.describe().endswith("val: 2 images, 2 depth maps")
    task = DepthTask.from_split(split, ENGINE)
    place = Placement(20, 10, 20, 10, 1, 1, 0, 0)
    said = {number: DepthMap((each * 1.1).astype(np.float32), place) for number, each in enumerate(depth)}
    assert task.score(depth_artifact(), said, {}).abs_rel == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("task", [SemanticTask, DepthTask, OrientedTask, TextDetectionTask, TextRecognitionTask])
def test_images_without_the_truth_of_a_task_are_refused(tmp_path: Path, task: Any) -> None:
    blank(tmp_path / "a.png")
    with pytest.raises(InputError, match="is images without") as caught:
        task.from_split(open_split(tmp_path, "evaluation"), ENGINE)
    assert "\n" not in str(caught.value)
