"""What a small vision-language model writes: its tokens, and the text that it reads in images.

The reader of surnames is a LLaVA of 1.3 million weights, built here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.name_reader.pictures import COLUMNS, LETTERS, LONGEST, PATCH, SIDE

if TYPE_CHECKING:
    import torch

_WIDTH, _INNER, _LAYERS, _HEADS = 128, 256, 4, 4
_VOCABULARY = 32
_BATCH = 125


@dataclass(frozen=True)
class Script:
    """How a model is asked, and how its tokens are read; the first tokens are the characters.

    Attributes:
        characters: One for each of the first tokens.
        prompt: Tokens before the answer, one for each patch of the image among them.
        pad: Token behind an answer that has ended.
        end: Token that ends an answer.
        longest: Characters of the longest answer.
    """

    characters: str
    prompt: tuple[int, ...]
    pad: int
    end: int
    longest: int

    def tokens_of(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Returns prompt and answer of each text, padded: `(N, prompt + longest + 1)`."""
        start = len(self.prompt)
        rows = np.full((len(texts), start + self.longest + 1), self.pad, np.int64)
        rows[:, :start] = self.prompt
        for row, text in zip(rows, texts, strict=True):
            answer = [*map(self.characters.index, text), self.end]
            row[start : start + len(answer)] = answer
        return rows

    def text_of(self, tokens: Sequence[int]) -> str:
        """Returns the characters before the end; other tokens are question marks."""
        ended = tokens[: tokens.index(self.end)] if self.end in tokens else tokens
        return "".join(self.characters[each] if each < len(self.characters) else "?" for each in ended)


PAD, BEGIN, END, IMAGE, READ = range(len(LETTERS), len(LETTERS) + 5)
NAMES = Script(LETTERS, (BEGIN, *[IMAGE] * COLUMNS, READ), PAD, END, LONGEST)
"""The reader of surnames: a patch for each column of the strip, and a token that asks."""


def build_reader() -> Any:
    """Returns a new `LlavaForConditionalGeneration` that reads surnames, with weights from torch's generator."""
    import transformers

    size = {
        "hidden_size": _WIDTH, "intermediate_size": _INNER, "num_hidden_layers": _LAYERS, "num_attention_heads": _HEADS
    }  # fmt: skip
    vision = transformers.CLIPVisionConfig(image_size=SIDE * PATCH, patch_size=PATCH, projection_dim=_WIDTH, **size)
    text = transformers.LlamaConfig(
        vocab_size=_VOCABULARY, max_position_embeddings=64, num_key_value_heads=_HEADS, tie_word_embeddings=False,
        pad_token_id=PAD, bos_token_id=BEGIN, eos_token_id=END, **size,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=COLUMNS, vision_feature_layer=-1,
        vision_feature_select_strategy="default", pad_token_id=PAD, bos_token_id=BEGIN, eos_token_id=END,
    )  # fmt: skip
    return transformers.LlavaForConditionalGeneration(config)


def read_texts(model: Any, script: Script, pixels: npt.NDArray[np.float32]) -> list[str]:
    """Returns what a model writes for each image, greedily, at most two characters more than the longest answer has.

    Args:
        model: A `LlavaForConditionalGeneration`.
        script: Its tokens.
        pixels: What the tower reads, `(N, 3, H, W)`.
    """
    import torch

    texts: list[str] = []
    for start in range(0, len(pixels), _BATCH):
        images = torch.from_numpy(pixels[start : start + _BATCH]).to(model.dtype)
        prompt = torch.tensor(script.prompt).repeat(len(images), 1)
        with torch.inference_mode():
            written: torch.Tensor = model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), pixel_values=images, do_sample=False,
                max_new_tokens=script.longest + 2, pad_token_id=script.pad, eos_token_id=script.end,
            )  # fmt: skip
        texts += [script.text_of(row) for row in written[:, len(script.prompt) :].tolist()]
    return texts
