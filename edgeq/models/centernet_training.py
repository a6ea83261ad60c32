"""What a CenterNet learns from: targets drawn from boxes, and the loss against them.

"Objects as Points" (Zhou et al., 2019); the focal loss and the Gaussians are those of "CornerNet" (Law and Deng, 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

STRIDE = 4  # input pixels a cell of the output maps

_MIN_OVERLAP = 0.7
_SIZE_WEIGHT, _OFFSET_WEIGHT = 0.1, 1.0
_FOCUS, _PENALTY_REDUCTION = 2, 4  # alpha and beta of CornerNet's equation 1


@dataclass(frozen=True)
class Targets:
    """What the maps should be for a batch of N images with K objects in all.

    Attributes:
        heatmap: `(N, classes, H, W)`, 1 at centres and less around them.
        cells: `(3, K)` int64: image, row and column of each object's centre.
        sizes: `(K, 2)` width and height in cells.
        offsets: `(K, 2)` x and y of the centre within its cell, 0 to 1.
    """

    heatmap: Tensor
    cells: Tensor
    sizes: Tensor
    offsets: Tensor


def encode_targets(
    boxes: list[NDArray[np.float32]], labels: list[NDArray[np.int64]], classes: int, height_px: int, width_px: int
) -> Targets:
    """Returns the targets of a batch.

    Args:
        boxes: For each image `(K, 4)` left, top, right, bottom in the input's pixels.
        labels: For each image `(K,)` class indices.
        classes: Channels of the heatmap.
        height_px: Height of the input.
        width_px: Width of the input.
    """
    height, width = height_px // STRIDE, width_px // STRIDE
    heatmap = np.zeros((len(boxes), classes, height, width), np.float32)
    images = np.repeat(np.arange(len(boxes)), [len(image) for image in boxes])
    edges = np.concatenate(boxes).reshape(-1, 4) / STRIDE
    sizes = edges[:, 2:] - edges[:, :2]
    centres = (edges[:, :2] + edges[:, 2:]) / 2
    cells = np.clip(centres.astype(np.int64), 0, [width - 1, height - 1])
    for image, label, (column, row), size in zip(images, np.concatenate(labels), cells, sizes, strict=True):
        draw_gaussian(heatmap[image, label], row, column, gaussian_radius(*size))
    return Targets(
        torch.from_numpy(heatmap),
        torch.from_numpy(np.stack([images, cells[:, 1], cells[:, 0]])),
        torch.from_numpy(sizes.astype(np.float32)),
        torch.from_numpy((centres - cells).astype(np.float32)),
    )


def gaussian_radius(width: float, height: float) -> int:
    """Returns how far a centre may be off, in whole cells, as the published code of CornerNet and CenterNet has it.

    That code takes the least of three radii that keep an overlap of 0.7, and leaves out a division while it solves
    their quadratic equations. So the third is always the least, and its radii are 2.8 times what the paper derives;
    the published networks were trained on them.
    """
    around = _MIN_OVERLAP * (width + height)
    return int(math.sqrt(around**2 + 4 * _MIN_OVERLAP * (1 - _MIN_OVERLAP) * width * height) - around)


def draw_gaussian(heatmap: NDArray[np.float32], row: int, column: int, radius: int) -> None:
    """Raises a map `(H, W)` in place to a Gaussian of height 1 around a cell; three deviations make the radius."""
    steps = np.arange(-radius, radius + 1)
    curve = np.exp(-(steps**2) / (2 * ((2 * radius + 1) / 6) ** 2))
    height, width = heatmap.shape
    rows = steps[(row + steps >= 0) & (row + steps < height)]
    columns = steps[(column + steps >= 0) & (column + steps < width)]
    window = heatmap[row + rows[0] : row + rows[-1] + 1, column + columns[0] : column + columns[-1] + 1]
    np.maximum(window, np.outer(curve[rows + radius], curve[columns + radius]), out=window, casting="same_kind")


def centernet_loss(outputs: tuple[Tensor, Tensor, Tensor], targets: Targets) -> Tensor:
    """Returns the mean loss an object: focal loss of the heatmap + 0.1 L1 of the sizes + L1 of the offsets.

    Args:
        outputs: Heatmap logits `(N, classes, H, W)`, sizes and offsets `(N, 2, H, W)`.
        targets: Those of the same batch.
    """
    logits, sizes, offsets = (output.float() for output in outputs)
    objects = max(1, len(targets.sizes))
    image, row, column = targets.cells
    size_error = functional.l1_loss(sizes[image, :, row, column], targets.sizes, reduction="sum") / 2
    offset_error = functional.l1_loss(offsets[image, :, row, column], targets.offsets, reduction="sum") / 2
    heatmap_error = focal_loss(logits, targets.heatmap)
    return (heatmap_error + _SIZE_WEIGHT * size_error + _OFFSET_WEIGHT * offset_error) / objects


def focal_loss(logits: Tensor, heatmap: Tensor) -> Tensor:
    """Returns CornerNet's penalty-reduced focal loss, summed: centres count as positive, cells near them less negative.

    Args:
        logits: `(N, classes, H, W)`.
        heatmap: The same shape; exactly 1 at centres.
    """
    scores = logits.sigmoid()
    positive = -functional.logsigmoid(logits) * (1 - scores) ** _FOCUS
    negative = -functional.logsigmoid(-logits) * scores**_FOCUS * (1 - heatmap) ** _PENALTY_REDUCTION
    return torch.where(heatmap == 1, positive, negative).sum()
