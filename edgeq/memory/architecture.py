"""What of a model decides its memory: the weights of its parts, its cache, and how large its layers' outputs are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edgeq.memory.weights import Weights

ImageSize = tuple[int, int]
"""Height and width in pixels."""

PartName = Literal["vision", "connector", "embedding", "text", "decoder", "encoder", "head"]


@dataclass(frozen=True)
class Part:
    """A part of a model that may have a precision to itself.

    Attributes:
        name: What it is called in plans and in `--part`.
        weights: What it stores.
    """

    name: PartName
    weights: Weights


@dataclass(frozen=True)
class ImageTokens:
    """What an image of a certain size becomes.

    Attributes:
        tiles: Images that the vision part is given, after the model's own resizing and cutting.
        patches: Tokens that the vision part has of each.
        prompt: Tokens that it takes of the decoder's context.
        attended: Tokens that layers of cross-attention read, which take nothing of the context.
        note: How the size was chosen, if not by the image's own.
    """

    tiles: int
    patches: int
    prompt: int = 0
    attended: int = 0
    note: str = ""


TokensOfImage = Callable[[ImageSize], ImageTokens]
"""Size of an image -> what it becomes."""


@dataclass(frozen=True)
class Tower:
    """An encoder without a cache.

    Attributes:
        hidden: Channels of its tokens.
        intermediate: Channels inside its feed-forward layers, gates included.
        kept: Channels of outputs of layers that are kept until its end.
    """

    hidden: int
    intermediate: int
    kept: int = 0


@dataclass(frozen=True)
class Decoder:
    """A decoder with a cache of keys and values.

    Attributes:
        family: Its `model_type`; of Qwen2-VL `qwen2_vl_text`.
        hidden: Channels of its tokens.
        intermediate: Channels inside its feed-forward layers, gates included.
        query: Channels of all queries of a token.
        kv_heads: Heads of keys, and of values.
        head_dim: Channels of a head.
        vocabulary: Tokens that it tells apart.
        context: Most tokens that it was made for.
        full_layers: Layers that keep every token.
        sliding_layers: Layers that keep the last `window` tokens.
        window: Their tokens.
        cross_layers: Layers that keep keys and values of the image instead.
    """

    family: str
    hidden: int
    intermediate: int
    query: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    full_layers: int
    sliding_layers: int = 0
    window: int = 0
    cross_layers: int = 0


@dataclass(frozen=True)
class Vision:
    """The vision part as its memory depends on images.

    Attributes:
        tower: Its layers.
        tokens: What an image of a size becomes.
        image_size: Size that is planned for unless another is asked for.
    """

    tower: Tower
    tokens: TokensOfImage
    image_size: ImageSize


@dataclass(frozen=True)
class Architecture:
    """A model, as its `config.json` describes it.

    Attributes:
        family: Its `model_type`.
        parts: Its parts, in the order in which they run.
        vision: Its vision part; `None` for a model without images.
        decoder: Its decoder; `None` for a model that generates nothing.
        text: Its encoder of texts, if it has one instead, and the most tokens that this takes.
    """

    family: str
    parts: tuple[Part, ...]
    vision: Vision | None = None
    decoder: Decoder | None = None
    text: tuple[Tower, int] | None = None

    @property
    def parameters(self) -> int:
        """All weights."""
        return sum(part.weights.parameters for part in self.parts)

    @property
    def context(self) -> int:
        """Most tokens of a text; 0 for a model without texts."""
        if self.decoder is not None:
            return self.decoder.context
        return 0 if self.text is None else self.text[1]
