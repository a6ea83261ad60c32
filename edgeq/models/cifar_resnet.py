"""The small ResNets for CIFAR-10 images ("Deep Residual Learning", He et al., 2016, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_WIDTHS = (16, 32, 64)


class CifarResNet(nn.Module):
    """A 3x3 convolution, three stages of basic blocks at 16, 32 and 64 channels, an average and a linear layer.

    Where a stage halves the map, its shortcut takes every other pixel and fills the new channels with zeros (option A
    of the paper). Key names follow the published `resnet20` checkpoints: `conv1`, `bn1`, `layer1..3.N`, `linear`.

    Args:
        depth: 6n + 2 layers: 20, 32, 44, 56 or 110.
        num_classes: Classes.
    """

    output_names = ("scores",)

    def __init__(self, depth: int = 20, num_classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.layer1 = _stage(_WIDTHS[0], _WIDTHS[0], blocks)
        self.layer2 = _stage(_WIDTHS[0], _WIDTHS[1], blocks)
        self.layer3 = _stage(_WIDTHS[1], _WIDTHS[2], blocks)
        self.linear = nn.Linear(_WIDTHS[2], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `(N, classes)`.

        Args:
            images: `(N, 3, H, W)`, normalised; 32x32 as published.
        """
        features = torch.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self._stride = outputs // inputs
        self._new_channels = (outputs - inputs) // 2  # on either side
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self._stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self._stride > 1:
            channels = [0, 0, 0, 0, self._new_channels, self._new_channels]
            x = nn.functional.pad(x[:, :, :: self._stride, :: self._stride], channels)
        return torch.relu(branch + x)


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(_Block(inputs, outputs), *(_Block(outputs, outputs) for _ in range(1, blocks)))
