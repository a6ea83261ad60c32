"""BLIP-2 with OPT: a Q-Former reads the image with a few learned queries, which the decoder sees as tokens.

("BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large Language Models", Li et al.,
2023)
"""

from __future__ import annotations

import msgspec

from edgeq.errors import ModelError
from edgeq.memory.architecture import Architecture, ImageSize, ImageTokens, Part, Vision
from edgeq.memory.config_file import ConfigFile, Size
from edgeq.memory.families.decoders import read_language
from edgeq.memory.families.towers import VisionConfig, encoder_layer, patch_embedding
from edgeq.memory.weights import Weights, layer_norm, linear, values


class Blip2VisionConfig(VisionConfig, kw_only=True):
    """CLIP's keys with the defaults of EVA's ViT-g."""

    hidden_size: Size = 1408
    intermediate_size: Size = 6144
    num_hidden_layers: Size = 39
    patch_size: Size = 14
    qkv_bias: bool = True


class QFormerConfig(msgspec.Struct, kw_only=True):
    """The keys of the Q-Former's config with its defaults."""

    hidden_size: Size = 768
    num_hidden_layers: Size = 12
    intermediate_size: Size = 3072
    cross_attention_frequency: Size = 2
    encoder_hidden_size: Size = 1408


class Blip2Config(msgspec.Struct, kw_only=True):
    """The key of BLIP-2's own config that its size depends on."""

    num_query_tokens: Size = 32


def read_blip2(config: ConfigFile) -> Architecture:
    """Returns BLIP-2's architecture; it resizes every image to one size.

    Raises:
        ModelError: its language model is an encoder and a decoder, T5.
    """
    config.require_architecture(("Blip2ForConditionalGeneration",))
    if config.nested("text_config").get("model_type") == "t5":
        raise ModelError(
            f"{config.path}: its language model is T5, an encoder and a decoder; of BLIP-2, edgeq takes those with a "
            "decoder alone, OPT, such as Salesforce/blip2-opt-2.7b"
        )
    vision = config.read(Blip2VisionConfig, "vision_config")
    former = config.read(QFormerConfig, "qformer_config")
    queries = config.read(Blip2Config).num_query_tokens
    language = read_language(config, "text_config", "opt")
    connector = values(queries * former.hidden_size) + _q_former(former)
    connector += linear(former.hidden_size, language.decoder.hidden)
    parts = (Part("vision", _tower(vision)), Part("connector", connector), *language.parts())
    side = vision.image_size

    def image_tokens(_size: ImageSize) -> ImageTokens:
        note = f"the model resizes every image to {side}x{side}"
        return ImageTokens(1, vision.patches + 1, queries, note=note)

    return Architecture("blip-2", parts, Vision(vision.tower, image_tokens, (side, side)), language.decoder)


def _tower(found: Blip2VisionConfig) -> Weights:
    hidden, layers = found.hidden_size, found.num_hidden_layers
    front = patch_embedding(found, bias=True) + values((found.patches + 2) * hidden)
    weights = front + layers * encoder_layer(hidden, found.intermediate_size) + layer_norm(hidden)
    return weights if found.qkv_bias else Weights(weights.matrices, weights.others - 3 * hidden * layers)


def _q_former(found: QFormerConfig) -> Weights:
    hidden, layers = found.hidden_size, found.num_hidden_layers
    layer = encoder_layer(hidden, found.intermediate_size)
    cross = 2 * linear(hidden, hidden) + 2 * linear(found.encoder_hidden_size, hidden) + layer_norm(hidden)
    return layer_norm(hidden) + layers * layer + -(-layers // found.cross_attention_frequency) * cross
