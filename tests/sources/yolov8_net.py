"""A small network of YOLOv8's form with random weights of a fixed seed, as its exporter writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, nn

from edgeq.sources.torch_export import export_torch

SIDE = 64
STRIDES = (8, 16, 32)
_BINS = 16


class _Conv(nn.Sequential):
    def __init__(self, taken: int, given: int, kernel: int = 1, stride: int = 1) -> None:
        convolution = nn.Conv2d(taken, given, kernel, stride, kernel // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(given), nn.SiLU())


class _C2f(nn.Module):
    """Two branches, one of which goes through a bottleneck; all of them are joined."""

    def __init__(self, taken: int, given: int) -> None:
        super().__init__()
        half = given // 2
        self.first = _Conv(taken, given)
        self.bottleneck = nn.Sequential(_Conv(half, half, 3), _Conv(half, half, 3))
        self.last = _Conv(3 * half, given)

    def forward(self, features: Tensor) -> Tensor:
        kept, taken = self.first(features).chunk(2, dim=1)
        joined: Tensor = self.last(torch.cat([kept, taken, taken + self.bottleneck(taken)], dim=1))
        return joined


class _Sppf(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _Conv(channels, channels // 2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.last = _Conv(2 * channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        maps = [self.first(features)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        joined: Tensor = self.last(torch.cat(maps, dim=1))
        return joined


class YoloV8(nn.Module):
    """Backbone, one way up, and heads of three strides, whose distributions become boxes in the graph."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_Conv(3, 8, 3, 2), _Conv(8, 16, 3, 2), _C2f(16, 16), _Conv(16, 24, 3, 2))
        self.down = nn.ModuleList([nn.Sequential(_C2f(24, 24)), nn.Sequential(_Conv(24, 32, 3, 2), _C2f(32, 32))])
        self.deepest = nn.Sequential(_Conv(32, 48, 3, 2), _Sppf(48))
        self.up = nn.ModuleList([_C2f(48 + 32, 32), _C2f(32 + 24, 24)])
        widths = (24, 32, 48)
        self.boxes = nn.ModuleList([nn.Sequential(_Conv(w, 16, 3), nn.Conv2d(16, 4 * _BINS, 1)) for w in widths])
        last = [nn.Conv2d(16, classes, 1) for _ in widths]
        for each in last:
            nn.init.normal_(each.weight, std=0.5)
            nn.init.constant_(each.bias, -3.0)  # type: ignore[arg-type]
        self.scores = nn.ModuleList(
            [nn.Sequential(_Conv(w, 16, 3), each) for w, each in zip(widths, last, strict=True)]
        )
        sides = [SIDE // stride for stride in STRIDES]
        points = [
            torch.stack(torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="xy")).flatten(1)
            for side in sides
        ]
        self.register_buffer("points", torch.cat(points, dim=1))
        steps = [torch.full((1, side * side), float(stride)) for side, stride in zip(sides, STRIDES, strict=True)]
        self.register_buffer("steps", torch.cat(steps, dim=1))
        self.register_buffer("bins", torch.arange(_BINS, dtype=torch.float32).view(1, _BINS, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        fine = self.down[0](self.stem(images))
        middle = self.down[1](fine)
        coarse = self.deepest(middle)
        middle = self.up[0](torch.cat([nn.functional.interpolate(coarse, scale_factor=2.0), middle], dim=1))
        fine = self.up[1](torch.cat([nn.functional.interpolate(middle, scale_factor=2.0), fine], dim=1))
        maps = (fine, middle, coarse)
        boxes = torch.cat([head(each).flatten(2) for head, each in zip(self.boxes, maps, strict=True)], dim=2)
        logits = torch.cat([head(each).flatten(2) for head, each in zip(self.scores, maps, strict=True)], dim=2)
        shares = boxes.view(1, 4, _BINS, -1).transpose(1, 2).softmax(dim=1)
        before, behind = (shares * self.get_buffer("bins")).sum(dim=1).chunk(2, dim=1)
        points = self.get_buffer("points")
        centres, sizes = points + (behind - before) / 2, before + behind
        return torch.cat([torch.cat([centres, sizes], dim=1) * self.get_buffer("steps"), logits.sigmoid()], dim=1)


def save_yolov8(path: Path, names: Sequence[str]) -> Path:
    """Writes the network with the properties that Ultralytics' exporter writes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = YoloV8(len(names))
        with torch.no_grad():
            for norm in (part for part in network.modules() if isinstance(part, nn.BatchNorm2d)):
                norm.momentum = 1.0
            network(torch.rand(8, 3, SIDE, SIDE)[:1])
    graph = export_torch(network.eval(), torch.zeros(1, 3, SIDE, SIDE), ("output0",), opset=18)
    graph.metadata_props.update(
        {
            "author": "Ultralytics",
            "description": "Ultralytics YOLOv8n model",
            "stride": "32",
            "task": "detect",
            "batch": "1",
            "imgsz": f"[{SIDE}, {SIDE}]",
            "names": str(dict(enumerate(names))),
        }
    )
    ir.save(graph, path)
    return path
