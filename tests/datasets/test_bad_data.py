"""What is wrong with people's data: left out and counted in one line, or refused with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from edgeq.datasets import Split, find_dataset, open_split
from edgeq.errors import InputError, MissingDependencyError
from tests.datasets.written import CLASSES, coco_document, draw, put_images, roboflow_voc


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with images a.png (40x30), b.png and c.png."""
    put_images(draw(tmp_path / "drawn"), tmp_path / "set" / "images")
    return tmp_path / "set"


def odd(split: Split) -> dict[str, int]:
    return {found.what.split(",")[0]: found.count for found in split.findings.kinds}


def write_yolo(folder: Path, labels: dict[str, str], **document: Any) -> Path:
    (folder / "labels").mkdir(exist_ok=True)
    for name, text in labels.items():
        (folder / "labels" / f"{name}.txt").write_text(text)
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({"val": "images", "names": list(CLASSES), **document}))
    return path


def test_bad_lines_of_yolo_are_left_out_and_counted(folder: Path) -> None:
    lines = (
        "0 .5 .5 .5 .5", "0 .5 .5 .5 .5",  # one of them is a copy
        "1 .5 .5 0 .2", "1 .5 .5 -.1 .2", "1 nan .5 .1 .1",
        "3 .5 .5 .1 .1", "-1 .5 .5 .1 .1", "1.5 .5 .5 .1 .1",
        "1 20 15 8 8", "1 1.5 .5 .1 .1", "2 .9 .5 .4 .5",
        "0 .1 .1 .2 .2 .3 .3 .4", "cell .5 .5 .1 .1", "0 .1 .1 .6 .1 .6 .7",
    )  # fmt: skip
    write_yolo(folder, {"a": "\n".join(lines), "b": ""})
    split = open_split(folder, "evaluation")
    assert odd(split) == {
        "objects that are stated twice": 1,
        "boxes of zero or negative area": 2,
        "boxes with a number that is missing or not finite": 1,
        "class ids beyond the names": 3,
        "lines with coordinates in pixels": 1,
        "boxes outside their image": 1,
        "boxes that reach out of their image by more than a pixel": 1,
        "polygons of less than three points": 1,
        "lines that are not numbers": 1,
    }
    first, second, third = split.images
    assert [each.category_id for each in first.objects] == [0, 2, 0]
    assert first.objects[-1].polygons[0] == pytest.approx((4, 3, 24, 3, 24, 21))
    assert first.objects[-1].box == pytest.approx((4, 3, 20, 18)) and first.objects[-1].area_px == pytest.approx(180)
    assert (second.is_background, third.is_background) == (False, True)
    assert split.describe() == "YOLO (data.yaml), 3 classes, val: 3 images, 3 boxes, 1 without labels (background)"


