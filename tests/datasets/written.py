"""One truth, written as every format has it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import yaml
from PIL import Image

from edgeq.datasets.split import Split

Box = tuple[float, float, float, float]

CLASSES = ("red cell", "white cell", "platelet")


@dataclass(frozen=True)
class Shown:
    """An image and what is on it.

    Attributes:
        path: The file.
        size: Width and height.
        objects: Class and box (left, top, width, height) of each object.
    """

    path: Path
    size: tuple[int, int]
    objects: tuple[tuple[str, Box], ...]


def draw(folder: Path) -> list[Shown]:
    """Writes three images and returns what is on them; the last one shows nothing."""
    folder.mkdir(parents=True)
    objects = {
        "a": (("red cell", (2.0, 3.0, 10.0, 8.0)), ("platelet", (20.0, 10.0, 4.0, 4.0))),
        "b": (("white cell", (0.0, 0.0, 40.0, 30.0)),),
        "c": (),
    }
    shown = []
    for number, (name, found) in enumerate(objects.items()):
        size = (40 + number, 30)
        Image.new("RGB", size, (number * 50, 90, 120)).save(folder / f"{name}.png")
        shown.append(Shown(folder / f"{name}.png", size, found))
    return shown


def truth_of(shown: Sequence[Shown]) -> dict[str, list[tuple[str, Box]]]:
    return {each.path.name: sorted(each.objects) for each in shown}


def read_truth(split: Split) -> dict[str, list[tuple[str, Box]]]:
    """Returns what a split says, as `truth_of` has it."""
    return {
        image.name.rsplit("/", 1)[-1]: sorted((split.categories[each.category_id], each.box) for each in image.objects)
        for image in split.images
    }


def put_images(shown: Sequence[Shown], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for each in shown:
        try:
            os.link(each.path, folder / each.path.name)
        except OSError:  # another file system
            shutil.copy(each.path, folder)


def coco_document(shown: Sequence[Shown], classes: Sequence[str], first: int = 1) -> dict[str, list[dict[str, object]]]:
    """Returns a COCO document whose categories are counted from `first`."""
    objects = [(number, *found) for number, each in enumerate(shown) for found in each.objects]
    return {
        "images": [
            {"id": number, "file_name": each.path.name, "width": each.size[0], "height": each.size[1]}
            for number, each in enumerate(shown)
        ],
        "annotations": [
            {"id": index, "image_id": image, "category_id": classes.index(name) + first, "bbox": list(box)}
            for index, (image, name, box) in enumerate(objects)
        ],
        "categories": [{"id": index + first, "name": name} for index, name in enumerate(classes)],
    }


def coco(shown: Sequence[Shown], folder: Path, classes: Sequence[str]) -> None:
    put_images(shown, folder / "val2017")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "captions_val2017.json").write_text('{"images": [], "annotations": []}')
    path = folder / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(coco_document(shown, classes)))


def roboflow_coco(shown: Sequence[Shown], folder: Path, classes: Sequence[str]) -> None:
    put_images(shown, folder / "valid")
    document = coco_document(shown, classes)
    for category in document["categories"]:
        category["supercategory"] = "cells"
    document["categories"].insert(0, {"id": 0, "name": "cells", "supercategory": "none"})
    (folder / "valid" / "_annotations.coco.json").write_text(json.dumps(document))


def label_studio_coco(shown: Sequence[Shown], folder: Path, classes: Sequence[str]) -> None:
    put_images(shown, folder / "images")
    document = coco_document(shown, classes, first=0)
    for image in document["images"]:
        image["file_name"] = f"../../label-studio/data/media/upload/1/{image['file_name']}"
    (folder / "result.json").write_text(json.dumps(document))


def yolo_lines(each: Shown, classes: Sequence[str]) -> str:
    width, height = each.size
    return "".join(
        f"{classes.index(name)} {(x + w / 2) / width:.8f} {(y + h / 2) / height:.8f} {w / width:.8f} {h / height:.8f}\n"
        for name, (x, y, w, h) in each.objects
    )


def yolo_labels(shown: Sequence[Shown], folder: Path, classes: Sequence[str]) -> None:
    folder.mkdir(parents=True)
    for each in shown:
        if each.objects:  # an image of nothing has no file
            (folder / f"{each.path.stem}.txt").write_text(yolo_lines(each, classes))


def yolo(shown: Sequence[Shown], folder: Path, classes: Sequence[str]) -> None:
    put_images(shown, folder / "images" / "val")
    yolo_labels(shown, folder / "labels" / "val", classes)
    document = {"path": "/home/them/set", "train": None, "val": "images/val", "names": dict(enumerate(classes))}
    (folder / "set.yaml").write_text(yaml.safe_dump(document))


def roboflow_yolo(shown: Sequence[Shown], folder: Path, classes: Sequence[str]) -> None:
    put_images(shown, folder / "valid" / "images")
    yolo_labels(shown, folder / "valid" / "labels", classes)
    document = {"train": "../train/images", "val": "../valid/images", "nc": len(classes), "names": list(classes)}
    (folder / "data.yaml").write_text(yaml.safe_dump(document))


def listed_yolo(shown: Sequence[Shown], folder: Path, classes: Sequence[str]) -> None:
    """Writes what CVAT calls Ultralytics YOLO: a file lists the images."""
    put_images(shown, folder / "images" / "val")
    yolo_labels(shown, folder / "labels" / "val", classes)
    (folder / "val.txt").write_text("".join(f"data/images/val/{each.path.name}\n" for each in shown))
    (folder / "data.yaml").write_text(yaml.safe_dump({"path": ".", "val": ["val.txt"], "names": list(classes)}))


def darknet(shown: Sequence[Shown], folder: Path, classes: Sequence[str]) -> None:
    """Writes what CVAT calls YOLO 1.1."""
    put_images(shown, folder / "obj_valid_data")
    for each in shown:
        (folder / "obj_valid_data" / f"{each.path.stem}.txt").write_text(yolo_lines(each, classes))
    (folder / "obj.names").write_text("\n".join(classes))
    (folder / "valid.txt").write_text("".join(f"data/obj_valid_data/{each.path.name}\n" for each in shown))
    (folder / "obj.data").write_text(f"classes = {len(classes)}\nvalid = data/valid.txt\nnames = data/obj.names\n")


def label_studio_yolo(shown: Sequence[Shown], folder: Path, classes: Sequence[str]) -> None:
    put_images(shown, folder / "images")
    yolo_labels(shown, folder / "labels", classes)
    (folder / "classes.txt").write_text("\n".join(classes) + "\n")
    (folder / "notes.json").write_text(json.dumps({"categories": [], "info": {"version": "1.0"}}))


def voc_text(each: Shown, shift: float = 0, database: str = "Unknown") -> str:
    objects = "".join(
        f"<object><name>{escape(name)}</name><difficult>0</difficult><bndbox><xmin>{x + shift}</xmin>"
        f"<ymin>{y + shift}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for name, (x, y, w, h) in each.objects
    )
    return (
        f"<annotation><filename>{each.path.name}</filename><source><database>{database}</database></source><size>"
        f"<width>{each.size[0]}</width><height>{each.size[1]}</height><depth>3</depth></size>{objects}</annotation>"
    )


def voc(shown: Sequence[Shown], folder: Path, classes: Sequence[str]) -> None:
    """Writes the challenge's own layout: pixels are counted from 1, and the last one is included."""
    root = folder / "VOCdevkit" / "VOC2012"
    put_images(shown, root / "JPEGImages")
    (root / "Annotations").mkdir()
    for each in shown:
        text = voc_text(each, shift=1, database="The VOC2007 Database")
        (root / "Annotations" / f"{each.path.stem}.xml").write_text(text)
    sets = root / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    (sets / "val.txt").write_text("".join(f"{each.path.stem}\n" for each in shown))
    (sets / "platelet_val.txt").write_text("a  1\n")


