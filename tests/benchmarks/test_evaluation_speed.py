"""Smoke test of the benchmark of evaluations, and its random models: decoders read what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import evaluation_speed
from benchmarks.evaluation_speed import SIDE, SUBJECTS
from edgeq.files import write_text
from edgeq.inputs.preprocessing import Placement
from edgeq.inputs.presets import load_preset
from edgeq.tasks import find_decoder
from edgeq.tasks.detection.shapes import draw_shapes_dataset
from tests.workspace import save_yolox


def test_a_row_says_what_was_measured(tmp_path: Path) -> None:
    draw_shapes_dataset(tmp_path / "coco" / "val2017", images=2, seed=5).unlink()
    (tmp_path / "weights").mkdir()
    save_yolox(tmp_path / "weights" / "yolox_nano_coco_416.onnx")
    result = evaluation_speed.run(tmp_path, ["detection"], tmp_path, 2, tmp_path / "work", rounds=1)
    row = next(line for line in result.read_text().splitlines() if line.startswith("| detection, YOLOX-nano"))
    figures = [float(cell) for cell in row.strip("|").split("|")[1:]]
    assert len(figures) == 7
    assert min(figures) >= 0
    assert 0 < figures[-1] <= 1


@pytest.mark.parametrize("name", [name for name, subject in SUBJECTS.items() if subject.heads])
def test_a_random_model_says_what_its_decoder_reads(name: str, tmp_path: Path) -> None:
    subject = SUBJECTS[name]
    assert subject.heads is not None
    preset = subject.preset
    if "\n" in preset:
        preset = str(tmp_path / "preset.toml")
        write_text(Path(preset), subject.preset)
    post = load_preset(preset, (SIDE, SIDE)).postprocessing
    assert post is not None
    with torch.no_grad():
        said = evaluation_speed._network(subject)(torch.zeros(1, 3, SIDE, SIDE))
    outputs = {key: np.asarray(value) for key, value in zip(subject.heads, said, strict=True)}
    find_decoder(post).decode(outputs, post, Placement(SIDE, SIDE, SIDE, SIDE, 1, 1, 0, 0))
