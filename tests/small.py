"""A CenterNet that is small enough for tests, with weights that make something of an image."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from edgeq.inputs.preprocessing import preprocess
from edgeq.inputs.presets import load_preset
from edgeq.models.centernet import CenterNet
from edgeq.tasks.detection.shapes import draw_image

SIZE = (64, 96)


def small_centernet(seed: int) -> CenterNet:
    """Returns a model with random weights and BatchNorms that have seen drawn images, in eval mode."""
    spec = load_preset("centernet", SIZE).preprocessing
    images = [torch.from_numpy(preprocess(draw_image(3, index).pixels, spec)[0]) for index in range(8)]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = CenterNet(18, 6, widths=(16, 32, 64, 96), deconv_channels=(32, 32, 32), head_channels=16)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the plain mean, so that one batch is enough
        model.train()(torch.cat(images))
    return model.eval()


def save_small_centernet(path: Path, seed: int, metadata: dict[str, str] | None = None) -> Path:
    """Writes its weights and returns their path."""
    save_file(small_centernet(seed).state_dict(), path, metadata)
    return path
