"""Ranges depend on the model, the images and what is asked for, and never on which targets happen to be installed."""

from __future__ import annotations

import dataclasses
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeq import registry
from edgeq.calibration.calibrate import calibrate
from edgeq.calibrators.ranges import Ranges
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.graphs.graph import infer_shapes
from edgeq.exporting.onnx.writer import FloatModel, write_int8
from edgeq.inputs.images import list_images
from edgeq.targets import Target, get_target
from edgeq.targets.x86 import X86
from tests.exporting import encoders

HUNGRY = dataclasses.replace(X86, name="hungry", rules=dataclasses.replace(X86.rules, int8_attention="any"))
"""A target whose engine takes every product of activations: edgeq's own take none of heads as small as these."""


@pytest.fixture
def model() -> FloatModel:
    graph = encoders.exported("deit", 18)
    infer_shapes(graph)
    return FloatModel("deit", graph, Preprocessing(16, 16, resize="stretch"))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return list_images(folder)


def install(monkeypatch: pytest.MonkeyPatch) -> Target:
    entry = EntryPoint("hungry", f"{__name__}:HUNGRY", "edgeq.targets")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == "edgeq.targets" else [])
    return get_target("hungry")


def test_an_installed_target_changes_no_ranges_file(
    model: FloatModel, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after, asked = (tmp_path / f"{name}.json" for name in ("before", "after", "asked"))
    calibrate(model, images, before, method="minmax", threads=1)
    target = install(monkeypatch)
    calibrate(model, images, after, method="minmax", threads=1)
    assert after.read_bytes() == before.read_bytes()
    calibrate(model, images, asked, method="minmax", threads=1, targets=[target])
    assert Ranges.load(asked).tensors.keys() > Ranges.load(before).tensors.keys()
    written = write_int8(model, target, tmp_path, Ranges.load(asked), vit_plan="fast")
    assert not any("product" in reason for reason in written.quantization["float_nodes"].values())
