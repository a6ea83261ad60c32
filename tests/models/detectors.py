"""torchvision's detectors on a backbone of three layers, with random weights of a fixed seed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SIZE = (64, 96)
CLASSES = 4


class TinyPyramid(nn.Module):
    """Two maps of 32 channels, at strides 16 and 32."""

    out_channels: Any = 32

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU(), nn.Conv2d(8, 32, 3, stride=4, padding=1), nn.ReLU()
        )
        self.deeper = nn.Sequential(nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.ReLU())

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        fine = self.stem(images)
        return OrderedDict([("0", fine), ("1", self.deeper(fine))])


class TinySsdBackbone(TinyPyramid):
    """The same, with as many numbers of channels as there are maps, as SSD wants it."""

    out_channels: Any = (32, 32)


def _ssd() -> Any:
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD

    anchors = DefaultBoxGenerator([[2], [2, 3]])
    limits = {"score_thresh": 0.2, "nms_thresh": 0.45, "detections_per_img": 50, "topk_candidates": 20}
    return SSD(TinySsdBackbone(), anchors, SIZE[::-1], CLASSES, image_mean=[0.5] * 3, image_std=[0.25] * 3, **limits)


def _anchors(sizes: tuple[int, ...]) -> Any:
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    return AnchorGenerator(tuple((size,) for size in sizes), ((0.5, 1.0, 2.0),) * 2)


def _retinanet() -> Any:
    from torchvision.models.detection.retinanet import RetinaNet

    limits = {"score_thresh": 0.3, "nms_thresh": 0.5, "detections_per_img": 50}
    scaled = {"min_size": SIZE[0], "max_size": SIZE[1], "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    return RetinaNet(TinyPyramid(), CLASSES, anchor_generator=_anchors((16, 32)), **scaled, **limits)


def _fcos() -> Any:
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.fcos import FCOS

    points = AnchorGenerator(((16,), (32,)), ((1.0,), (1.0,)))
    limits = {"score_thresh": 0.2, "nms_thresh": 0.6, "detections_per_img": 50}
    scaled = {"min_size": SIZE[0], "max_size": SIZE[1], "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    return FCOS(TinyPyramid(), CLASSES, anchor_generator=points, **scaled, **limits)


def _faster_rcnn() -> Any:
    from torchvision.models.detection import FasterRCNN
    from torchvision.ops import MultiScaleRoIAlign

    pool = MultiScaleRoIAlign(["0", "1"], output_size=3, sampling_ratio=2)
    return FasterRCNN(TinyPyramid(), CLASSES, rpn_anchor_generator=_anchors((16, 32)), box_roi_pool=pool)


DETECTORS: dict[str, Callable[[], Any]] = {
    "ssd": _ssd,
    "retinanet": _retinanet,
    "fcos": _fcos,
    "faster_rcnn": _faster_rcnn,
}


def detector(name: str) -> nn.Module:
    """Returns a detector whose heads answer differently at every place, as those of a trained one do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module: nn.Module = DETECTORS[name]().eval()
        for key, value in module.named_parameters():
            if value.ndim == 4:
                nn.init.normal_(value, std=(2 / value[0].numel()) ** 0.5)
            elif key.endswith("bias"):
                nn.init.normal_(value, std=0.1)
    return module


def pictures(count: int) -> Tensor:
    """Returns images `(count, 3, H, W)` in 0..1."""
    noise = torch.rand(count, 3, 8, 12, generator=torch.Generator().manual_seed(3))
    return nn.functional.interpolate(noise, size=SIZE, mode="bicubic").clamp(0, 1)


def normalised(images: Tensor) -> Tensor:
    """Returns images as the detectors' pre-processing leaves them."""
    return (images - 0.5) / 0.25
