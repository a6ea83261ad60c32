"""`--data` on the command line and in Python, and `edgeq data`: one path, no file written by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

import edgeq as package
from edgeq.calibrators.ranges import Ranges
from tests.evaluation.test_evaluate import SIDE_PX, save_square_finder, squares

__all__ = ["squares"]


@pytest.fixture
def yolo(squares: Path) -> Path:
    """The drawn squares as YOLO has them; its names are spelled in another way than the model's, in another order."""
    folder = squares.parent / "yolo"
    shutil.copytree(squares, folder / "images", ignore=shutil.ignore_patterns("*.json"))
    (folder / "labels").mkdir()
    document = json.loads((squares / "annotations.json").read_text())
    for image in document["images"]:
        lines = [
            f"{entry['category_id'] // 10 - 1} {(entry['bbox'][0] + SIDE_PX / 2) / 128} "
            f"{(entry['bbox'][1] + SIDE_PX / 2) / 128} {SIDE_PX / 128} {SIDE_PX / 128}"
            for entry in document["annotations"]
            if entry["image_id"] == image["id"]
        ]
        (folder / "labels" / image["file_name"]).with_suffix(".txt").write_text("\n".join(lines))
    write_yaml(folder, ["Blue", "GREEN", "crimson"])
    return folder


def write_yaml(folder: Path, names: list[str]) -> None:
    (folder / "data.yaml").write_text(yaml.safe_dump({"train": "images", "val": "images", "names": names}))


def test_eval_scores_the_same_from_another_format(edgeq, tmp_path, squares, yolo):
    finder = save_square_finder(tmp_path / "finder.onnx").path
    by_hand = edgeq(
        "eval", finder, "--annotations", squares / "annotations.json", "--images", squares, "--json", tmp_path / "a"
    )
    assert by_hand.code == 0 and by_hand.err == ""
    outcome = edgeq("eval", finder, "--data", yolo, "--map", "red=crimson", "--json", tmp_path / "b")
    assert outcome.out.startswith("data: YOLO (data.yaml), 3 classes, val: 30 images, 90 boxes\n")
    assert "data.yaml: 3 of the model's 3 classes are in the data; by another name: red=crimson" in outcome.err
    expected, found = (json.loads((tmp_path / name).read_text()) for name in "ab")
    assert expected["AP50"] == pytest.approx(1)
    for name in ("AP", "AP50", "AR_100"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)
    (result,) = package.evaluate(finder, data=yolo, map={"red": "crimson"})
    assert isinstance(result.score, package.DetectionScore)
    assert found["AP"] == result.score.AP and result.annotations == "data.yaml"


def test_eval_says_which_classes_it_could_not_match(edgeq, tmp_path, yolo):
    finder = save_square_finder(tmp_path / "finder.onnx").path
    outcome = edgeq("eval", finder, "--data", yolo, "--json", tmp_path / "b")
    assert outcome.code == 0
    assert (
        "2 of the model's 3 classes are in the data; only in the model, not scored: red; only in the data, never "
        "detected: crimson; --map MODEL=DATA joins two names" in outcome.err
    )
    assert json.loads((tmp_path / "b").read_text())["AP50"] == pytest.approx(2 / 3)
    write_yaml(yolo, ["a", "b", "c"])
    assert "has no categories named 'red'" in edgeq("eval", finder, "--data", yolo).error


def test_images_without_boxes_cannot_be_scored_on(edgeq, tmp_path, yolo):
    finder = save_square_finder(tmp_path / "finder.onnx").path
    assert "is images with 30 images and no box" in edgeq("eval", finder, "--data", yolo / "images").error


def test_calibrate_takes_the_same_images_from_any_data_set(edgeq, tmp_path, yolo):
    finder, images = save_square_finder(tmp_path / "finder.onnx").path, yolo / "images"
    arguments = ["calibrate", finder, "--preset", "centernet", "--method", "minmax", "--num", "6", "--out"]
    assert edgeq(*arguments, tmp_path / "folder.json", "--data", images).code == 0
    listing = tmp_path / "lists" / "list.csv"
    listing.parent.mkdir()
    listing.write_text("".join(f"{path}\n" for path in sorted(images.glob("*.png"))))
    refused = edgeq(*arguments, tmp_path / "list.json", "--data", listing)
    assert "none of its 30 images is in" in refused.error and "--allow-outside" in refused.error
    outcome = edgeq(*arguments, tmp_path / "list.json", "--data", listing, "--allow-outside")
    assert outcome.out.startswith("data: list of images (list.csv), all: 30 images\n")
    folder, listed = (Ranges.load(tmp_path / f"{name}.json") for name in ("folder", "list"))
    assert listed.tensors == folder.tensors
    spread = edgeq(*arguments, tmp_path / "spread.json", "--data", images, "--pick", "spread")
    assert spread.code == 0
    ranges = Ranges.load(tmp_path / "spread.json")
    assert ranges.provenance.images == 6
    assert ranges.provenance.images_digest != folder.provenance.images_digest
    model = package.load(finder, preset="centernet")
    again = package.calibrate(model, images, num=6, method="minmax", pick="spread")
    assert again.tensors == ranges.tensors


