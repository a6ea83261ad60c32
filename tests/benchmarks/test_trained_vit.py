"""The ViT that a benchmark trains: on no image that is scored, and with weights that edgeq opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks import trained_vit
from edgeq.sources.model import ModelRequest, open_model


def test_it_is_trained_on_no_image_that_is_scored_and_edgeq_opens_it(tmp_path: Path) -> None:
    (tmp_path / "classification").mkdir()
    rng = np.random.default_rng(0)
    for name, first, count in (("fashionmnist_train2k_calib", 100, 40), ("fashionmnist_test10k", 0, 40)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        images[:, 0, 0] = np.arange(first, first + count)  # says which it is
        np.savez(tmp_path / "classification" / f"{name}.npz", x=images, y=np.arange(count) % 10)
    images, classes = trained_vit.training_images(tmp_path)
    assert sorted(images[:, 0, 0]) == [number for number in range(40) if number % 4] + list(range(100, 140))
    assert classes.shape == (70,)
    said: list[str] = []
    weights = tmp_path / "weights" / "vit.safetensors"
    trained_vit.run(tmp_path, weights, epochs=1, report=said.append)
    assert [line.split(":")[0] for line in said] == ["epoch 1"]
    model = open_model(ModelRequest(trained_vit.SUBJECT.reference, weights, preset=trained_vit.SUBJECT.preset)).model
    assert model.preprocessing.input_shape == (1, 28, 28)
    network = trained_vit.network()
    network.load_state_dict(load_file(weights))
    with torch.no_grad():
        assert network.eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
