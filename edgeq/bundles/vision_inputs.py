"""What a vision part is given for one image file, and what stands for the image in a prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from edgeq.bundles.contents import ImageInput, SpecialTokens
from edgeq.bundles.manifest import Bundle
from edgeq.bundles.resizing import resized
from edgeq.errors import InputError
from edgeq.inputs.items import Item, Pixels, model_input

Written = Callable[[Sequence[int]], str]
"""Returns special tokens as a text that becomes exactly these tokens."""


@dataclass(frozen=True)
class PreparedImage:
    """An image as a model takes it.

    Attributes:
        inputs: Inputs of the vision part, by name.
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
        """Returns the inputs of the vision part for an image.

        Raises:
            InputError: the image cannot be read, or nothing says how it is prepared.
        """
        spec = self.images.preprocessing
        if self.images.patches is not None or self.images.tiles or len(self.dtypes) != 1:
            raise InputError(
                f"{self.source}: images of the family {self.family} are cut into patches or tiles, which edgeq does "
                "not do; let another program answer, and score its answers with `edgeq score`"
            )
        if spec is None:
            raise InputError(
                f"{self.source}: does not say how images are prepared; export the model from a folder with "
                "preprocessor_config.json"
            )
        content = item.read()
        if content.dtype == np.uint8:
            content = resized(cast(Pixels, content), spec, self.images.resample)
            spec = dataclasses.replace(spec, resize="stretch")
        array, _ = model_input(content, spec, item.name)
        ((name, dtype),) = self.dtypes.items()
        return {name: array.astype(dtype, copy=False)}

    def prepare(self, item: Item, written: Written) -> PreparedImage:
        """Returns an image with what stands for it in a prompt.

        Args:
            item: The image.
            written: Writes special tokens.

        Raises:
            InputError: the image cannot be read, or nothing says how it is prepared.
            MismatchError: the tokenizer does not know the token that stands for images.
        """
        inputs, tokens = self.arrays(item), self.tokens
        if tokens.image is None or tokens.per_image is None:
            raise InputError(
                f"{self.source}: does not say which tokens an image takes, and how many; export the model again"
            )
        stand_ins = [*tokens.before_image, *[tokens.image] * tokens.per_image, *tokens.after_image]
        return PreparedImage(inputs, written(stand_ins))