def test_images_whose_labels_cannot_be_read_are_left_out(folder: Path) -> None:
    write_yolo(folder, {"b": "0 .5 .5 .5 .5"})
    (folder / "labels" / "a.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "compose.yaml").write_text("a: &b [1]\nc: *b\n")  # of another program
    split = open_split(folder, "evaluation")
    assert odd(split) == {"images whose labels cannot be read": 1}
    assert [image.name for image in split.images] == ["images/b.png", "images/c.png"]
    shown = draw(folder.parent / "voc" / "drawn")
    roboflow_voc(shown, folder.parent / "voc", CLASSES)
    (folder.parent / "voc" / "valid" / "b.xml").write_text("<annotation>")
    split = open_split(folder.parent / "voc", "evaluation", "val")
    assert odd(split) == {"images whose labels cannot be read": 1} and len(split.images) == 2


def test_a_data_set_without_what_it_needs_is_refused(folder: Path) -> None:
    (folder / "other.yaml").write_text("train: images\n")  # of another program, perhaps
    assert open_split(folder, "calibration").describe() == "images (set), all: 3 images"
    (folder / "data.yaml").write_text("train: images\n")
    for path in (folder, folder / "data.yaml"):
        with pytest.raises(InputError, match=r"data\.yaml: has no `names` of its classes; expected a YOLO data set"):
            open_split(path, "calibration")
    (folder / "empty.json").write_text("{}")
    with pytest.raises(InputError, match=r"empty\.json: names no images; wanted a data set"):
        open_split(folder / "empty.json", "calibration")
    shown = draw(folder.parent / "voc" / "drawn")
    roboflow_voc(shown, folder.parent / "voc", CLASSES)
    for file in (folder.parent / "voc").rglob("*.xml"):
        file.write_text("<!DOCTYPE a><annotation/>")
    (folder.parent / "voc" / "Annotations").mkdir()
    (folder.parent / "voc" / "Annotations" / "a.xml").write_text("<annotation>")
    with pytest.raises(InputError, match=r"lists no image; images whose labels cannot be read, left out: 1"):
        open_split(folder.parent / "voc", "calibration")


def test_keypoints_of_yolo_are_read_by_their_form(folder: Path) -> None:
    write_yolo(folder, {"a": "0 .5 .5 .5 .5 .25 .5 2 0 0 0"}, kpt_shape=[2, 3])
    (found,) = open_split(folder, "evaluation").images[0].objects
    assert found.keypoints == (10, 15, 2, 0, 0, 0) and found.polygons == ()
    write_yolo(folder, {"a": "0 .5 .5 .5 .5 .25 .5 0 0"}, kpt_shape=[2, 2])
    (found,) = open_split(folder, "evaluation").images[0].objects
    assert found.keypoints == (10, 15, 2, 0, 0, 0)


def test_bad_entries_of_coco_are_left_out_and_counted(folder: Path) -> None:
    document = coco_document(draw(folder.parent / "again"), CLASSES)
    document["images"].append({**document["images"][0], "file_name": "c.png"})  # the id of a.png
    document["images"].append({"id": 9, "file_name": "b.png"})
    objects = [
        {"image_id": 77, "category_id": 1, "bbox": [0, 0, 5, 5]},
        {"image_id": 1, "category_id": 9, "bbox": [0, 0, 5, 5]},
        {"image_id": 1, "category_id": 1, "bbox": [None, 0, 5, 5]},
        {"image_id": 1, "category_id": 1, "bbox": [50, 0, 5, 5]},
        {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "segmentation": [[1, 1, 6, 6]]},
        {"image_id": 1, "category_id": 2, "segmentation": [[1, 1, 6, 1, 6, 6]], "iscrowd": 0},
        {"image_id": 2, "category_id": 2, "bbox": [1, 1, 5, 5], "iscrowd": 1, "segmentation": {"counts": "x"}},
    ]
    document["annotations"] += objects
    (folder / "all.json").write_text(json.dumps(document))
    split = open_split(folder, "evaluation")
    assert odd(split) == {
        "annotations of images that are not listed": 1,
        "annotations of categories that are not listed": 1,
        "boxes with a number that is missing or not finite": 1,
        "boxes outside their image": 1,
        "polygons of less than three points": 1,
        "masks that are neither polygons nor RLE": 1,
        "images with an id that another image has too": 2,
        "images that are listed twice": 1,
    }
    by_name = {image.name: image.objects for image in split.images}
    assert [each.box for each in by_name["images/b.png"]] == [(0, 0, 40, 30), (1, 1, 5, 5), (1, 1, 5, 5)]
    assert [each.is_ignored for each in by_name["images/c.png"]] == [True]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[1, 1", "[NaN, 1", r"is not valid JSON \(NaN is not JSON; write null\)"),
        ("]}", "", "is not valid JSON"),  # cut short
        ("[1, 1", '["1", 1', r"\$\.annotations\[\d\]\.bbox\[0\] is '1', wanted a number"),
    ],
)
def test_a_broken_coco_file_is_refused_and_not_taken_for_a_folder_of_images(
    old: str, new: str, message: str, folder: Path
) -> None:
    document = coco_document(draw(folder.parent / "again"), CLASSES)
    document["annotations"].append({"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]})
    text = json.dumps(document)
    assert old in text
    (folder / "all.json").write_text(new.join(text.rsplit(old, 1)))
    for path in (folder, folder / "all.json"):
        with pytest.raises(InputError, match=rf"all\.json: {message}.*; expected a COCO annotation file"):
            open_split(path, "evaluation")


def test_images_outside_the_folder_are_not_read_unless_asked(folder: Path) -> None:
    outside = folder.parent / "drawn"
    (folder / "images" / "link.png").symlink_to(outside / "b.png")
    listing = folder / "list.csv"
    listing.write_text(f"path,label\nimages/a.png,0\n../drawn/b2.png,1\n{outside / 'b2.png'},1\nimages/link.png,1\n")
    Image.new("RGB", (4, 4)).save(outside / "b2.png")
    split = open_split(listing, "evaluation")
    assert [image.name for image in split.images] == ["images/a.png"]
    assert odd(split) == {"images outside the data set's folder": 3}
    assert "`allow_outside` reads them" in split.findings.lines[0]
    split = open_split(listing, "evaluation", allow_outside=True)
    assert len(split.images) == 4 and split.findings.lines == []
    assert open_split(folder / "images", "calibration").describe() == "images (images), all: 3 images"


@pytest.mark.parametrize("link", ["images", "pictures"])  # a name that COCO files are looked for in, and one of a user
def test_images_behind_a_linked_folder_are_outside_and_not_missing(folder: Path, link: str) -> None:
    (folder / "images").rename(folder.parent / "disk")
    (folder / link).symlink_to(folder.parent / "disk", target_is_directory=True)
    (folder / "val.json").write_text(json.dumps(coco_document(draw(folder.parent / "again"), CLASSES)))
    with pytest.raises(InputError, match=r"no image left; images outside .*\(`allow_outside` reads them\): 3"):
        open_split(folder, "evaluation")
    split = open_split(folder, "evaluation", allow_outside=True)
    assert [Path(image.item.name).is_file() for image in split.images] == [True] * 3 and split.findings.lines == []


def test_a_split_outside_the_folder_is_refused(folder: Path) -> None:
    path = write_yolo(folder, {}, val="../drawn")
    with pytest.raises(InputError, match=r"'../drawn' leads out of the data set's folder .*`allow_outside`"):
        open_split(path, "evaluation")
    assert len(open_split(path, "evaluation", allow_outside=True).images) == 3
    path = write_yolo(folder, {}, path=str(folder.parent / "drawn"), val=".")
    assert len(open_split(path, "evaluation").images) == 3  # the images next to the file, and not the ones out there


def test_a_path_of_another_machine_is_found_by_its_last_parts(folder: Path) -> None:
    listing = folder / "list.txt"
    listing.write_text("/home/them/set/images/a.png\nC:\\sets\\cells\\images\\b.png\n")
    assert [image.name for image in open_split(listing, "calibration").images] == ["images/a.png", "images/b.png"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("data.yaml", "val: &a images\nnames: [x]\ntest: *a\n", r"alias \*a"),
        ("data.yaml", "val: images\nnames: {x: y}\n", "keys that are no class indices"),
        ("data.yaml", "val: images\nnames: [x\n", "cannot be read as YAML"),
        ("data.yaml", "val: !!python/object/apply:os.system [echo]\nnames: [x]\n", "cannot be read as YAML"),
        ("data.yaml", f"val: {'[' * 70}{']' * 70}\n", "nested deeper than 64"),
        ("data.yaml", "val: nowhere\nnames: [x]\n", "nowhere, which does not exist"),
        ("data.yaml", "val: labels\nnames: [x]\n", "leads to no image"),
        ("annotations.xml", "<annotations><track/></annotations>", "CVAT's XML for videos; export the task"),
        ("annotations.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "has a document type"),
        ("annotations.xml", "<annotations>", "not valid XML"),
        ("list.csv", "nothing\nhere\n", "none of its 1 images is in"),
        ("set.zip", "PK", "is an archive; unpack it"),
        ("set.npz", "PK", "cannot be read as arrays"),
        ("set.json", "[1]", "expected a data set: a COCO file"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(folder: Path, name: str, text: str, message: str) -> None:
    (folder / "labels").mkdir()
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        open_split(folder / name, "evaluation")
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_an_encoding_hides_no_entities(folder: Path) -> None:
    text = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>'
    (folder / "annotations.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(InputError, match="cannot be read as CVAT's XML"):
        find_dataset(folder / "annotations.xml")
    hidden = text.replace("utf-16", "utf-7").replace("<!DOCTYPE a [<!ENTITY", "+ADw-!DOCTYPE a [+ADw-!ENTITY")
    (folder / "annotations.xml").write_text(hidden)
    with pytest.raises(InputError, match="not valid XML"):
        find_dataset(folder / "annotations.xml")


def test_a_folder_of_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a data set that edgeq knows; wanted COCO"):
        find_dataset(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        find_dataset(tmp_path / "none")


def test_splits_are_chosen_by_what_they_are_for(folder: Path) -> None:
    images = (folder / "images").rename(folder / "kept")
    for name in ("train", "valid", "test"):
        (folder / name).mkdir()
        put_images(draw(folder.parent / f"drawn_{name}")[: len(name) - 3], folder / name / "images")
    for each in images.glob("*") if images.exists() else ():
        each.unlink()
    (folder / "data.yaml").write_text(yaml.safe_dump({key: f"{key}/images" for key in ("train", "valid", "test")}))
    document = {"train": "train/images", "val": "valid/images", "test": "test/images", "nc": 1}
    (folder / "data.yaml").write_text(yaml.safe_dump(document))
    assert open_split(folder, "calibration").name == "train"
    assert open_split(folder, "evaluation").name == "val"
    assert open_split(folder, "calibration", "test").name == "test"
    with pytest.raises(InputError, match="`split` dev: the data set has train, val, test"):
        open_split(folder, "evaluation", "dev")
    (folder / "data.yaml").write_text(yaml.safe_dump({"test": "test/images", "nc": 1}))
    assert open_split(folder, "calibration").name == "test"


def test_a_video_needs_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "street.mp4").write_bytes(b"\0")
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeq\[video\]'"):
        open_split(tmp_path / "street.mp4", "calibration")