def test_export_calibrates_on_the_training_split(edgeq, tmp_path, yolo, monkeypatch):
    seen: list[Path] = []

    def noted(_request: object, *_: object, calibration: object, **__: object) -> None:
        seen.extend(item.path for item in calibration.source)  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    document = {"train": "images/train", "val": "images", "names": ["a", "b", "c"]}
    (yolo / "images" / "train").mkdir()
    shutil.copy(yolo / "images" / "03.png", yolo / "images" / "train" / "only.png")
    (yolo / "data.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setattr("edgeq.verbs.export.export_model", noted)
    assert edgeq("export", tmp_path / "model.onnx", "--precision", "int8", "--data", yolo).code == 130
    assert seen == [yolo / "images" / "train" / "only.png"]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("eval", [], "give --data, or --images"),
        ("eval", ["--images", ".", "--map", "a=b"], "--map"),
        ("eval", ["--images", ".", "--split", "val"], "--split"),
        ("eval", ["--images", ".", "--data", "."], "takes the place of"),
        ("export", ["--calib", ".", "--data", "."], "takes the place of"),
        ("export", ["--allow-outside"], "--allow-outside"),
        ("calibrate", ["images", "--data", "."], "takes the place of"),
    ],
)
def test_options_that_would_do_nothing_are_refused(edgeq, tmp_path, command, arguments, message):
    outcome = edgeq(command, tmp_path / "model.onnx", *arguments)
    assert outcome.code == 2 and message in " ".join(outcome.err.split())


def test_data_tells_everything_that_is_odd(edgeq, tmp_path, yolo):
    (yolo / "images" / "30.png").write_bytes((yolo / "images" / "04.png").read_bytes())
    (yolo / "images" / "31.jpg").write_bytes(b"broken")
    Image.new("RGB", (300, 20)).save(yolo / "images" / "32.png")
    (yolo / "labels" / "05.txt").write_text("7 .5 .5 .1 .1\n0 .5 .5 0 .1\n")
    write_yaml(yolo, ["Blue", "GREEN", "crimson", "nothing"])
    outcome = edgeq("data", yolo, "--split", "val", "--out", tmp_path / "out", "--json", tmp_path / "data.json")
    assert outcome.code == 0 and outcome.err == ""
    assert outcome.out.splitlines() == [
        "data: YOLO (data.yaml), 4 classes, val: 33 images, 87 boxes, 3 without labels (background)",
        "  image sizes: 300x20 to 128x128, median 128x128, 2 sizes",
        "  box sizes: small 100%, medium 0%, large 0%; median 24 pixels square",
        "  classes: Blue 29, GREEN 29, crimson 29, nothing 0",
        "  odd: class ids beyond the names, left out: 1 (the first: labels/05.txt line 1: 7)",
        "  odd: boxes of zero or negative area, left out: 1 (the first: labels/05.txt line 2)",
        "  odd: copies of another image: 1 (the first: images/30.png is images/04.png)",
        f"  odd: images that cannot be read: 1 (the first: {yolo / 'images' / '31.jpg'}: is not an image that Pillow "
        "can read)",
        "  odd: images without labels, taken for background: 3 (the first: images/30.png)",
        "  odd: classes that nothing is of: 1 (the first: 'nothing')",
        f"  contact sheet: {tmp_path / 'out' / 'val.png'}",
    ]
    (split,) = json.loads((tmp_path / "data.json").read_text())["splits"]
    assert (split["images"], split["boxes"], split["background"]) == (33, 87, 3)
    assert split["findings"][0] == {
        "what": "class ids beyond the names, left out", "count": 1, "first": "labels/05.txt line 1: 7",
    }  # fmt: skip
    with Image.open(tmp_path / "out" / "val.png") as sheet:
        # The first image's box of the first class is drawn in the first colour.
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 24) or ()}
    assert {(230, 159, 0), (86, 180, 233), (0, 158, 115)} <= colours


def test_data_finds_images_of_one_split_in_another(edgeq, yolo):
    outcome = edgeq("data", yolo)
    assert "  odd: images that are in the split 'train' too: 30 (the first: images/00.png)" in outcome.out
    (yolo / "data.yaml").write_text(yaml.safe_dump({"train": "gone", "val": "images", "nc": 3}))
    outcome = edgeq("data", yolo)
    assert outcome.code == 0 and "split train cannot be read:" in outcome.out
    assert "which does not exist" in edgeq("data", yolo, "--split", "train").error
