"""CLIP and SigLIP: a tower for images and one for texts, whose vectors are compared."""

from __future__ import annotations

import msgspec

from edgeq.memory.architecture import Architecture, ImageSize, ImageTokens, Part, Tower, Vision
from edgeq.memory.config_file import ConfigFile, Size
from edgeq.memory.families.towers import SiglipVisionConfig, VisionConfig, clip_tower, encoder_layer, siglip_tower
from edgeq.memory.weights import Weights, layer_norm, linear, table, values


class ClipTextConfig(msgspec.Struct, kw_only=True):
    """The keys of CLIP's text config with its defaults."""

    vocab_size: Size = 49408
    hidden_size: Size = 512
    intermediate_size: Size = 2048
    num_hidden_layers: Size = 12
    max_position_embeddings: Size = 77


class SiglipTextConfig(ClipTextConfig, kw_only=True):
    """The keys of SigLIP's text config with its defaults."""

    vocab_size: Size = 32000
    hidden_size: Size = 768
    intermediate_size: Size = 3072
    max_position_embeddings: Size = 64
    projection_size: Size | None = None


class ClipConfig(msgspec.Struct, kw_only=True):
    """The key of CLIP's own config that its size depends on."""

    projection_dim: Size = 512


def read_clip(config: ConfigFile) -> Architecture:
    """Returns CLIP's architecture ("Learning Transferable Visual Models", Radford et al., 2021)."""
    config.require_architecture(("CLIPModel",))
    vision, text = config.read(VisionConfig, "vision_config"), config.read(ClipTextConfig, "text_config")
    width = config.read(ClipConfig).projection_dim
    # One number scales the similarities.
    images = clip_tower(vision) + linear(vision.hidden_size, width, bias=False) + values(1)
    texts = _text_layers(text) + linear(text.hidden_size, width, bias=False)
    return _architecture("clip", vision, images, text, texts, vision.patches + 1)


def read_siglip(config: ConfigFile) -> Architecture:
    """Returns SigLIP's architecture ("Sigmoid Loss for Language Image Pre-Training", Zhai et al., 2023)."""
    config.require_architecture(("SiglipModel",))
    vision, text = config.read(SiglipVisionConfig, "vision_config"), config.read(SiglipTextConfig, "text_config")
    # Two numbers scale and shift the similarities.
    images = siglip_tower(vision, with_head=vision.vision_use_head) + values(2)
    texts = _text_layers(text) + linear(text.hidden_size, text.projection_size or text.hidden_size)
    return _architecture("siglip", vision, images, text, texts, vision.patches)


def _text_layers(found: ClipTextConfig) -> Weights:
    hidden = found.hidden_size
    layers = found.num_hidden_layers * encoder_layer(hidden, found.intermediate_size)
    return values(found.max_position_embeddings * hidden) + layers + layer_norm(hidden)


def _architecture(
    family: str, vision: VisionConfig, images: Weights, text: ClipTextConfig, texts: Weights, sequence: int
) -> Architecture:
    side = vision.image_size

    def image_tokens(_size: ImageSize) -> ImageTokens:
        return ImageTokens(1, sequence, note=f"the model resizes every image to {side}x{side}")

    words = Part("embedding", table(text.vocab_size, text.hidden_size))
    tower = Tower(text.hidden_size, 2 * text.intermediate_size)
    return Architecture(
        family,
        (Part("vision", images), words, Part("text", texts)),
        Vision(vision.tower, image_tokens, (side, side)),
        text=(tower, text.max_position_embeddings),
    )
