"""Llama-3.2-Vision: the decoder's layers of cross-attention read the image, which takes nothing of the context."""

from __future__ import annotations

import dataclasses

import msgspec

from edgeq.memory.architecture import (
    Architecture,
    ImageSize,
    ImageTokens,
    Part,
    TokensOfImage,
    Tower,
    Vision,
)
from edgeq.memory.config_file import ConfigFile, Size
from edgeq.memory.families.decoders import LlamaConfig, is_tied, llama_like
from edgeq.memory.families.towers import feed_forward
from edgeq.memory.image_sizes import smallest_canvas
from edgeq.memory.weights import Weights, layer_norm, linear, rms_norm, table, values

# Rows of the embedding table behind the vocabulary, for the image and other marks; the head has none for them.
_MARKS = 8
_CROSS_LAYERS = (3, 8, 13, 18, 23, 28, 33, 38)
_DEFAULT_RATIOS = 8


class MllamaVisionConfig(msgspec.Struct, kw_only=True):
    """The keys of the vision config with its defaults."""

    hidden_size: Size = 1280
    num_hidden_layers: Size = 32
    num_global_layers: Size = 8
    num_channels: Size = 3
    intermediate_size: Size = 5120
    vision_output_dim: Size = 7680
    image_size: Size = 448
    patch_size: Size = 14
    max_num_tiles: Size = 4
    supported_aspect_ratios: list[tuple[int, int]] | None = None

    @property
    def patches(self) -> int:
        """Tokens of a tile, its class token included."""
        return (self.image_size // self.patch_size) ** 2 + 1


class MllamaTextConfig(LlamaConfig, kw_only=True):
    """Llama's keys with the defaults of Llama-3.2-Vision, and which layers read the image."""

    vocab_size: Size = 128256
    intermediate_size: Size = 14336
    num_hidden_layers: Size = 40
    num_key_value_heads: Size | None = 8
    max_position_embeddings: Size = 131072
    cross_attention_layers: list[int] = msgspec.field(default_factory=lambda: list(_CROSS_LAYERS))


def read_mllama(config: ConfigFile) -> Architecture:
    """Returns Llama-3.2-Vision's architecture."""
    config.require_architecture(("MllamaForConditionalGeneration",))
    vision = config.read(MllamaVisionConfig, "vision_config")
    text = config.read(MllamaTextConfig, "text_config")
    cross = len([number for number in text.cross_attention_layers if 0 <= number < text.num_hidden_layers])
    language = llama_like(text, "llama", config)
    hidden = text.hidden_size
    # Besides what a layer of self-attention has: norms of queries and keys, and two gates.
    further = cross * (2 * rms_norm(text.channels_of_a_head) + values(2))
    tokens = table(text.vocab_size + _MARKS, hidden)
    parts = (
        Part("vision", _tower(vision)),
        Part("connector", linear(vision.vision_output_dim, hidden)),
        Part("embedding", tokens),
        Part("decoder", language.layers + further),
        *(() if is_tied(config, language, default=False) else (Part("head", language.head),)),
    )
    decoder = dataclasses.replace(
        language.decoder, full_layers=language.decoder.full_layers - cross, cross_layers=cross
    )
    side = vision.image_size
    # What the connector reads: outputs of some layers, kept until the last one is done.
    tower = Tower(vision.hidden_size, 2 * vision.intermediate_size, kept=vision.vision_output_dim - vision.hidden_size)
    return Architecture("mllama", parts, Vision(tower, _tokens(vision), (side, side)), decoder)


def _tokens(found: MllamaVisionConfig) -> TokensOfImage:
    def image_tokens(size: ImageSize) -> ImageTokens:
        rows, columns = smallest_canvas(size, found.image_size, found.max_num_tiles)
        note = (
            f"laid on {rows} x {columns} tiles of {found.image_size} pixels; all {found.max_num_tiles} tiles are "
            "computed and attended to"
        )
        tiles = found.max_num_tiles
        return ImageTokens(tiles, found.patches, attended=tiles * found.patches, note=note)

    return image_tokens


def _tower(found: MllamaVisionConfig) -> Weights:
    hidden, tiles, patches = found.hidden_size, found.max_num_tiles, found.patches
    ratios = 1 + (_DEFAULT_RATIOS if found.supported_aspect_ratios is None else len(found.supported_aspect_ratios))
    layer = 4 * linear(hidden, hidden, bias=False) + feed_forward(hidden, found.intermediate_size)
    layer += 2 * layer_norm(hidden)
    convolution = found.num_channels * found.patch_size**2 * hidden
    # Positions of patches within a tile with a gate, of the same by tile, and of tiles in front and behind with a gate.
    positions = patches * hidden + 1 + ratios * tiles * patches * hidden + 2 * (ratios * tiles * hidden + 1)
    layers = (found.num_hidden_layers + found.num_global_layers) * layer + values(2 * found.num_global_layers)
    return values(convolution + hidden + positions) + 2 * layer_norm(hidden) + layers
