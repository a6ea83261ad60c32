"""From an image to a model's input, and from the input's pixels back to the image's.

Detectors of the OpenCV tradition (CenterNet, YOLOX) sample bilinearly between four pixels even when they shrink an
image; torchvision's classifiers average over all pixels (antialiasing). Pillow does the second well but truncates the
result of the first, so the first is done here, in numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeq.exporting.artifact import Preprocessing

FloatArray = NDArray[np.float32]

_LUMINANCE = (19595, 38470, 7471)  # 0.299, 0.587 and 0.114 of 65536, as Pillow's mode "L" has them
_ONE = 256  # weights between two rows are multiples of 1/256, so that a weighted sum of pixels fits 16 bits


@dataclass(frozen=True)
class Placement:
    """Where an image lies in a model's input: `input = image * scale + offset`, in pixels, along each axis.

    Attributes:
        image_width_px: Width of the image.
        image_height_px: Height of the image.
        input_width_px: Width of the model's input.
        input_height_px: Height of the model's input.
        scale_x: Input pixels an image pixel.
        scale_y: Input pixels an image pixel.
        offset_x: Where the image's left edge lies in the input.
        offset_y: Where the image's top edge lies in the input.
    """

    image_width_px: int
    image_height_px: int
    input_width_px: int
    input_height_px: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def to_input(self, boxes: NDArray[np.floating]) -> FloatArray:
        """Returns `(N, 4)` xyxy boxes in the input's pixels for boxes in the image's."""
        return (boxes * self._scale + self._offset).astype(np.float32)

    def to_image(self, boxes: NDArray[np.floating]) -> FloatArray:
        """Returns `(N, 4)` xyxy boxes in the image's pixels, cut at its edges, for boxes in the input's."""
        limit = np.array([self.image_width_px, self.image_height_px] * 2)
        return np.clip((boxes - self._offset) / self._scale, 0, limit).astype(np.float32)

    def points_to_image(self, points: NDArray[np.floating]) -> FloatArray:
        """Returns points `(..., 2)`, x and y, in the image's pixels for those in the input's; they are not cut."""
        return ((points - self._offset[:2]) / self._scale[:2]).astype(np.float32)

    def pixel_centres(self, width: int, height: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns where the image's columns and rows lie in a map, `(image_width_px,)` and `(image_height_px,)`.

        Args:
            width: Columns of the map, which covers the whole input, such as the scores of a segmentation.
            height: Its rows.

        Returns:
            Positions of the centres of pixels in cells of the map; 0 is the centre of its first cell. Those nearer to
            the image's edges than half a cell are moved there, so that nothing of the fill blends in.
        """
        return (
            _centres(self.image_width_px, self.scale_x, self.offset_x, width / self.input_width_px),
            _centres(self.image_height_px, self.scale_y, self.offset_y, height / self.input_height_px),
        )

    @property
    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y] * 2)

    @property
    def _offset(self) -> NDArray[np.float64]:
        return np.array([self.offset_x, self.offset_y] * 2)


def _centres(count: int, scale: float, offset: float, cells: float) -> NDArray[np.float64]:
    first, last = offset * cells, (offset + scale * count) * cells - 1
    return np.clip((np.arange(count) + 0.5) * (scale * cells) + first - 0.5, first, last)


def preprocess(image: NDArray[np.uint8], spec: Preprocessing) -> tuple[FloatArray, Placement]:
    """Returns the input `(1, channels, height_px, width_px)`, float32, C-contiguous, and where the image lies in it.

    Args:
        image: `(H, W, 3)` uint8, RGB.
        spec: What the model was trained on.
    """
    height, width = image.shape[:2]
    if spec.channel_order == "gray":
        image = _luminance(image)
    if spec.resize == "center" and not spec.antialias:
        placement = _center(width, height, spec)
        columns = _warp_taps(placement.scale_x, placement.offset_x, width, spec.width_px)
        rows = _warp_taps(placement.scale_y, placement.offset_y, height, spec.height_px)
        return _sample(image, rows, columns, spec), placement
    frame, placement = _LAYOUTS[spec.resize](width, height, spec)
    if spec.antialias:
        return _normalise(_resize_antialiased(image, frame, spec), spec), placement
    columns = _resize_taps(frame.left, frame.width, width, spec.width_px)
    rows = _resize_taps(frame.top, frame.height, height, spec.height_px)
    return _sample(image, rows, columns, spec), placement


