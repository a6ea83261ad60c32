"""Images of text, drawn with the font that Pillow ships, and a probability map of text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

WORDS = (
    "calibrate", "once,", "export", "to", "every", "engine;", "measure", "what", "it", "costs:", "INT8", "Jetson",
    "3.14", "openvino", "2x",
)  # fmt: skip
RECTANGLES = ((30, 30, 40, 12, 20), (90, 25, 12, 30, 0), (70, 75, 80, 14, -8), (20, 80, 4, 4, 0))
"""Centre, width, height and direction in degrees of the text in `text_map`."""


def text_map() -> NDArray[np.float32]:
    """Returns probabilities `(1, 1, 96, 128)`: high in `RECTANGLES`, falling to nothing within three cells of them."""
    rows, columns = np.mgrid[:96, :128]
    plane = np.zeros((96, 128))
    for x, y, width, height, degrees in RECTANGLES:
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        along, across = (columns - x) * cosine + (rows - y) * sine, (rows - y) * cosine - (columns - x) * sine
        outside = np.maximum(np.abs(along) - width / 2, np.abs(across) - height / 2)
        plane = np.maximum(plane, np.clip(0.95 - np.maximum(outside, 0) / 3, 0, 1))
    return plane[None, None].astype(np.float32)


def draw_lines(folder: Path, count: int, seed: int) -> Path:
    """Writes images of turned lines of text, and a label file as PaddleOCR's; returns the file."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    lines = []
    for number in range(count):
        image = Image.new("RGB", (640, 480), tuple(int(value) for value in rng.integers(160, 256, 3)))
        pieces = []
        for row in range(5):
            text, degrees = " ".join(rng.choice(WORDS, 2)), float(rng.uniform(-10, 10))
            font = ImageFont.load_default(int(rng.integers(20, 38)))
            left, top, right, bottom = font.getbbox(text)
            tile = Image.new("L", (int(right) + 8, int(bottom) + 8))
            ImageDraw.Draw(tile).text((4, 4), text, fill=255, font=font)
            turned = tile.rotate(degrees, expand=True, resample=Image.Resampling.BICUBIC)
            place = np.array([int(rng.integers(10, 160)), 10 + 90 * row])
            ink = Image.new("RGB", turned.size, tuple(int(value) for value in rng.integers(0, 80, 3)))
            image.paste(ink, tuple(place.tolist()), turned)
            corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)]) + 4
            angle = np.radians(-degrees)
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            corners = (corners - np.array(tile.size) / 2) @ turn + np.array(turned.size) / 2 + place
            pieces.append({"transcription": text, "points": corners.round(1).tolist()})
        image.save(folder / f"{number}.png")
        lines.append(f"{number}.png\t{json.dumps(pieces)}\n")
    (folder / "Label.txt").write_text("".join(lines))
    return folder / "Label.txt"


def draw_words(folder: Path, count: int, seed: int) -> Path:
    """Writes images of one or two words each, and what they say; returns the file."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    texts = {}
    for number in range(count):
        text = " ".join(rng.choice(WORDS, rng.integers(1, 3)))
        font = ImageFont.load_default(int(rng.integers(14, 40)))
        _, _, right, bottom = font.getbbox(text)
        image = Image.new(
            "RGB", (int(right) + 8, int(bottom) + 8), tuple(int(each) for each in rng.integers(150, 256, 3))
        )
        ink = tuple(int(value) for value in rng.integers(0, 110, 3))
        ImageDraw.Draw(image).text((4, 2), text, fill=ink, font=font)
        image.save(folder / f"{number}.png")
        texts[f"{number}.png"] = text
    (folder / "texts.json").write_text(json.dumps(texts))
    return folder / "texts.json"
