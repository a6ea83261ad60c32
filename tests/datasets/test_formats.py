"""Every format says the same about the same images, in every layout that tools write."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from edgeq.datasets import open_split
from edgeq.errors import InputError
from edgeq.tasks.detection import Detections
from edgeq.tasks.detection.coco import GroundTruth, evaluate, load_ground_truth
from edgeq.tasks.detection.ground_truth import ground_truth_of
from tests.datasets.written import CLASSES, WRITERS, Box, Shown, draw, read_truth, truth_of

TITLES = {
    "coco": "COCO", "roboflow_coco": "COCO", "label_studio_coco": "COCO", "yolo": "YOLO", "roboflow_yolo": "YOLO",
    "listed_yolo": "YOLO", "darknet": "YOLO", "label_studio_yolo": "YOLO", "voc": "Pascal VOC",
    "roboflow_voc": "Pascal VOC", "cvat": "CVAT", "label_studio": "Label Studio",
}  # fmt: skip

_ROBOFLOW_ODDITY = "unused super-categories with id 0, left out of the classes"


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_says_the_same(tmp_path: Path, layout: str) -> None:
    shown = draw(tmp_path / "drawn")
    (tmp_path / "set").mkdir()
    WRITERS[layout](shown, tmp_path / "set", CLASSES)
    split = open_split(tmp_path / "set", "evaluation")
    assert split.format == TITLES[layout]
    assert split.name == ("all" if layout.startswith("label_studio") else "val")
    assert set(split.categories.values()) == set(CLASSES)
    expected, found = truth_of(shown), read_truth(split)
    assert found.keys() == expected.keys()
    for name, objects in expected.items():
        assert [label for label, _ in found[name]] == [label for label, _ in objects]
        for (_, box), (_, stated) in zip(found[name], objects, strict=True):
            assert box == pytest.approx(stated, abs=1e-4)
    odd = {line.split(":")[0] for line in split.findings.lines}
    assert odd == (
        {"unused super-categories with id 0, left out of the classes"} if layout == "roboflow_coco" else set()
    )
    assert all(image.item.read().shape[:2] == (30, 40 + number) for number, image in enumerate(split.images))


@pytest.fixture(scope="module")
def bccd(shared_data) -> list[Shown]:
    """The validation images of real microscopy, which were Pascal VOC at first."""
    document = json.loads((shared_data / "bccd" / "instances_val.json").read_bytes())
    names = {each["id"]: each["name"] for each in document["categories"]}
    objects: dict[int, list[tuple[str, Box]]] = {}
    for each in document["annotations"]:
        objects.setdefault(each["image_id"], []).append((names[each["category_id"]], tuple(each["bbox"])))
    return [
        Shown(
            shared_data / "bccd" / "images" / each["file_name"],
            (each["width"], each["height"]),
            tuple(objects.get(each["id"], ())),
        )
        for each in document["images"]
    ]


@pytest.fixture(scope="module")
def detections(bccd) -> dict[str, Detections]:
    """Boxes near the true ones, some missing and some wrong: AP is neither 0 nor 1."""
    generator = np.random.default_rng(7)
    found = {}
    for each in bccd:
        boxes = np.array([box for _, box in each.objects], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes += generator.normal(0, 6, boxes.shape).astype(np.float32)
        classes = np.array([LABELS.index(name) for name, _ in each.objects], np.int64)
        wrong = generator.random(len(classes)) < 0.1
        scores = generator.random(len(classes)).astype(np.float32)
        found[each.path.name] = Detections(boxes, scores, np.where(wrong, (classes + 1) % 3, classes))
    return found


def test_a_file_of_coco_is_read_with_the_images_next_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    shown = draw(tmp_path / "drawn")
    WRITERS["coco"](shown, tmp_path / "set", CLASSES)
    split = open_split(tmp_path / "set" / "annotations" / "instances_val2017.json", "evaluation")
    assert read_truth(split) == truth_of(shown)
    assert [image.name for image in split.images] == ["val2017/a.png", "val2017/b.png", "val2017/c.png"]


def damaged(content: bytes, generator: random.Random) -> bytes:
    """Returns a file's content with up to four changes."""
    changed = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(changed) + 1)
        kind = generator.randrange(3)
        if kind == 0:
            changed[place : place + 1] = bytes([generator.randrange(256)])
        elif kind == 1:
            del changed[place : place + generator.randint(1, 20)]
        else:
            changed[place:place] = generator.choice(
                [b"nan", b"-", b"<a>", b"1e999", b"\0", b"[", b"null", b'"', b"../"]
            )
    return bytes(changed)


@pytest.mark.parametrize("layout", WRITERS)
def test_damaged_files_are_read_in_part_or_refused_in_one_line(tmp_path: Path, layout: str) -> None:
    (tmp_path / "set").mkdir()
    WRITERS[layout](draw(tmp_path / "drawn"), tmp_path / "set", CLASSES)
    files = sorted(path for path in (tmp_path / "set").rglob("*") if path.is_file() and path.suffix != ".png")
    generator = random.Random(layout)  # noqa: S311 - nothing secret
    for _ in range(60):
        file = generator.choice(files)
        content = file.read_bytes()
        file.write_bytes(damaged(content, generator))
        try:
            open_split(tmp_path / "set", "evaluation").describe()
        except InputError as error:
            assert "\n" not in str(error)
        file.write_bytes(content)


LABELS = ("RBC", "WBC", "Platelets")


def score(truth: GroundTruth, detections: dict[str, Detections]) -> dict[str, float | None]:
    by_id = {image.id: detections[image.file_name.rsplit("/", 1)[-1]] for image in truth.images}
    return dict(evaluate(truth, by_id, list(by_id), labels=LABELS).numbers)


@pytest.fixture(scope="module")
def expected(shared_data, detections) -> dict[str, float | None]:
    return score(load_ground_truth(shared_data / "bccd" / "instances_val.json"), detections)


@pytest.mark.parametrize("layout", WRITERS)
def test_real_data_scores_the_same_from_every_layout(tmp_path, bccd, detections, expected, layout):
    (tmp_path / "set").mkdir()
    WRITERS[layout](bccd, tmp_path / "set", LABELS)
    truth = ground_truth_of(open_split(tmp_path / "set", "evaluation"))
    assert len(truth.images) == 87 and len(truth.annotations) == 1137
    assert 0.2 < expected["AP"] < 0.8
    assert score(truth, detections) == pytest.approx(expected, abs=2e-4)
