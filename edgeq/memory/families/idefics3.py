"""Idefics3 and SmolVLM: an image is cut into tiles, and of each several patches become one token of the decoder.

("Building and better understanding vision-language models", Laurençon et al., 2024; "SmolVLM", Marafioti et al., 2025)
"""

from __future__ import annotations

import msgspec

from edgeq.boundary import Positive, convert
from edgeq.memory.architecture import Architecture, ImageSize, ImageTokens, Part, TokensOfImage, Vision
from edgeq.memory.config_file import ConfigFile, Size
from edgeq.memory.families.decoders import is_tied, read_language
from edgeq.memory.families.towers import VisionConfig, siglip_tower
from edgeq.memory.image_sizes import tiles_of_longest_edge
from edgeq.memory.weights import linear

_ARCHITECTURES = {
    "idefics3": ("Idefics3ForConditionalGeneration",),
    "smolvlm": ("SmolVLMForConditionalGeneration",),
}
# The published processors enlarge the longer side to four tiles.
_TILES_OF_LONGEST = 4


class Idefics3VisionConfig(VisionConfig, kw_only=True):
    """SigLIP's keys with Idefics3's defaults."""

    hidden_size: Size = 1152


class Idefics3Config(msgspec.Struct, kw_only=True):
    """The key of the model's own config that its size depends on."""

    scale_factor: Size = 2


class _Processor(msgspec.Struct):
    """What `preprocessor_config.json` says about cutting images."""

    do_image_splitting: bool = True
    size: dict[str, Positive] = msgspec.field(default_factory=dict)
    max_image_size: dict[str, Positive] = msgspec.field(default_factory=dict)


def read_idefics3(config: ConfigFile) -> Architecture:
    """Returns the architecture of Idefics3 or SmolVLM."""
    config.require_architecture(_ARCHITECTURES[config.model_type])
    vision = config.read(Idefics3VisionConfig, "vision_config")
    scale = config.read(Idefics3Config).scale_factor
    language = read_language(config, "text_config", "llama")
    parts = (
        Part("vision", siglip_tower(vision, with_head=False)),
        Part("connector", linear(vision.hidden_size * scale**2, language.decoder.hidden, bias=False)),
        *language.parts(tied=is_tied(config, language, default=False)),
    )
    side = vision.image_size
    tokens = _tokens(vision, scale, config)
    return Architecture(config.model_type, parts, Vision(vision.tower, tokens, (side, side)), language.decoder)


def _tokens(found: VisionConfig, scale: int, config: ConfigFile) -> TokensOfImage:
    how = convert(dict(config.images), _Processor, source=config.path, kind="a preprocessor_config.json")
    tile = how.max_image_size.get("longest_edge", found.image_size)
    longest = how.size.get("longest_edge", _TILES_OF_LONGEST * tile)

    def image_tokens(size: ImageSize) -> ImageTokens:
        rows, columns = tiles_of_longest_edge(size, longest, tile) if how.do_image_splitting else (1, 1)
        tiles = rows * columns + (1 if rows * columns > 1 else 0)
        note = f"enlarged to {longest} pixels and cut into {rows} x {columns} tiles of {tile} pixels"
        whole = ", and the whole image once" if tiles > 1 else ""
        return ImageTokens(tiles, found.patches, tiles * found.patches // scale**2, note=f"{note}{whole}")

    return image_tokens
