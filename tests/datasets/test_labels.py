"""Data sets with a class per image, for classifiers: folders, lists and arrays."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeq.datasets import open_split
from edgeq.errors import InputError
from edgeq.evaluation.evaluate import evaluate_artifacts
from edgeq.tasks.classification.records import ClassificationScore
from tests.evaluation.test_evaluate_classifiers import COLOURS, colours, save_colour_finder

__all__ = ["colours"]


def top1(tmp_path: Path, data: Path, **changes: object) -> float | None:
    artifact = save_colour_finder(tmp_path / "net.onnx", **changes)  # type: ignore[arg-type]
    split = open_split(data, "evaluation")
    (result,) = evaluate_artifacts([artifact.path], data=split, runtimes=["onnxruntime"])
    assert isinstance(result.score, ClassificationScore) and result.images == 30
    return result.score.top1


def test_folders_lists_and_arrays_score_the_same(tmp_path: Path, colours: Path) -> None:
    paths = sorted(colours.rglob("*.png"))
    listing = colours / "all.csv"
    rows = [f"{path.relative_to(colours)},test,{path.parent.name.upper()}" for path in paths]
    listing.write_text("\n".join(["file,split,label", *rows]))
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    classes = np.array([COLOURS.index(path.parent.name) for path in paths])
    np.savez(tmp_path / "colours_test.npz", x=pixels, y=classes)
    np.savez(tmp_path / "first.npz", images=pixels.transpose(0, 3, 1, 2), labels=classes)
    split = open_split(listing, "evaluation")
    assert split.describe() == "list of images (all.csv), 3 classes, test: 30 images"
    for data in (listing, tmp_path / "colours_test.npz", tmp_path / "first.npz"):
        assert top1(tmp_path, data) == pytest.approx(0.9)
    listing.unlink()
    assert open_split(colours, "evaluation").describe() == "image folder (colours), 3 classes, all: 30 images"
    assert top1(tmp_path, colours) == pytest.approx(0.9)


def test_names_of_folders_are_matched_by_spelling(tmp_path: Path, colours: Path) -> None:
    (colours / "red").rename(colours / "Deep_Red")
    assert top1(tmp_path, colours, labels=("deep red", "GREEN", "Blue")) == pytest.approx(0.9)
    with pytest.raises(InputError, match="has a class 'Deep_Red', which the model does not know"):
        top1(tmp_path, colours)


def test_folders_are_classes_by_position_aloud(tmp_path: Path, colours: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, name in enumerate(COLOURS):
        (colours / name).rename(colours / f"{'abc'[number]}_{name}")
    assert top1(tmp_path, colours, labels=()) == pytest.approx(0.9)
    assert "the folders a_red, b_green, ... are its classes 0, 1, ... by position" in caplog.text


def test_splits_of_folders_are_found(tmp_path: Path, colours: Path) -> None:
    shutil.copytree(colours, tmp_path / "set" / "train")
    shutil.copytree(colours / "blue", tmp_path / "set" / "val" / "blue")
    shutil.copytree(colours / "red", tmp_path / "set" / "val" / "red")
    assert open_split(tmp_path / "set", "calibration").describe().endswith("3 classes, train: 30 images")
    assert open_split(tmp_path / "set", "evaluation").describe().endswith("2 classes, val: 17 images")


def test_a_few_images_beside_the_folders_are_left_out_aloud(tmp_path: Path, colours: Path) -> None:
    image = next((colours / "red").iterdir())
    for name in ("preview.png", "grid.png"):
        shutil.copy(image, colours / name)
    split = open_split(colours, "evaluation")
    assert (split.class_folders, len(split.images)) == (True, 30)
    assert split.findings.lines == ["images next to the folders of classes, left out: 2 (the first: grid.png)"]
    shutil.copy(image, colours / "third.png")  # as many as folders: they may be what is meant
    assert not open_split(colours, "evaluation").class_folders


def test_images_without_classes_are_refused(tmp_path: Path, colours: Path) -> None:
    with pytest.raises(InputError, match="is images without a class per image"):
        top1(tmp_path, colours / "red")


def test_arrays_of_other_kinds_are_refused(tmp_path: Path) -> None:
    kinds: dict[str, dict[str, NDArray[Any]]] = {
        "float": {"x": np.zeros((2, 4, 4))},
        "short": {"x": np.zeros((2, 4, 4), np.uint8), "y": np.zeros(3)},
        "wide": {"x": np.zeros((2, 4, 4, 5), np.uint8)},
        "none": {"z": np.zeros(3)},
        "objects": {"x": np.array([{}], object)},
    }
    for name, arrays in kinds.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=rf"{name}\.npz: (holds|cannot be read)"):
            open_split(tmp_path / f"{name}.npz", "evaluation")
