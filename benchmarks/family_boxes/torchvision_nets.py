"""torchvision's detectors: whole, on a small backbone whose maps have the sizes of their own, with random weights."""

from __future__ import annotations

import dataclasses
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.family_boxes.files import session_of
from benchmarks.family_boxes.pairs import Boxes, Pair, Setting, decode
from edgeq.inputs.images import read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.inputs.presets import load_preset
from edgeq.models.outputs import tensor_outputs

SIDES = (256, 352)
"""Smaller and larger side of an image inside RetinaNet, FCOS and Faster R-CNN."""
_CLASSES = 91  # COCO's ids, and the background


class _Pyramid(nn.Module):
    """Maps of few channels, either of fixed sizes or one for each stride."""

    def __init__(self, channels: Sequence[int], sides: Sequence[int] = (), strides: Sequence[int] = ()) -> None:
        super().__init__()
        self._sides, self._strides = sides, strides
        self.out_channels: Any = channels[0] if strides else list(channels)
        self.convolutions = nn.ModuleList(nn.Conv2d(3, count, 3, padding=1) for count in channels)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Returns the maps by their number."""
        height, width = images.shape[2:]
        sizes = [(side, side) for side in self._sides]
        sizes += [(-(-height // stride), -(-width // stride)) for stride in self._strides]
        pooled = (nn.functional.adaptive_avg_pool2d(images, size) for size in sizes)
        maps = (torch.relu(layer(each)) for layer, each in zip(self.convolutions, pooled, strict=True))
        return OrderedDict((str(number), each) for number, each in enumerate(maps))


class _Strided(nn.Module):
    """Two maps of 32 channels, at strides 16 and 32, whose sizes a tracer can follow."""

    out_channels: Any = 32

    def __init__(self) -> None:
        super().__init__()
        stem = (nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 32, 3, 4, 1), nn.ReLU())
        self.fine, self.coarse = nn.Sequential(*stem), nn.Sequential(nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU())

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        fine = self.fine(images)
        return OrderedDict([("0", fine), ("1", self.coarse(fine))])


class _Spread(nn.Module):
    """A head whose answers are as far apart as those of a trained one: `logits * factor + shift`."""

    def __init__(self, head: nn.Module, factor: float, shift: float, boxes: float) -> None:
        super().__init__()
        self.head, self._factor, self._shift, self._boxes = head, factor, shift, boxes

    def forward(self, *maps: Any) -> dict[str, Tensor]:
        answers = dict(self.head(*maps))
        answers["cls_logits"] = answers["cls_logits"] * self._factor + self._shift
        answers["bbox_regression"] = answers["bbox_regression"] * self._boxes
        return answers


def _tensor(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def _initialise(network: Any, examples: Sequence[Tensor], deviation: float, mean: float | None, boxes: bool) -> None:
    """Draws weights that keep the signal, and spreads scores to a deviation, around a mean if there is one."""
    for name, value in network.named_parameters():
        if value.ndim == 4:
            nn.init.kaiming_normal_(value)
        elif "head" in name:
            nn.init.normal_(value, std=0.5)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    with torch.no_grad():
        maps = network.transform(list(examples))[0].tensors
        for norm in norms:
            norm.train()
            norm.momentum = None
            norm.reset_running_stats()
        answers = network.head(list(network.backbone(maps).values()))
        network.eval()
        answers = network.head(list(network.backbone(maps).values()))
    logits = answers["cls_logits"]
    factor = deviation / float(logits.std())
    shift = 0.0 if mean is None else mean - factor * float(logits.mean())
    network.head = _Spread(network.head, factor, shift, 1 / float(answers["bbox_regression"].std()) if boxes else 1.0)


def _one_stage(
    network: Any, preset: str, size: tuple[int, int] | None, setting: Setting, *spread: Any
) -> Iterator[Pair]:
    """Yields what torchvision's `forward` finds, and the decoder in the outputs of all anchors.

    Args:
        network: The detector.
        preset: What reads it.
        size: Of its input; `None` for one that depends on the image's sides.
        setting: The images.
        spread: Deviation and mean of its logits, and whether the boxes' answers are scaled as well.
    """
    _initialise(network, [_tensor(read_image(path)) for path in setting.images[:4]], *spread)
    networks: dict[tuple[int, ...], nn.Module] = {}
    loaded = load_preset(preset, size or SIDES)
    post = loaded.postprocessing
    assert post is not None
    background = int("background" in post.options)
    for path in setting.images:
        image = read_image(path)
        height, width = size or (SIDES if image.shape[1] >= image.shape[0] else SIDES[::-1])
        prepared = dataclasses.replace(loaded.preprocessing, height_px=height, width_px=width)
        with torch.no_grad():
            taken = network.transform([_tensor(image)])[0].tensors
            shape = tuple(taken.shape[2:])
            if shape not in networks:
                networks[shape] = tensor_outputs(network, torch.zeros(1, 3, *shape))
            (wanted,) = network([_tensor(image)])
            boxes, scores = networks[shape](taken)
        placement = dataclasses.replace(
            preprocess(image, prepared)[1], input_height_px=shape[0], input_width_px=shape[1]
        )
        found = decode({"boxes": boxes.numpy(), "scores": scores.numpy()}, post, placement)
        reference = (wanted[name].numpy() for name in ("boxes", "scores", "labels"))
        places, levels, labels = reference
        yield found, Boxes(places, levels, labels - background)


def ssdlite(setting: Setting) -> Iterator[Pair]:
    """SSDLite with MobileNetV3, all of it torchvision's."""
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    torch.manual_seed(setting.seed)
    network = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    yield from _one_stage(network, "ssdlite", (320, 320), setting, 2.5, None, True)


