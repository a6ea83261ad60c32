"""The two journeys of README.md, pasted: a detector and a data set become a scored INT8 file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.datasets.written import Shown, yolo
from tests.markdown import code_blocks, shell_commands
from tests.sources.heads import save_squares
from tests.sources.yolov8_net import save_yolov8
from tests.test_order import ROOT

NAMES = ("person", "car", "dog")
_MARK = "tests/test_journeys.py runs it"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a newcomer: a data set in YOLO's form, and nothing else."""
    annotations, images = save_squares(tmp_path / "drawn", count=4)
    document = json.loads(annotations.read_text())
    shown = [
        Shown(
            images / each["file_name"],
            (each["width"], each["height"]),
            tuple(
                (NAMES[found["category_id"]], tuple(found["bbox"]))
                for found in document["annotations"]
                if found["image_id"] == each["id"]
            ),
        )
        for each in document["images"]
    ]
    work = tmp_path / "work"
    yolo(shown, work / "dataset", NAMES)
    monkeypatch.chdir(work)
    return work


def journey(model: str, edgeq: Callable[..., Any], folder: Path) -> tuple[str, Any]:
    """Runs the commands of README.md for a model; returns what they said, and the manifest."""
    (block,) = [
        each
        for each in code_blocks((ROOT / "README.md").read_text(encoding="utf-8"))
        if each.not_run == _MARK and model in each.text
    ]
    said = ""
    for command in shell_commands(block.text):
        words = command.expanded(folder)[1:]
        outcome = edgeq(*words)
        # Random weights may find nothing, of which edgeq warns.
        assert outcome.code == 0 or (words[0] == "eval" and "are meaningless" in outcome.err), outcome
        said += outcome.out + outcome.err
    (path,) = (folder / "artifacts").glob("*.onnx.json")
    return said, json.loads(path.read_text())


def test_a_file_of_ultralytics(edgeq: Callable[..., Any], folder: Path) -> None:
    save_yolov8(folder / "yolov8n.onnx", NAMES)
    said, manifest = journey("yolov8n.onnx", edgeq, folder)
    assert (
        "yolov8n.onnx: YOLOv8-style head, 3 classes from the file's metadata, letterbox_center 64, RGB 0..1 "
        "(--preset yolov8)"
    ) in said
    assert "data: YOLO (set.yaml), 3 classes, val: 4 images, 24 boxes" in said
    assert (manifest["precision"], manifest["postprocessing"]["decoder"]) == ("int8", "yolov8")
    assert manifest["labels"] == list(NAMES)
    assert manifest["quantization"]["int8_nodes"] > 20
    assert "AP and AR over 4 images of set.yaml" in said


@pytest.mark.slow
def test_ssdlite_of_torchvision(edgeq: Callable[..., Any], folder: Path) -> None:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    torch.save(network.state_dict(), folder / "ssdlite.pth")
    said, manifest = journey("ssdlite320_mobilenet_v3_large", edgeq, folder)
    assert "ssdlite: torchvision's SSDLite, 90 classes taken as COCO's, stretch 320, RGB 0..1, mean [0.5" in said
    assert (manifest["preprocessing"]["height_px"], manifest["postprocessing"]["decoder"]) == (320, "scored_boxes")
    assert (manifest["labels"][0], len(manifest["labels"])) == ("person", 90)
    assert manifest["quantization"]["int8_nodes"] > 20
    assert "AP and AR over 4 images of set.yaml" in said
