"""Small networks of families that people bring, from torchvision's own classes, with random weights of a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_CLASSES = 7


@dataclass(frozen=True)
class Family:
    """How a network is made, what it takes, and how much of its signal INT8 keeps at least.

    Attributes:
        make: Builds it.
        side: Height and width of its input.
        int8_db: Floor of its signal-to-noise ratio in exact arithmetic, 3 dB below what was measured.
    """

    make: Callable[[], Any]
    side: int
    int8_db: float


def _convnext() -> Any:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)], num_classes=_CLASSES, layer_scale=0.5)


def _swin() -> Any:
    """Two blocks; the second one's windows are shifted and need a mask, and 6 does not divide the 8 tokens a side."""
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer([4, 4], 16, [2], [2], [6, 6], num_classes=_CLASSES)


def _vit() -> Any:
    from torchvision.models.vision_transformer import VisionTransformer

    network = VisionTransformer(32, 8, 1, 2, 32, 64, num_classes=_CLASSES)
    nn.init.normal_(network.heads.head.weight, std=0.2)  # torchvision starts it at zero
    return network


def _mobilenet_v3() -> Any:
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    blocks = [
        InvertedResidualConfig(16, 3, 16, 16, use_se=True, activation="RE", stride=2, dilation=1, width_mult=1),
        InvertedResidualConfig(16, 5, 64, 24, use_se=True, activation="HS", stride=2, dilation=1, width_mult=1),
    ]
    return MobileNetV3(blocks, 64, num_classes=_CLASSES)


def _efficientnet_v2() -> Any:
    from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig

    blocks = [FusedMBConvConfig(2, 3, 2, 16, 24, 1), MBConvConfig(4, 3, 2, 24, 32, 1)]
    return EfficientNet(blocks, dropout=0.1, num_classes=_CLASSES, last_channel=64)


class Detr(nn.Module):
    """Queries that look at a convolution's map ("End-to-End Object Detection with Transformers", Carion et al., 2020).

    It returns a dict, as `transformers`' detectors do.
    """

    def __init__(self, width: int = 32, queries: int = 6) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, width, 3, 2, 1))
        self.positions = nn.Parameter(torch.randn(1, 16, width))
        self.queries = nn.Parameter(torch.randn(1, queries, width))
        self.transformer = nn.Transformer(width, 2, 1, 1, 64, batch_first=True)
        self.classes = nn.Linear(width, _CLASSES + 1)
        self.boxes = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        tokens = self.stem(image).flatten(2).transpose(1, 2) + self.positions
        found = self.transformer(tokens, self.queries.expand(image.shape[0], -1, -1))
        return {"logits": self.classes(found), "pred_boxes": self.boxes(found).sigmoid()}


class GroupNormNet(nn.Module):
    """GroupNorm, InstanceNorm and the tanh form of GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.GELU("tanh"))
        self.second = nn.Sequential(nn.Conv2d(16, 24, 3, 2, 1), nn.InstanceNorm2d(24, affine=True), nn.Mish())
        self.head = nn.Linear(24, _CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(self.second(self.first(image)).amax((2, 3)))
        return scores


class Warp(nn.Module):
    """Samples a map where a convolution points to."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.GELU())
        self.offsets = nn.Conv2d(8, 2, 3, 1, 1)
        self.head = nn.Conv2d(8, 5, 1)
        self.register_buffer("grid", nn.functional.affine_grid(torch.eye(2, 3)[None], [1, 1, 16, 16], False))

    def forward(self, image: Tensor) -> Tensor:
        found = self.features(image)
        where = self.get_buffer("grid") + 0.2 * self.offsets(found).tanh().permute(0, 2, 3, 1)
        warped: Tensor = self.head(nn.functional.grid_sample(found, where, align_corners=False))
        return warped


FAMILIES = {
    "convnext": Family(_convnext, 32, 27),
    "swin": Family(_swin, 32, 42),
    "vit": Family(_vit, 32, 31),
    "mobilenet_v3": Family(_mobilenet_v3, 32, 24),
    "efficientnet_v2": Family(_efficientnet_v2, 32, 28),
    "detr": Family(Detr, 32, 34),
    "group_norm": Family(GroupNormNet, 32, 29),
    "warp": Family(Warp, 16, 35),
}


def images(side: int, count: int, seed: int = 0) -> Tensor:
    """Returns smooth inputs `(count, 3, side, side)` of mean 0 and deviation near 1."""
    noise = torch.randn(count, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(noise, size=(side, side), mode="bilinear")


def family(name: str) -> nn.Module:
    """Returns a network in eval mode whose BatchNorm statistics are those of `images`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = FAMILIES[name].make().eval()
        norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        with torch.no_grad():
            network(images(FAMILIES[name].side, 16, seed=1))
    return network.eval()
