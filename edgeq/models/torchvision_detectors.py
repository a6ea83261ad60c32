"""torchvision's detectors as networks of tensors: images in, the boxes and scores of every anchor out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgeq.errors import ModelError

_BASE = "torchvision.models.detection"


def wrap_detector(module: nn.Module, example: Tensor) -> nn.Module:
    """Returns a network with tensors in and out if the module is one of torchvision's detectors, else the module.

    torchvision's own `forward` takes a list of images of any size, normalises and resizes them, and returns as many
    boxes as it finds. The network here takes `(N, 3, H, W)`, normalised, and returns `boxes` `(N, anchors, 4)` (left,
    top, right, bottom in pixels of the input, not cut at its edges) and `scores` `(N, anchors, classes)` in 0..1, with
    class indices as torchvision's labels. Anchors are constants. What the preset's pre-processing and the decoder
    `scored_boxes` do around it is what torchvision does in `forward`.

    Args:
        module: In eval mode.
        example: An input `(1, 3, H, W)`, which fixes the anchors.

    Raises:
        ModelError: the detector has two stages, or cannot take an input of this size.
    """
    # A module of torchvision's classes exists only where torchvision is loaded: it need not be imported for others.
    if _is(module, "generalized_rcnn", "GeneralizedRCNN"):
        raise ModelError(
            f"{type(module).__name__} has two stages, and how many regions reach its second one depends on the image, "
            "so that torch.export cannot trace it and no output has a fixed shape; take a detector of one stage (SSD, "
            "SSDLite, RetinaNet, FCOS), or write an ONNX file with torch.onnx.export(..., dynamo=False) and export it "
            "with `preset` faster_rcnn"
        )
    for file, name, network in (
        ("ssd", "SSD", _Ssd),
        ("retinanet", "RetinaNet", _RetinaNet),
        ("fcos", "FCOS", _Fcos),
    ):
        if _is(module, file, name):
            _check_sides(module, example)
            try:
                return network(module, example).eval()
            except RuntimeError as error:
                height, width = example.shape[2:]
                reason = str(error).splitlines()[0]
                raise ModelError(
                    f"{name} cannot take an input of {height}x{width}: {type(error).__name__}: {reason}"
                ) from error
    return module


@dataclass(frozen=True)
class OwnInput:
    """What a detector makes of images itself, in `forward`.

    Attributes:
        size: Height and width that it stretches every image to; `None` if it keeps their aspect ratio.
        mean: What it subtracts from the channels of pixels in 0..1.
        std: What it divides them by after that.
    """

    size: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


def own_input(module: nn.Module) -> OwnInput | None:
    """Returns what one of torchvision's detectors makes of images; `None` for any other module."""
    transform: Any = getattr(module, "transform", None)
    if not _is(transform, "transform", "GeneralizedRCNNTransform"):
        return None
    # torchvision gives the width first.
    size = None if transform.fixed_size is None else (int(transform.fixed_size[1]), int(transform.fixed_size[0]))
    return OwnInput(size, tuple(map(float, transform.image_mean)), tuple(map(float, transform.image_std)))


def _is(module: nn.Module | None, file: str, name: str) -> bool:
    loaded = sys.modules.get(f"{_BASE}.{file}")
    return loaded is not None and isinstance(module, getattr(loaded, name))


def _check_sides(module: Any, example: Tensor) -> None:
    multiple = module.transform.size_divisible
    height, width = example.shape[2:]
    if height % multiple or width % multiple:
        raise ModelError(
            f"{type(module).__name__} needs sides that are multiples of {multiple}, as torchvision pads images to; "
            f"found an input of {height}x{width}"
        )


class _OneStage(nn.Module):
    """Backbone and heads of a detector, with the anchors of one input size."""

    output_names = ("boxes", "scores")
    centers: Tensor
    sizes: Tensor

    def __init__(self, detector: Any, example: Tensor) -> None:
        super().__init__()
        from torchvision.models.detection.image_list import ImageList

        self.backbone = detector.backbone
        self.head = detector.head
        with torch.no_grad():
            image = ImageList(example, [(example.shape[2], example.shape[3])])
            (anchors,) = detector.anchor_generator(image, self.features(example))
        self.register_buffer("centers", (anchors[:, :2] + anchors[:, 2:]) / 2)
        self.register_buffer("sizes", anchors[:, 2:] - anchors[:, :2])

    def features(self, images: Tensor) -> list[Tensor]:
        """Returns one map `(N, C, H, W)` per level."""
        maps = self.backbone(images)
        return [maps] if isinstance(maps, Tensor) else list(maps.values())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        heads = self.head(self.features(images))
        return self.boxes(heads["bbox_regression"]), self.scores(heads)

    def boxes(self, regression: Tensor) -> Tensor:
        """Returns boxes `(N, anchors, 4)` of what the head regresses."""
        raise NotImplementedError

    def scores(self, heads: Mapping[str, Tensor]) -> Tensor:
        """Returns class scores `(N, anchors, classes)`."""
        raise NotImplementedError


class _AnchorBased(_OneStage):
    """Boxes as shifts and logarithmic scales of anchors ("Faster R-CNN", Ren et al., 2015)."""

    def __init__(self, detector: Any, example: Tensor) -> None:
        super().__init__(detector, example)
        self._weights = detector.box_coder.weights
        self._limit = detector.box_coder.bbox_xform_clip

    def boxes(self, regression: Tensor) -> Tensor:
        weights = regression.new_tensor(self._weights)
        centers = self.centers + regression[..., :2] * (self.sizes / weights[:2])
        halves = (regression[..., 2:] / weights[2:]).clamp(max=self._limit).exp() * (self.sizes / 2)
        return torch.cat([centers - halves, centers + halves], dim=-1)


class _Ssd(_AnchorBased):
    """SSD and SSDLite: class 0 is the background."""

    def scores(self, heads: Mapping[str, Tensor]) -> Tensor:
        return heads["cls_logits"].softmax(dim=-1)


class _RetinaNet(_AnchorBased):
    def scores(self, heads: Mapping[str, Tensor]) -> Tensor:
        return heads["cls_logits"].sigmoid()


class _Fcos(_OneStage):
    """Boxes as distances from a point to their sides ("FCOS", Tian et al., 2019)."""

    def __init__(self, detector: Any, example: Tensor) -> None:
        super().__init__(detector, example)
        self._relative = detector.box_coder.normalize_by_size

    def boxes(self, regression: Tensor) -> Tensor:
        unit = torch.cat([self.sizes, self.sizes], dim=-1) if self._relative else torch.ones_like(self.sizes[:, :1])
        distances = regression * unit
        return torch.cat([self.centers - distances[..., :2], self.centers + distances[..., 2:]], dim=-1)

    def scores(self, heads: Mapping[str, Tensor]) -> Tensor:
        return (heads["cls_logits"].sigmoid() * heads["bbox_ctrness"].sigmoid()).sqrt()
