"""Questions as prompts: a template, the tokens that stand for an image, and what the vision part takes."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.bundles.manifest import Bundle
from edgeq.bundles.vision_inputs import VisionInputs
from edgeq.errors import InputError
from edgeq.generation.model import Prompt
from edgeq.generation.tokenizer import NumberTokens, Tokenizer
from edgeq.inputs.items import Item
from edgeq.tasks.language.questions import Question

IMAGE = "<image>"
QUESTION = "{question}"


@dataclass(frozen=True)
class PromptMaker:
    """Makes prompts for one model.

    Attributes:
        name: What the model is called.
        vision: Prepares its images; `None` if it takes none.
        bos: Begins a text, if the model wants one.
        tokenizer: Its tokenizer.
        template: The prompt, with `{question}` and `<image>` in their places; empty for the image, if there is one,
            and then the question.
    """

    name: str
    vision: VisionInputs | None
    bos: int | None
    tokenizer: Tokenizer
    template: str = ""

    def __post_init__(self) -> None:
        if self.template and QUESTION not in self.template and IMAGE not in self.template:
            raise InputError(
                f"`prompt` {self.template!r}: holds neither {QUESTION} nor {IMAGE}; all questions would be the same"
            )

    @classmethod
    def of(cls, bundle: Bundle, tokenizer: Tokenizer, template: str = "") -> PromptMaker:
        """Returns what makes prompts for a bundle."""
        return cls(bundle.name, VisionInputs.of(bundle), bundle.tokens.bos, tokenizer, template)

    def make(self, question: Question, item: Item | None) -> Prompt:
        """Returns the prompt of a question.

        Args:
            question: The question.
            item: Its image, if it has one.

        Raises:
            InputError: the image cannot be read, or the model takes none.
            MismatchError: the tokenizer does not know the token that stands for images.
        """
        if item is not None and self.vision is None:
            raise InputError(f"{item.name}: {self.name} takes no images; omit them from the questions")
        image = None if item is None or self.vision is None else self.vision.prepare(item, self.tokenizer.written)
        text = (self.template or f"{IMAGE if image else ''}{QUESTION}").replace(QUESTION, question.prompt)
        if image and IMAGE not in text:
            text = IMAGE + text
        ids = self.tokenizer.encode(text.replace(IMAGE, image.text if image else ""))
        if isinstance(self.tokenizer, NumberTokens) and self.bos is not None and ids[:1] != [self.bos]:
            ids = [self.bos, *ids]
        return Prompt(question.name, tuple(ids), image.inputs if image else {})
