"""CenterNet on ResNet backbones ("Objects as Points", Zhou et al., 2019; "Simple Baselines", Xiao et al., 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

_LAYERS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}


class CenterNet(nn.Module):
    """A ResNet, three 4x4 deconvolutions of stride 2, and three heads on the map at a quarter of the input's size.

    Key names follow the published `res_18` checkpoints: `conv1`, `bn1`, `layer1..4`, `deconv_layers.N`, `hm.0`, `hm.2`,
    `wh.*`, `reg.*`.

    Args:
        depth: 18, 34, 50 or 101.
        num_classes: Channels of the heatmap.
        widths: Channels of the four ResNet stages before a Bottleneck's expansion; the stem has the first.
        deconv_channels: Channels of the three deconvolutions.
        head_channels: Channels of each head's hidden convolution.
    """

    output_names = ("hm", "wh", "reg")

    def __init__(
        self,
        depth: int = 18,
        num_classes: int = 80,
        widths: Sequence[int] = (64, 128, 256, 512),
        deconv_channels: Sequence[int] = (256, 256, 256),
        head_channels: int = 64,
    ) -> None:
        super().__init__()
        block, counts = _LAYERS[depth]
        self._channels = widths[0]
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = self._stage(block, widths[0], counts[0], 1)
        self.layer2 = self._stage(block, widths[1], counts[1], 2)
        self.layer3 = self._stage(block, widths[2], counts[2], 2)
        self.layer4 = self._stage(block, widths[3], counts[3], 2)
        self.deconv_layers = self._deconvolutions(deconv_channels)
        self.hm = _head(deconv_channels[-1], head_channels, num_classes)
        self.wh = _head(deconv_channels[-1], head_channels, 2)
        self.reg = _head(deconv_channels[-1], head_channels, 2)

    def _stage(self, block: type[BasicBlock | Bottleneck], width: int, count: int, stride: int) -> nn.Sequential:
        channels = width * block.expansion
        downsample = None
        if stride != 1 or self._channels != channels:
            downsample = nn.Sequential(
                nn.Conv2d(self._channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        # torchvision's BasicBlock refuses any base width but 64; Bottleneck's is 64 by default too.
        blocks = [block(self._channels, width, stride, downsample)]
        blocks += [block(channels, width) for _ in range(1, count)]
        self._channels = channels
        return nn.Sequential(*blocks)

    def _deconvolutions(self, widths: Sequence[int]) -> nn.Sequential:
        layers: list[nn.Module] = []
        channels = self._channels
        for width in widths:
            layers += [
                nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        return nn.Sequential(*layers)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns heatmap logits `(N, classes, H/4, W/4)`, sizes and offsets `(N, 2, H/4, W/4)` in cells of the map.

        Args:
            images: `(N, 3, H, W)`, normalised; H and W are multiples of 32.
        """
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        features = self.deconv_layers(features)
        return self.hm(features), self.wh(features), self.reg(features)


def _head(channels: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(hidden, outputs, 1)
    )


def initialise_heatmap(model: CenterNet, prior: float = 0.1) -> None:
    """Sets the heatmap's bias so that an untrained model scores `prior` everywhere (RetinaNet's initialisation)."""
    last = model.hm[-1]
    assert isinstance(last, nn.Conv2d) and last.bias is not None  # noqa: S101 - built a few lines above
    nn.init.constant_(last.bias, -torch.log(torch.tensor((1 - prior) / prior)).item())