def _luminance(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns `(H, W, 1)`; where an image is gray already, its pixels as they are."""
    red, green, blue = (image[:, :, channel] * np.uint32(weight) for channel, weight in enumerate(_LUMINANCE))
    luminance: NDArray[np.uint8] = ((red + green + blue + np.uint32(1 << 15)) >> np.uint32(16)).astype(np.uint8)
    return luminance[:, :, None]


class _Frame(NamedTuple):
    """The rectangle of whole input pixels that the resized image covers; it may reach beyond the input."""

    left: int
    top: int
    width: int
    height: int


def _center(width: int, height: int, spec: Preprocessing) -> Placement:
    """Fits the image and puts its centre on the input's ("Objects as Points", Zhou et al., 2019)."""
    scale = min(spec.width_px / width, spec.height_px / height)
    left, top = (spec.width_px - scale * width) / 2, (spec.height_px - scale * height) / 2
    return Placement(width, height, spec.width_px, spec.height_px, scale, scale, left, top)


def _center_frame(width: int, height: int, spec: Preprocessing) -> tuple[_Frame, Placement]:
    """As `_center`, rounded to whole pixels."""
    scale = min(spec.width_px / width, spec.height_px / height)
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    frame = _Frame((spec.width_px - new_width) // 2, (spec.height_px - new_height) // 2, new_width, new_height)
    return frame, _placement(width, height, frame, spec)


def _letterbox_frame(width: int, height: int, spec: Preprocessing) -> tuple[_Frame, Placement]:
    """Fits the image into the top left corner ("YOLOX", Ge et al., 2021)."""
    ratio = min(spec.width_px / width, spec.height_px / height)
    frame = _Frame(0, 0, max(1, int(width * ratio)), max(1, int(height * ratio)))
    # YOLOX maps boxes by the ratio itself, in training and in scoring, not by the whole sizes it was rounded to.
    return frame, Placement(width, height, spec.width_px, spec.height_px, ratio, ratio, 0, 0)


def _fit_frame(width: int, height: int, spec: Preprocessing) -> tuple[_Frame, Placement]:
    """Fits the image into the top left corner, and maps boxes by the whole sizes (torchvision's detectors)."""
    frame, _ = _letterbox_frame(width, height, spec)
    return frame, _placement(width, height, frame, spec)


def _letterbox_center_frame(width: int, height: int, spec: Preprocessing) -> tuple[_Frame, Placement]:
    """Fits the image to whole pixels in the middle, an odd pixel of fill to the right or below (YOLOv5, 2020).

    Its authors map boxes by the ratio itself, in training and in scoring.
    """
    ratio = min(spec.width_px / width, spec.height_px / height)
    new_width, new_height = max(1, round(width * ratio)), max(1, round(height * ratio))
    left, top = (spec.width_px - new_width) // 2, (spec.height_px - new_height) // 2
    frame = _Frame(left, top, new_width, new_height)
    return frame, Placement(width, height, spec.width_px, spec.height_px, ratio, ratio, left, top)


def _stretch_frame(width: int, height: int, spec: Preprocessing) -> tuple[_Frame, Placement]:
    """Fills the input with the whole image, whatever becomes of its aspect ratio."""
    frame = _Frame(0, 0, spec.width_px, spec.height_px)
    return frame, _placement(width, height, frame, spec)


def _crop_frame(width: int, height: int, spec: Preprocessing) -> tuple[_Frame, Placement]:
    """Scales the short side to the input over `crop_fraction` and cuts the centre (torchvision's classification)."""
    new_width, new_height = round(spec.width_px / spec.crop_fraction), round(spec.height_px / spec.crop_fraction)
    if width * new_height <= height * new_width:
        new_height = new_width * height // width
    else:
        new_width = new_height * width // height
    left, top = round((new_width - spec.width_px) / 2), round((new_height - spec.height_px) / 2)
    frame = _Frame(-left, -top, new_width, new_height)
    return frame, _placement(width, height, frame, spec)


_LAYOUTS = {
    "center": _center_frame,
    "letterbox": _letterbox_frame,
    "letterbox_center": _letterbox_center_frame,
    "fit": _fit_frame,
    "stretch": _stretch_frame,
    "crop": _crop_frame,
}


def _placement(width: int, height: int, frame: _Frame, spec: Preprocessing) -> Placement:
    return Placement(
        image_width_px=width,
        image_height_px=height,
        input_width_px=spec.width_px,
        input_height_px=spec.height_px,
        scale_x=frame.width / width,
        scale_y=frame.height / height,
        offset_x=frame.left,
        offset_y=frame.top,
    )


class _Taps(NamedTuple):
    """The two image pixels behind each input pixel along one axis, and their weights.

    Weights that sum to less than 1 are completed with the fill colour.
    """

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    low_weight: NDArray[np.float64]
    high_weight: NDArray[np.float64]


def _warp_taps(scale: float, offset: float, size: int, count: int) -> _Taps:
    """As OpenCV's `warpAffine`: whole coordinates are pixel centres, and the image's edges blend into the fill."""
    positions = (np.arange(count) - offset) / scale
    low = np.floor(positions).astype(np.intp)
    high_weight = positions - low
    return _Taps(
        np.clip(low, 0, size - 1),
        np.clip(low + 1, 0, size - 1),
        (1 - high_weight) * ((low >= 0) & (low < size)),
        high_weight * ((low + 1 >= 0) & (low + 1 < size)),
    )


def _resize_taps(start: int, resized: int, size: int, count: int) -> _Taps:
    """As OpenCV's `INTER_LINEAR`: half coordinates are pixel centres, and the image's edges are repeated."""
    index = np.arange(count) - start
    inside = (index >= 0) & (index < resized)
    positions = np.clip((index + 0.5) * (size / resized) - 0.5, 0, size - 1)
    low = np.floor(positions).astype(np.intp)
    high_weight = positions - low
    return _Taps(low, np.minimum(low + 1, size - 1), (1 - high_weight) * inside, high_weight * inside)


def _sample(image: NDArray[np.uint8], rows: _Taps, columns: _Taps, spec: Preprocessing) -> FloatArray:
    """Returns the normalised input, sampled bilinearly: first between rows, then between columns.

    Rows and columns that show nothing of the image are alike, and are not sampled.
    """
    blend, shown = _blend_rows(image, rows, spec)
    inside = _covered(columns.low_weight + columns.high_weight)
    low, high, low_weight, high_weight = (each[inside] for each in columns)
    colour = np.array(spec.fill_colour)
    factor, shift = _affine(spec)
    batch = np.empty((1, spec.channels, spec.height_px, spec.width_px), np.float32)
    pixels = np.empty((len(blend), len(low)), blend.dtype)
    part = np.empty(pixels.shape, np.float32)
    for channel, source in enumerate(_channels(spec)):
        plane = batch[0, channel]
        sampled = plane[shown, inside]
        gain = factor[channel] / _ONE
        low_gain, high_gain = (low_weight * gain).astype(np.float32), (high_weight * gain).astype(np.float32)
        fill = (1 - columns.low_weight - columns.high_weight) * colour[channel] * factor[channel]
        border = (fill + shift[channel]).astype(np.float32)
        # An image row is R, G, B, R, G, B, ...: taking by 3 * column + channel splits the channels on the way.
        blend.take(low * image.shape[2] + source, axis=1, mode="clip", out=pixels)
        np.multiply(pixels, low_gain, out=sampled)
        blend.take(high * image.shape[2] + source, axis=1, mode="clip", out=pixels)
        sampled += np.multiply(pixels, high_gain, out=part)
        sampled += border[inside]
        plane[shown, : inside.start] = border[: inside.start]
        plane[shown, inside.stop :] = border[inside.stop :]
        filled = np.rint(_ONE * colour[channel]).astype(np.float32)
        border[inside] += filled * low_gain + filled * high_gain
        plane[: shown.start] = border
        plane[shown.stop :] = border
    return batch


def _blend_rows(image: NDArray[np.uint8], rows: _Taps, spec: Preprocessing) -> tuple[NDArray[np.uint16], slice]:
    """Returns 256 times the image at the input's rows that show it `(rows, W * channels)`, and which rows that is."""
    height, width, channels = image.shape
    lines = image.reshape(height, width * channels)
    # Rounded on their own, the two could add up to more than one.
    high_weight = np.rint(rows.high_weight * _ONE).astype(np.uint16)[:, None]
    low_weight = np.rint((rows.low_weight + rows.high_weight) * _ONE).astype(np.uint16)[:, None] - high_weight
    shown = _covered((low_weight + high_weight)[:, 0])
    low_weight, high_weight = low_weight[shown], high_weight[shown]
    blend = lines[rows.low[shown]] * low_weight
    blend += lines[rows.high[shown]] * high_weight
    rest = _ONE - low_weight - high_weight
    colour = np.array(spec.fill_colour)
    if colour.any() and rest.any():
        blend += np.rint(rest * np.tile(colour[list(_channels(spec))], width)).astype(np.uint16)
    return blend, shown


def _covered(weights: NDArray[np.generic]) -> slice:
    """Returns from the first to the last place whose weight is not 0."""
    places = np.flatnonzero(weights)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def _resize_antialiased(image: NDArray[np.uint8], frame: _Frame, spec: Preprocessing) -> NDArray[np.uint8]:
    """Returns the frame's part of the input, `(height_px, width_px, channels)`, and fill around it."""
    from PIL import Image

    # Pillow knows gray images as two-dimensional arrays only.
    source = Image.fromarray(image[:, :, 0] if spec.channels == 1 else image)
    resized = source.resize((frame.width, frame.height), Image.Resampling.BILINEAR)
    canvas = Image.new(
        source.mode, (spec.width_px, spec.height_px), tuple(round(spec.fill_colour[place]) for place in _channels(spec))
    )
    canvas.paste(resized, (frame.left, frame.top))
    return np.asarray(canvas).reshape(spec.height_px, spec.width_px, spec.channels)


def _normalise(pixels: NDArray[np.uint8], spec: Preprocessing) -> FloatArray:
    factor, shift = _affine(spec)
    batch = np.empty((1, spec.channels, spec.height_px, spec.width_px), np.float32)
    for channel, source in enumerate(_channels(spec)):
        plane = batch[0, channel]
        np.multiply(pixels[:, :, source], np.float32(factor[channel]), out=plane)
        plane += np.float32(shift[channel])
    return batch


def _affine(spec: Preprocessing) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns factor and shift `(channels,)` that do in one step what scale, mean and std say."""
    std = np.array(spec.std)
    return spec.scale / std, -np.array(spec.mean) / std


def _channels(spec: Preprocessing) -> tuple[int, ...]:
    """Returns which channel of the image goes into each of the input."""
    return {"rgb": (0, 1, 2), "bgr": (2, 1, 0), "gray": (0,)}[spec.channel_order]
