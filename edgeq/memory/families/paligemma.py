"""PaliGemma: SigLIP's tower, one linear layer, and Gemma ("PaliGemma", Beyer et al., 2024)."""

from __future__ import annotations

import msgspec

from edgeq.memory.architecture import Architecture, ImageSize, ImageTokens, Part, Vision
from edgeq.memory.config_file import ConfigFile, Size
from edgeq.memory.families.decoders import is_tied, read_language
from edgeq.memory.families.towers import SiglipVisionConfig, siglip_tower
from edgeq.memory.weights import linear


class PaliGemmaConfig(msgspec.Struct, kw_only=True):
    """The key of PaliGemma's own config that its size depends on."""

    projection_dim: Size = 2048


def read_paligemma(config: ConfigFile) -> Architecture:
    """Returns PaliGemma's architecture; it resizes every image to one size."""
    config.require_architecture(("PaliGemmaForConditionalGeneration",))
    vision = config.read(SiglipVisionConfig, "vision_config")
    projection = config.read(PaliGemmaConfig).projection_dim
    language = read_language(config, "text_config", "gemma")
    parts = (
        Part("vision", siglip_tower(vision, with_head=vision.vision_use_head)),
        Part("connector", linear(vision.hidden_size, projection)),
        *language.parts(tied=is_tied(config, language, default=True)),
    )
    side = vision.image_size

    def image_tokens(_size: ImageSize) -> ImageTokens:
        note = f"the model resizes every image to {side}x{side}"
        return ImageTokens(1, vision.patches, vision.patches, note=note)

    return Architecture("paligemma", parts, Vision(vision.tower, image_tokens, (side, side)), language.decoder)
