"""What a vision part is given for one image file, and what stands for the image in a prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from edgeq.bundles.contents import ImageInput, SpecialTokens
from edgeq.bundles.cutting import Pixels, Tiles, as_grid, as_patches, as_tiles
from edgeq.bundles.families.parts import GRIDS, PIXELS, ROWS
from edgeq.bundles.manifest import Bundle
from edgeq.bundles.resizing import resized
from edgeq.errors import InputError
from edgeq.exporting.artifact import Preprocessing
from edgeq.inputs.items import Item, model_input

Written = Callable[[Sequence[int]], str]
"""Returns special tokens as a text that becomes exactly these tokens."""


@dataclass(frozen=True)
class PreparedImage:
    """An image as a model takes it.

    Attributes:
        inputs: What the vision part reads, and of LLaVA-NeXT the connector, by name.
        text: What stands for it in a prompt.
    """

    inputs: Mapping[str, np.ndarray]
    text: str


@dataclass(frozen=True)
class VisionInputs:
    """Prepares images for one model.

    Attributes:
        source: Its folder, for messages.
        family: Its `model_type`.
        images: How its images are prepared.
        dtypes: Input of the vision part -> numpy's name of its type.
        tokens: The model's special tokens.
    """

    source: Path
    family: str
    images: ImageInput
    dtypes: Mapping[str, str]
    tokens: SpecialTokens

    @classmethod
    def of(cls, bundle: Bundle) -> VisionInputs | None:
        """Returns what prepares the images of a bundle; `None` if it takes none."""
        vision = bundle.part("vision")
        if vision is None or bundle.images is None:
            return None
        dtypes = {each.name: str(each.dtype) for each in vision.inputs}
        return cls(bundle.folder, bundle.family, bundle.images, dtypes, bundle.tokens)

    def arrays(self, item: Item) -> dict[str, np.ndarray]:
        """Returns what the vision part, and of LLaVA-NeXT the connector, reads of an image.

        Raises:
            InputError: the image cannot be read, or nothing says how it is prepared.
        """
        return dict(self._prepared(item)[0])

    def prepare(self, item: Item, written: Written) -> PreparedImage:
        """Returns an image with what stands for it in a prompt.

        Args:
            item: The image.
            written: Writes special tokens.

        Raises:
            InputError: the image cannot be read, or nothing says how it is prepared.
            MismatchError: the tokenizer does not know the token that stands for images.
        """
        inputs, stands = self._prepared(item)
        tokens = self.tokens
        if tokens.image is None or (isinstance(stands, int) and stands == 0):
            raise InputError(
                f"{self.source}: does not say which tokens an image takes, and how many; export the model again"
            )
        if isinstance(stands, Tiles):
            return PreparedImage(inputs, self._tiled(stands, written))
        return PreparedImage(inputs, written([*tokens.before_image, *[tokens.image] * stands, *tokens.after_image]))

    def _prepared(self, item: Item) -> tuple[Mapping[str, np.ndarray], int | Tiles]:
        """Returns the arrays of an image, and how many tokens it takes; 0 if that is not known."""
        images, content = self.images, item.read()
        if images.preprocessing is not None:
            return self._whole(content, images.preprocessing, item.name), self.tokens.per_image or 0
        if images.patches is None and images.tiles is None and images.grid is None:
            raise InputError(
                f"{self.source}: does not say how images are prepared; export the model from a folder with "
                "preprocessor_config.json"
            )
        if content.dtype != np.uint8:
            raise InputError(f"{item.name}: is prepared already; images of the family {self.family} are cut here")
        pixels = cast("Pixels", content)
        if images.patches is not None:
            patches, (rows, columns) = as_patches(pixels, images, images.patches)
            tokens = rows * columns // images.patches.merge**2
            return {PIXELS: patches, GRIDS: np.array([[1, rows, columns]], np.int64)}, tokens
        if images.tiles is not None:
            tiles = as_tiles(pixels, images, images.tiles)
            return {PIXELS: tiles.pixels}, tiles
        assert images.grid is not None  # noqa: S101 - one of them is there
        cut, taken = as_grid(pixels, images, images.grid)
        return {PIXELS: cut, ROWS: taken}, len(taken)

    def _whole(self, content: np.ndarray, spec: Preprocessing, name: str) -> dict[str, np.ndarray]:
        """Returns an image of one size."""
        if content.dtype == np.uint8:
            content = resized(cast("Pixels", content), spec, self.images.resample)
            spec = dataclasses.replace(spec, resize="stretch")
        array, _ = model_input(content, spec, name)
        ((part, dtype),) = self.dtypes.items()
        return {part: array.astype(dtype, copy=False)}

    def _tiled(self, tiles: Tiles, written: Written) -> str:
        """Returns what stands for an image in tiles: each says where it is from, and the whole comes last."""
        layout, token = self.images.tiles, self.tokens.image
        assert layout is not None and token is not None  # noqa: S101 - asked before
        image = written([token] * (self.tokens.per_image or 0))
        lines = [
            "".join(
                f"{layout.frame}{layout.place.format(row=row + 1, column=column + 1)}{image}"
                for column in range(tiles.columns)
            )
            + "\n"
            for row in range(tiles.rows)
        ]
        return "".join([*lines, "\n" if lines else "", f"{layout.frame}{layout.whole}{image}{layout.frame}"])
