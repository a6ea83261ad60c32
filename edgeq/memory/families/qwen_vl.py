"""Qwen2-VL and Qwen2.5-VL: images keep their proportions, and four patches become one token of the decoder.

("Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any Resolution", Wang et al., 2024)
"""

from __future__ import annotations

import msgspec

from edgeq.boundary import Positive, convert
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
from edgeq.memory.families.decoders import gated_feed_forward, is_tied, read_language
from edgeq.memory.families.towers import feed_forward
from edgeq.memory.image_sizes import in_whole_steps
from edgeq.memory.weights import Weights, layer_norm, linear, rms_norm, values

# The published processors' limits, in pixels.
_LEAST_PIXELS, _MOST_PIXELS = 56 * 56, 28 * 28 * 1280
_PLANNED = (336, 336)


class Qwen2VisionConfig(msgspec.Struct, kw_only=True):
    """The keys of Qwen2-VL's vision config with its defaults; `hidden_size` is the decoder's."""

    depth: Size = 32
    embed_dim: Size = 1280
    hidden_size: Size = 3584
    mlp_ratio: Size = 4
    in_channels: Size = 3
    patch_size: Size = 14
    spatial_merge_size: Size = 2
    temporal_patch_size: Size = 2


class Qwen2_5VisionConfig(msgspec.Struct, kw_only=True):  # noqa: N801 - the model's name
    """The keys of Qwen2.5-VL's vision config with its defaults; `hidden_size` is the vision part's."""

    depth: Size = 32
    hidden_size: Size = 3584
    intermediate_size: Size = 3420
    out_hidden_size: Size = 3584
    in_channels: Size = 3
    patch_size: Size = 14
    spatial_merge_size: Size = 2
    temporal_patch_size: Size = 2


class _Pixels(msgspec.Struct):
    """The limits of `preprocessor_config.json`, in its older and its newer form."""

    min_pixels: Positive | None = None
    max_pixels: Positive | None = None
    size: dict[str, Positive | None] = msgspec.field(default_factory=dict)

    @property
    def least(self) -> int:
        """Least pixels of an image."""
        return self.min_pixels or self.size.get("shortest_edge") or _LEAST_PIXELS

    @property
    def most(self) -> int:
        """Most pixels of an image."""
        return self.max_pixels or self.size.get("longest_edge") or _MOST_PIXELS


def read_qwen2_vl(config: ConfigFile) -> Architecture:
    """Returns Qwen2-VL's architecture."""
    config.require_architecture(("Qwen2VLForConditionalGeneration",))
    found = config.read(Qwen2VisionConfig, "vision_config")
    hidden, intermediate = found.embed_dim, found.mlp_ratio * found.embed_dim
    layer = _attention(hidden) + feed_forward(hidden, intermediate) + 2 * layer_norm(hidden)
    layers = found.depth * layer + values(_patch(found) * hidden)
    merger = layer_norm(hidden) + _merger(hidden, found.spatial_merge_size, found.hidden_size)
    return _architecture(config, found, Tower(hidden, 2 * intermediate), layers, merger)


def read_qwen2_5_vl(config: ConfigFile) -> Architecture:
    """Returns Qwen2.5-VL's architecture, whose vision part is built like its decoder.

    ("Qwen2.5-VL Technical Report", Bai et al., 2025)
    """
    config.require_architecture(("Qwen2_5_VLForConditionalGeneration",))
    found = config.read(Qwen2_5VisionConfig, "vision_config")
    hidden, intermediate = found.hidden_size, found.intermediate_size
    layer = _attention(hidden) + gated_feed_forward(hidden, intermediate, bias=True) + 2 * rms_norm(hidden)
    layers = found.depth * layer + values(_patch(found) * hidden)
    merger = rms_norm(hidden) + _merger(hidden, found.spatial_merge_size, found.out_hidden_size)
    return _architecture(config, found, Tower(hidden, 3 * intermediate), layers, merger)


def _architecture(
    config: ConfigFile, found: Qwen2VisionConfig | Qwen2_5VisionConfig, tower: Tower, layers: Weights, merger: Weights
) -> Architecture:
    key = "text_config" if config.nested("text_config") else ""
    language = read_language(config, key, f"{config.model_type}_text")
    tied = is_tied(config, language, default=False)
    parts = (Part("vision", layers), Part("connector", merger), *language.parts(tied=tied))
    vision = Vision(tower, _tokens(found, config), _PLANNED)
    return Architecture(config.model_type, parts, vision, language.decoder)


def _tokens(found: Qwen2VisionConfig | Qwen2_5VisionConfig, config: ConfigFile) -> TokensOfImage:
    limits = convert(dict(config.images), _Pixels, source=config.path, kind="a preprocessor_config.json")
    step = found.patch_size * found.spatial_merge_size

    def image_tokens(size: ImageSize) -> ImageTokens:
        height, width = in_whole_steps(size, step, limits.least, limits.most)
        patches = height * width // found.patch_size**2
        note = f"resized to {height}x{width}"
        return ImageTokens(1, patches, patches // found.spatial_merge_size**2, note=note)

    return image_tokens


def _patch(found: Qwen2VisionConfig | Qwen2_5VisionConfig) -> int:
    """Returns the values that a patch is made of: pixels of two frames."""
    return found.in_channels * found.temporal_patch_size * found.patch_size**2


def _attention(hidden: int) -> Weights:
    return linear(hidden, 3 * hidden) + linear(hidden, hidden)


def _merger(hidden: int, merged: int, outputs: int) -> Weights:
    """Returns the two linear layers that make one token of `merged` x `merged` patches."""
    inputs = hidden * merged**2
    return linear(inputs, inputs) + linear(inputs, outputs)
