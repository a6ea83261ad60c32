"""Questions as prompts: a template, the tokens that stand for an image, and what the vision part takes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

import numpy as np

from edgeq.bundles.manifest import Bundle
from edgeq.errors import InputError
from edgeq.generation.model import Prompt
from edgeq.generation.resizing import resized
from edgeq.generation.tokenizer import NumberTokens, Tokenizer
from edgeq.inputs.items import Item, Pixels, model_input
from edgeq.tasks.language.questions import Question

IMAGE = "<image>"
QUESTION = "{question}"


@dataclass(frozen=True)
class PromptMaker:
    """Makes prompts for one bundle.

    Attributes:
        bundle: The bundle.
        tokenizer: Its tokenizer.
        template: The prompt, with `{question}` and `<image>` in their places; empty for the image, if there is one,
            and then the question.
    """

    bundle: Bundle
    tokenizer: Tokenizer
    template: str = ""

    def __post_init__(self) -> None:
        if self.template and QUESTION not in self.template and IMAGE not in self.template:
            raise InputError(
                f"`prompt` {self.template!r}: holds neither {QUESTION} nor {IMAGE}; all questions would be the same"
            )

    def make(self, question: Question, item: Item | None) -> Prompt:
        """Returns the prompt of a question.

        Args:
            question: The question.
            item: Its image, if it has one.

        Raises:
            InputError: the image cannot be read, or the model takes none.
            MismatchError: the tokenizer does not know the token that stands for images.
        """
        images = {} if item is None else self.vision_inputs(item)
        text = (self.template or f"{IMAGE if images else ''}{QUESTION}").replace(QUESTION, question.prompt)
        if images and IMAGE not in text:
            text = IMAGE + text
        text = text.replace(IMAGE, self.tokenizer.written(self._stand_ins()) if images else "")
        ids = self.tokenizer.encode(text)
        bos = self.bundle.tokens.bos
        if isinstance(self.tokenizer, NumberTokens) and bos is not None and ids[:1] != [bos]:
            ids = [bos, *ids]
        return Prompt(question.name, tuple(ids), images)

    def vision_inputs(self, item: Item) -> dict[str, np.ndarray]:
        """Returns the inputs of the vision part for one image.

        Raises:
            InputError: the image cannot be read, or nothing says how it is prepared.
        """
        vision, images = self.bundle.part("vision"), self.bundle.images
        if vision is None or images is None:
            raise InputError(f"{item.name}: {self.bundle.name} takes no images; omit them from the questions")
        spec = images.preprocessing
        if images.patches is not None or images.tiles or len(vision.inputs) != 1:
            raise InputError(
                f"{self.bundle.folder}: images of the family {self.bundle.family} are cut into patches or tiles, which "
                "edgeq does not do; let another program answer, and score its answers with `edgeq score`"
            )
        if spec is None:
            raise InputError(
                f"{self.bundle.folder}: does not say how images are prepared; export the model from a folder with "
                "preprocessor_config.json"
            )
        content = item.read()
        if content.dtype == np.uint8:
            content = resized(cast(Pixels, content), spec, images.resample)
            spec = dataclasses.replace(spec, resize="stretch")
        array, _ = model_input(content, spec, item.name)
        first = vision.inputs[0]
        return {first.name: array.astype(first.dtype, copy=False)}

    def _stand_ins(self) -> list[int]:
        """Returns the tokens that stand for an image."""
        tokens = self.bundle.tokens
        if tokens.image is None or tokens.per_image is None:
            raise InputError(
                f"{self.bundle.folder}: its manifest does not say which tokens an image takes, and how many; "
                "export the model again"
            )
        return [*tokens.before_image, *[tokens.image] * tokens.per_image, *tokens.after_image]
