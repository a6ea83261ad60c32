"""From a file as its exporter wrote it to scores, with no file written by hand; and what a wrong preset is told by."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeq.calibration.source import CalibrationSource
from edgeq.errors import InputError
from edgeq.evaluation.evaluate import evaluate_artifacts
from edgeq.exporting.artifact import Artifact, Preprocessing
from edgeq.inputs.presets import shipped_labels
from edgeq.results.evaluation import Suspicion
from edgeq.sources.model import ModelRequest
from edgeq.tasks.detection.coco import GroundTruth, evaluate, load_ground_truth
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.suspicions import find_suspicions
from edgeq.tasks.detection.task import DetectionTask
from edgeq.verbs.export import export_model
from tests.sources.heads import COLOURS, ULTRALYTICS, save_square_finder, save_squares


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_squares(tmp_path_factory.mktemp("squares") / "data")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ap(paths: Sequence[Path], squares: tuple[Path, Path], **options: Any) -> list[float]:
    results = evaluate_artifacts(paths, *squares, runtimes=["onnxruntime"], **options)
    return [result.score.main_value or 0.0 for result in results]


def test_the_journey_of_a_yolov8(edgeq, work: Path, squares: tuple[Path, Path]) -> None:
    save_square_finder(work / "squares.onnx", metadata=ULTRALYTICS)
    annotations, images = squares
    outcome = edgeq(
        "export", "squares.onnx", "--precision", "fp32,int8", "--target", "x86-ort", "--isa", "vnni",
        "--calib", annotations,
        "--images", images,
    )  # fmt: skip
    assert outcome.code == 0
    assert "YOLOv8-style head, 3 classes from the file's metadata" in outcome.err
    manifest = json.loads((work / "artifacts" / "squares.x86-ort.int8.onnx.json").read_text())
    assert manifest["labels"] == list(COLOURS)
    assert manifest["postprocessing"]["decoder"] == "yolov8"
    assert manifest["quantization"]["int8_nodes"] > 0
    assert manifest["preprocessing"]["resize"] == "letterbox_center"
    files = sorted((work / "artifacts").glob("*.onnx"))
    scored = edgeq(
        "eval", *files, "--annotations", annotations, "--images", images, "--runtime", "onnxruntime", "--json", "e.json"
    )
    assert scored.code == 0
    results = json.loads((work / "e.json").read_text())
    assert [result["precision"] for result in results] == ["fp32", "int8"]
    assert all(result["AP"] > 0.95 and "suspicions" not in result for result in results)


def test_annotated_images_decide_between_families(
    tmp_path: Path, squares: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = save_square_finder(tmp_path / "squares.onnx", split=True)
    with caplog.at_level("INFO", logger="edgeq"):
        assert ap([path], squares)[0] > 0.95
    assert "squares.onnx: YOLO-NAS, 3 classes without names" in caplog.text
    assert "by AP on 6 images of squares.json: yolo_nas 1.000, " in caplog.text
    assert "damo_yolo 0.0" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", logger="edgeq"):
        source = CalibrationSource(*squares)
        files = export_model(ModelRequest(str(path)), "x86-ort", ["fp32"], tmp_path / "out", calibration=source).files
    stated = files[0].artifact.preprocessing
    assert stated is not None and (stated.resize, stated.channel_order) == ("letterbox_center", "rgb")
    with pytest.raises(InputError, match=r"fit several families.*`preset` yolo_nas .*`preset` damo_yolo"):
        export_model(ModelRequest(str(path)), "x86-ort", ["fp32"], tmp_path / "out")


def test_images_that_decide_nothing_leave_the_choice_to_the_user(tmp_path: Path, squares: tuple[Path, Path]) -> None:
    path = save_square_finder(tmp_path / "squares.onnx", split=True)
    gray = tmp_path / "gray"
    gray.mkdir()
    for image in squares[1].iterdir():
        Image.new("RGB", (64, 64)).save(gray / image.name)
    with pytest.raises(InputError, match=r"images do not decide .*yolo_nas 0\.000, .*give `preset` yolo_nas"):
        ap([path], (squares[0], gray))


def test_other_preparation_than_the_familys_is_found(
    tmp_path: Path, squares: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = save_square_finder(tmp_path / "squares.onnx")
    swapped = tmp_path / "swapped"
    swapped.mkdir()
    for image in squares[1].iterdir():
        Image.fromarray(np.asarray(Image.open(image))[:, :, ::-1]).save(swapped / image.name)
    with caplog.at_level("INFO", logger="edgeq"):
        assert ap([path], (squares[0], swapped), labels=",".join(COLOURS))[0] > 0.95
    assert "`preset` 'yolov8,channel_order=bgr'" in caplog.text


def test_a_preset_that_is_given_is_taken_at_its_word(tmp_path: Path, squares: tuple[Path, Path]) -> None:
    path = save_square_finder(tmp_path / "squares.onnx")
    assert ap([path], squares, preset="yolov8,channel_order=bgr")[0] < 0.5


def test_a_wrong_preset_is_noticed_and_exits_with_1(edgeq, work: Path, squares: tuple[Path, Path]) -> None:
    save_square_finder(work / "squares.onnx", split=True)
    options = [
        "--annotations",
        squares[0],
        "--images",
        squares[1],
        "--runtime",
        "onnxruntime",
        "--labels",
        "red,green,blue",
    ]
    outcome = edgeq("eval", "squares.onnx", "--preset", "yolo_nas,scale=0.000001", *options, "--json", "e.json")
    assert outcome.code == 1
    assert "no box scores 0.05 on 6 images" in outcome.err
    assert "error: the figures of squares.onnx say nothing" in outcome.err
    (suspicion,) = json.loads((work / "e.json").read_text())["suspicions"]
    assert suspicion["meaningless"] is True
    assert edgeq("eval", "squares.onnx", "--preset", "yolo_nas", *options).code == 0


def shifted(squares: tuple[Path, Path], folder: Path) -> tuple[Path, Path]:
    """Returns the annotations as Roboflow writes them: a category 0 of no boxes before all others."""
    document = json.loads(squares[0].read_text())
    document["categories"] = [{"id": 0, "name": "shapes"}] + [
        entry | {"id": entry["id"] + 1} for entry in document["categories"]
    ]
    document["annotations"] = [entry | {"category_id": entry["category_id"] + 1} for entry in document["annotations"]]
    (folder / "shifted.json").write_text(json.dumps(document))
    return folder / "shifted.json", squares[1]


def test_a_category_without_boxes_that_shifts_the_others_is_named(tmp_path: Path, squares: tuple[Path, Path]) -> None:
    path = save_square_finder(tmp_path / "squares.onnx", split=True)
    data = shifted(squares, tmp_path)
    (result,) = evaluate_artifacts([path], *data, runtimes=["onnxruntime"], preset="yolo_nas", labels="")
    assert result.score.main_value == 0
    (suspicion,) = result.suspicions
    assert suspicion.meaningless and "the category 'shapes' of shifted.json has no boxes" in suspicion.text
    assert "AP is 1.0000 instead of 0.0000" in suspicion.text and "`labels` 'red, green, blue'" in suspicion.text
    assert ap([path], data, preset="yolo_nas", labels="red,green,blue")[0] > 0.95


def suspicions(
    squares: tuple[Path, Path], quantized: bool = False, ap: float | None = 0.0, **changes: Any
) -> list[Suspicion]:
    """Returns what is said about perfect detections, changed in one way."""
    truth = load_ground_truth(squares[0])
    found = {}
    for image in truth.images:
        entries = [entry for entry in truth.annotations if entry["image_id"] == image.id]
        boxes = np.array([entry["bbox"] for entry in entries], np.float32)
        boxes[:, 2:] += boxes[:, :2]
        detections = Detections(
            boxes, np.full(len(boxes), 0.9, np.float32), np.array([entry["category_id"] for entry in entries])
        )
        found[image.id] = dataclasses.replace(
            detections, **{name: change(getattr(detections, name)) for name, change in changes.items()}
        )
    return find_suspicions(truth, found, ap, labels=COLOURS, quantized=quantized)


def test_none_fires_on_a_sound_model(squares: tuple[Path, Path]) -> None:
    assert suspicions(squares, ap=1.0) == []
    assert suspicions(squares, ap=0.2, scores=lambda scores: scores / 4) == []
    assert suspicions(squares, ap=None) == []


@pytest.mark.parametrize(
    ("changes", "text", "meaningless"),
    [
        ({"scores": lambda scores: scores * 0.02}, "no box scores 0.05 on 6 images", True),
        ({"scores": lambda scores: scores * 0 + 1}, "100% of the boxes score 1 or more, as logits do", True),
        (
            {"boxes": lambda boxes: boxes * 0},
            "100% of the boxes are outside their image, or smaller than 4 square",
            True,
        ),
        ({"boxes": lambda boxes: boxes / 64}, "in other units than the decoder expects", True),
        ({"boxes": lambda boxes: boxes + 20}, "AP is 0.0000: none of 36 boxes that score 0.05 or more is where", True),
    ],
)
def test_each_situation_is_told(squares: tuple[Path, Path], changes: Any, text: str, meaningless: bool) -> None:
    found = suspicions(squares, **changes)
    assert any(text in each.text and each.meaningless == meaningless for each in found)


def coco_like(folder: Path, names: Sequence[str]) -> GroundTruth:
    """Writes 40 images with a box of another class each."""
    box = {"bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0}
    document = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 100, "height": 100} for n in range(40)],
        "annotations": [box | {"id": n + 1, "image_id": n, "category_id": n} for n in range(40)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
    }
    (folder / "val.json").write_text(json.dumps(document))
    return load_ground_truth(folder / "val.json")


@pytest.mark.parametrize(
    ("share", "options", "told"),
    [
        (10, {}, True),
        (10, {"quantized": True}, False),
        (10, {"published_ap": None}, False),
        (10, {"classes": tuple(f"class {n}" for n in range(80))}, False),
        (4, {}, False),
    ],
)
def test_a_float_model_far_below_its_family_is_told(
    share: int, options: dict[str, Any], told: bool, tmp_path: Path
) -> None:
    """Boxes are in the right place on one image of `share`: more than nothing."""
    names = options.pop("classes", shipped_labels("coco80"))
    truth = coco_like(tmp_path, names)
    found = {
        n: Detections(
            np.array([[10, 10, 50, 50]] if n % share == 0 else [[60, 60, 90, 90]], np.float32),
            np.full(1, 0.9, np.float32),
            np.array([n]),
        )
        for n in range(40)
    }
    stated: dict[str, Any] = {"quantized": False, "published_ap": (0.258, 0.511)} | options
    suspicions = find_suspicions(truth, found, evaluate(truth, found, range(40)).numbers["AP"], labels=names, **stated)
    assert [each.meaningless for each in suspicions] == [False] * told
    if told:
        text = suspicions[0].text
        assert "AP is 0.1000, and the family's published models reach 0.258 to 0.511 on COCO val2017" in text
        assert "`preset` NAME,channel_order=bgr" in text


def test_one_class_only_is_told_and_figures_of_quantized_files_may_be_so_bad(squares: tuple[Path, Path]) -> None:
    (found,) = suspicions(squares, ap=0.1, classes=lambda classes: classes * 0)
    assert "all 36 boxes are of the class red, the annotations have 3 classes" in found.text
    assert not found.meaningless
    assert not any(
        each.meaningless for each in suspicions(squares, quantized=True, scores=lambda scores: scores * 0.02)
    )


def test_tasks_suspect_nothing_by_default() -> None:
    from edgeq.tasks.classification.task import ClassificationTask

    assert "suspicions" in vars(DetectionTask) and "suspicions" not in vars(ClassificationTask)
    artifact = Artifact(Path("a.onnx"), "onnx", "fp32", "x86", (), (), Preprocessing(8, 8))
    assert ClassificationTask.suspicions(None, artifact, {}, None) == ()  # type: ignore[arg-type]
