"""From a file as its exporter wrote it to scores, with no file written by hand; and what a wrong preset is told by."""

from __future__ import annotations

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
from edgeq.sources.model import ModelRequest
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
    assert "error: the figures of squares.onnx are meaningless" in outcome.err
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
