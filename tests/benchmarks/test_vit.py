"""The benchmarks of vision transformers run from the model to the files that they write, on a ViT of three blocks."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks import vit_accuracy, vit_sensitivity, vit_speed
from benchmarks.vit_accuracy import OUTLIERS, STEPS, Study
from edgeq.exporting.planning.keep import VitPlan
from edgeq.inputs.images import list_images, read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.inputs.presets import load_preset
from edgeq.models.zoo import load_model
from edgeq.sources.model import ModelRequest
from tests.benchmarks.conftest import BRIEF, HAS_NNCF, require_nncf, table
from tests.exact import KERNELS_ARE_EXACT

pytestmark = pytest.mark.slow

SIDE_PX = 28


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """The first blocks of the zoo's smallest ViT, with random weights."""
    state = load_model("vit_fashionmnist").state_dict()
    kept = {key: value for key, value in state.items() if not key.startswith(tuple(f"blocks.{n}." for n in (3, 4, 5)))}
    path: Path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    save_file(kept, path)
    return path


@pytest.fixture(scope="module")
def study(weights, tmp_path_factory) -> Study:
    """Four images to calibrate on and three to score on, whose labels are what the float model says."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    for name, count in (("train", 4), ("test", 3)):
        (folder / name).mkdir()
        for number in range(count):
            pixels = rng.integers(0, 256, (SIDE_PX, SIDE_PX), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    model, spec = load_model("vit_fashionmnist", weights), load_preset("fashionmnist").preprocessing
    lines = []
    for path in list_images(folder / "test"):
        with torch.inference_mode():
            found = model(torch.from_numpy(preprocess(read_image(path), spec)[0]))
        lines.append(f"{path.name},{int(found.argmax())}")
    labels = folder / "test" / "labels.csv"
    labels.write_text("\n".join(lines) + "\n")
    return Study(folder, ModelRequest("vit_fashionmnist", weights), folder / "train", labels)


def test_vit_accuracy(study, tmp_path):
    steps = [STEPS[number] for number in (0, 5, 7)]
    assert [step.graph for step in steps] == ["plain", "smooth", "unify"]
    assert {step.plan for step in steps} == {"everything", "balanced"}
    result = vit_accuracy.run(study, tmp_path, steps=steps, outliers=OUTLIERS[-1:], every_bits=((8, 8), (4, 4)))
    lines = [line for line in result.read_text().splitlines() if line.startswith("| ")]
    rows = {line.split(" | ")[0].removeprefix("| "): line.rstrip(" |").split(" | ")[1:] for line in lines}
    assert set(map(float, rows["FP32"])) == {1.0}
    for step in steps:
        scores = [float(score) for score in rows[step.title]]
        assert len(scores) == 3
        assert all(0 <= score <= 1 for score in scores)
    assert len(rows[OUTLIERS[-1].title]) == 3
    assert "dB behind Softmax" in result.read_text()


def test_vit_sensitivity(study, tmp_path):
    parts, blocks = {"qk": "q and k", "fc2": "fc2"}, {"front": "block 0", "": "all blocks"}
    rows = table(vit_sensitivity.run(study, tmp_path, parts=parts, blocks=blocks, every=2))
    assert set(rows) - {("group", "layers")} == {(part, block) for part in parts.values() for block in blocks.values()}
    for (part, block), (eight, four, _) in rows.items():
        if part != "group":
            # What 7 bits leave without VNNI is nearer to 4 bits.
            assert float(eight) > float(four) + (6 if KERNELS_ARE_EXACT else 4), (part, block)
    assert (tmp_path / "vit_sensitivity.svg").read_text().startswith("<?xml")


@pytest.fixture(scope="module")
def speed(weights, new_folder) -> Path:
    peers, folder = vit_speed.PEERS if HAS_NNCF else {}, new_folder("speed")
    return vit_speed.run("vit_fashionmnist", folder, weights=weights, peers=peers, images=2, sampling=BRIEF)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_vit_speed_times_edgeqs_files(speed, runtime):
    rows = table(speed)
    files = ["edgeq's FP32 file", "FP32 as torch exports it", *(f"edgeq x86, {plan}" for plan in get_args(VitPlan))]
    for file in files:
        p50_ms, ratio, _, cosine, size_mb = rows[file, runtime]
        assert float(p50_ms.lstrip("~")) >= 0
        assert float(ratio) > 0
        assert float(cosine) > (0.8 if file.endswith("fast") else 0.99)
        assert float(size_mb) > 0
    assert float(rows["FP32 as torch exports it", runtime][3]) > 0.9999


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_vit_speed_times_nncfs_files(speed, runtime):
    require_nncf()
    rows = table(speed)
    assert rows[vit_speed.NNCF, runtime][2] == "1.00"
    for title in (vit_speed.NNCF, f"{vit_speed.NNCF}, on edgeq's FP32 file"):
        # Calibrated on two smooth images and compared on noise; the logits of another model would be near 0.
        assert float(rows[title, runtime][3]) > 0.5