def ssd300(setting: Setting) -> Iterator[Pair]:
    """SSD300 with the anchors of `ssd300_vgg16`."""
    from torchvision.models.detection import ssd
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

    torch.manual_seed(setting.seed)
    ratios = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    scales, steps = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05], [8, 16, 32, 64, 100, 300]
    anchors = DefaultBoxGenerator(ratios, scales=scales, steps=steps)
    head = ssd.SSDHead([16] * 6, anchors.num_anchors_per_location(), _CLASSES)
    means, deviations = [0.48235, 0.45882, 0.40784], [1 / 255] * 3
    network = ssd.SSD(
        _Pyramid([16] * 6, [38, 19, 10, 5, 3, 1]),
        anchors,
        (300, 300),
        _CLASSES,
        head=head,
        image_mean=means,
        image_std=deviations,
    )
    yield from _one_stage(network.eval(), "ssd300", (300, 300), setting, 1.0, None, False)


def retinanet(setting: Setting) -> Iterator[Pair]:
    """RetinaNet with the anchors of `retinanet_resnet50_fpn`."""
    from torchvision.models.detection import retinanet as module

    torch.manual_seed(setting.seed)
    backbone = _Pyramid([32] * 5, strides=(8, 16, 32, 64, 128))
    network = module.RetinaNet(backbone, _CLASSES, min_size=SIDES[0], max_size=SIDES[1]).eval()
    yield from _one_stage(network, "retinanet", None, setting, 0.6, -4.0, True)


def fcos(setting: Setting) -> Iterator[Pair]:
    """FCOS with the points of `fcos_resnet50_fpn`."""
    from torchvision.models.detection import fcos as module

    torch.manual_seed(setting.seed)
    backbone = _Pyramid([32] * 5, strides=(8, 16, 32, 64, 128))
    network = module.FCOS(backbone, _CLASSES, min_size=SIDES[0], max_size=SIDES[1]).eval()
    yield from _one_stage(network, "fcos", None, setting, 1.2, -3.0, False)


def faster_rcnn(setting: Setting) -> Iterator[Pair]:
    """Faster R-CNN as an ONNX file in ONNX Runtime, with both suppressions in the graph, against the same in torch."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    torch.manual_seed(setting.seed)
    anchors = AnchorGenerator(((16,), (32,)), ((0.5, 1.0, 2.0),) * 2)
    pool = MultiScaleRoIAlign(["0", "1"], output_size=3, sampling_ratio=2)
    limits = {"min_size": SIDES[0], "max_size": SIDES[1], "box_score_thresh": 0.05}
    network = FasterRCNN(_Strided(), 4, rpn_anchor_generator=anchors, box_roi_pool=pool, **limits).eval()
    for name, value in network.named_parameters():
        if value.ndim == 4:
            nn.init.normal_(value, std=(2 / value[0].numel()) ** 0.5)
        elif name.endswith("bias"):
            nn.init.normal_(value, std=0.1)
    setting.work.mkdir(parents=True, exist_ok=True)
    file = setting.work / f"faster_rcnn_{setting.seed}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the tracer takes for constants
        example = torch.rand(3, *SIDES)
        torch.onnx.export(
            network,
            ([example],),
            str(file),
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["boxes", "labels", "scores"],
        )
    run = session_of(file)
    for each in setting.opened("faster_rcnn,first_class=1", SIDES):
        with torch.no_grad():
            wanted = network([torch.from_numpy(each.input[0])])[0]
        outputs = run(each.input[0])
        boxes = each.placement.to_image(wanted["boxes"].numpy())
        reference = Boxes(boxes, wanted["scores"].numpy(), wanted["labels"].numpy() - 1)
        yield decode(outputs, each.post, each.placement), reference
