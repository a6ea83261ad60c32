"""A detector and images for it, small enough for tests and many enough to be cut in their midst."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.evaluation.test_evaluate import LABELS, save_square_finder


class Scene(NamedTuple):
    """What `edgeq eval` takes."""

    artifact: Path
    images: Path
    annotations: Path

    @property
    def options(self) -> list[str]:
        """The arguments of `edgeq eval`."""
        named = ["--images", str(self.images), "--annotations", str(self.annotations), "--runtime", "onnxruntime"]
        return [str(self.artifact), *named]


def draw_scene(folder: Path, count: int, side_px: int = 320) -> Scene:
    """Draws images of noise with a square each, of one of three colours."""
    from PIL import Image

    rng = np.random.default_rng(0)
    images, annotations = folder / "images", folder / "annotations.json"
    images.mkdir()
    document: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": []}
    size = 24 * side_px // 128
    for number in range(count):
        pixels = rng.integers(0, 120, (side_px, side_px, 3), np.uint8)
        channel = number % 3
        x, y = (int(each) for each in rng.integers(0, side_px - size, 2))
        pixels[y : y + size, x : x + size, channel] = 255
        # A name that a shell would tear apart.
        name = f"it's image #{number:03} $HOME.png"
        Image.fromarray(pixels).save(images / name, compress_level=1)
        document["images"].append({"id": number, "file_name": name, "width": side_px, "height": side_px})
        document["annotations"].append(
            {"id": number, "image_id": number, "category_id": channel, "bbox": [x, y, size, size], "area": size**2}
        )
    document["categories"] = [{"id": index, "name": name} for index, name in enumerate(LABELS)]
    annotations.write_text(json.dumps(document))
    return Scene(save_square_finder(folder / "squares `finder`.onnx").path, images, annotations)
