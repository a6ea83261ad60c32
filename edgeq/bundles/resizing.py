"""Images in the size that a vision part takes, as transformers' image processors resize them with Pillow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeq.bundles.contents import Resample
from edgeq.exporting.artifact import Preprocessing


def resized(pixels: NDArray[np.uint8], spec: Preprocessing, resample: Resample) -> NDArray[np.uint8]:
    """Returns an image `(height_px, width_px, 3)`.

    Args:
        pixels: The image `(H, W, 3)`.
        spec: Its size, and whether the image is stretched to it, or scaled by its short side and cut around its centre.
        resample: How pixels are interpolated.
    """
    from PIL import Image

    height, width = spec.height_px, spec.width_px
    size = (width, height)
    if spec.resize == "crop":
        short = round(min(height, width) / spec.crop_fraction)
        factor = short / min(pixels.shape[:2])
        size = (max(width, int(pixels.shape[1] * factor)), max(height, int(pixels.shape[0] * factor)))
    if size != (pixels.shape[1], pixels.shape[0]):
        image = Image.fromarray(pixels).resize(size, Image.Resampling[resample.upper()])
        pixels = np.asarray(image)
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])
