"""EfficientDet of effdet with random weights, against its post-processing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.family_boxes.pairs import Boxes, Pair, Setting, decode, package

_SIZE = (128, 128)
_CLASSES = 90


class _Spread(nn.Module):
    """The network, with scores and boxes that are apart, and hardly any score of exactly 1."""

    def __init__(self, network: Any, inputs: Tensor) -> None:
        super().__init__()
        self.network, self.config = network, network.config
        logits, boxes = (torch.cat([each.flatten() for each in maps]) for maps in network(inputs))
        self._mean, self._factor, self._boxes = logits.mean(), 0.6 / logits.std(), 0.5 / boxes.std()

    def forward(self, inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        logits, boxes = self.network(inputs)
        return [(each - self._mean) * self._factor - 4 for each in logits], [each * self._boxes for each in boxes]


def efficientdet(setting: Setting) -> Iterator[Pair]:
    """EfficientDet-D0 at 128 pixels."""
    effdet, bench = package("effdet"), package("effdet.bench")
    torch.manual_seed(setting.seed)
    config = effdet.get_efficientdet_config("efficientdet_d0")
    config.image_size, config.backbone_name = _SIZE, "efficientnet_b0"
    network = effdet.create_model_from_config(config, bench_task="", pretrained=False, pretrained_backbone=False)
    first = dataclasses.replace(setting, images=setting.images[:24]).opened("efficientdet", _SIZE)
    inputs = torch.cat([torch.from_numpy(each.input) for each in first])
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
            part.reset_running_stats()
    with torch.no_grad():
        network.train()(inputs)
        spread = _Spread(network.eval(), inputs).eval()
    predict = bench.DetBenchPredict(spread).eval()
    for each in setting.opened("efficientdet", _SIZE):
        height, width = each.image.shape[:2]
        taken = torch.from_numpy(each.input)
        info = {
            "img_scale": torch.tensor([1 / each.placement.scale_x]),
            "img_size": torch.tensor([[width, height]], dtype=torch.float32),
        }
        with torch.no_grad():
            logits, boxes = spread(taken)
            rows = predict(taken, info)[0].numpy()
        outputs = {
            "boxes": torch.cat([map.permute(0, 2, 3, 1).reshape(1, -1, 4) for map in boxes], 1).numpy(),
            "scores": torch.cat([map.permute(0, 2, 3, 1).reshape(1, -1, _CLASSES) for map in logits], 1).numpy(),
        }
        wanted = Boxes(rows[:, :4], rows[:, 4], rows[:, 5].astype(int) - 1)
        yield decode(outputs, each.post, each.placement), wanted.cut(each.image)