def roboflow_voc(shown: Sequence[Shown], folder: Path, classes: Sequence[str]) -> None:
    put_images(shown, folder / "valid")
    for each in shown:
        (folder / "valid" / f"{each.path.stem}.xml").write_text(voc_text(each))


def cvat(shown: Sequence[Shown], folder: Path, classes: Sequence[str]) -> None:
    put_images(shown, folder / "images" / "val")
    images = "".join(
        f'<image id="{number}" name="{each.path.name}" subset="val" width="{each.size[0]}" height="{each.size[1]}">'
        + "".join(
            f'<box label="{escape(name)}" occluded="0" xtl="{x}" ytl="{y}" xbr="{x + w}" ybr="{y + h}"/>'
            for name, (x, y, w, h) in each.objects
        )
        + "</image>"
        for number, each in enumerate(shown)
    )
    labels = "".join(f"<label><name>{escape(name)}</name></label>" for name in classes)
    meta = f"<version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"
    (folder / "annotations.xml").write_text(f'<?xml version="1.0"?><annotations>{meta}{images}</annotations>')


def label_studio(shown: Sequence[Shown], folder: Path, classes: Sequence[str]) -> None:
    put_images(shown, folder / "images")
    tasks = [
        {
            "id": number,
            "data": {"picture": f"/data/upload/3/0f1e2d3c-{each.path.name}"},
            "annotations": [{"result": [_region(each, name, box) for name, box in each.objects]}],
        }
        for number, each in enumerate(shown)
    ]
    (folder / "project-1.json").write_text(json.dumps(tasks))


def _region(each: Shown, name: str, box: Box) -> dict[str, object]:
    width, height = each.size
    x, y, w, h = box
    value = {
        "x": 100 * x / width, "y": 100 * y / height, "width": 100 * w / width, "height": 100 * h / height,
        "rotation": 0, "rectanglelabels": [name],
    }  # fmt: skip
    return {"type": "rectanglelabels", "original_width": width, "original_height": height, "value": value}


WRITERS: dict[str, Callable[[Sequence[Shown], Path, Sequence[str]], None]] = {
    writer.__name__: writer
    for writer in (
        coco, roboflow_coco, label_studio_coco, yolo, roboflow_yolo, listed_yolo, darknet, label_studio_yolo, voc,
        roboflow_voc, cvat, label_studio,
    )
}  # fmt: skip
