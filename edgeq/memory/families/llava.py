"""LLaVA-1.5 and LLaVA-NeXT: a vision tower, two linear layers, and a decoder that reads the image as tokens.

("Improved Baselines with Visual Instruction Tuning", Liu et al., 2024)
"""

from __future__ import annotations

import msgspec

from edgeq.memory.architecture import Architecture, ImageSize, ImageTokens, Part, TokensOfImage, Vision
from edgeq.memory.config_file import ConfigFile, Size
from edgeq.memory.families.decoders import is_tied, read_language
from edgeq.memory.families.towers import VisionConfig, read_llava_vision
from edgeq.memory.image_sizes import best_grid, unpadded
from edgeq.memory.weights import Weights, linear, values

_GRIDS = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]


class LlavaConfig(msgspec.Struct, kw_only=True):
    """The keys of LLaVA's own config with its defaults."""

    vision_feature_select_strategy: str = "default"
    vision_feature_layer: int | list[int] = -2
    multimodal_projector_bias: bool = True
    image_grid_pinpoints: list[tuple[Size, Size]] = msgspec.field(default_factory=lambda: list(_GRIDS))


def read_llava(config: ConfigFile) -> Architecture:
    """Returns LLaVA's architecture; it resizes every image to one size."""
    config.require_architecture(("LlavaForConditionalGeneration",))
    own = config.read(LlavaConfig)
    found, tower = read_llava_vision(config)
    tokens = _tokens_of_a_tile(own, found)

    def image_tokens(_size: ImageSize) -> ImageTokens:
        return ImageTokens(1, _sequence(found, config), tokens, note=_resized(found))

    return _architecture(config, own, found, tower, image_tokens)


def read_llava_next(config: ConfigFile) -> Architecture:
    """Returns LLaVA-NeXT's architecture; it cuts an image into tiles, and adds a small version of the whole.

    ("LLaVA-NeXT: Improved reasoning, OCR, and world knowledge", Liu et al., 2024)
    """
    config.require_architecture(("LlavaNextForConditionalGeneration",))
    own = config.read(LlavaConfig)
    found, tower = read_llava_vision(config)
    base = _tokens_of_a_tile(own, found)

    def image_tokens(size: ImageSize) -> ImageTokens:
        height, width = best_grid(size, own.image_grid_pinpoints)
        rows, columns = height // found.image_size, width // found.image_size
        side = found.image_size // found.patch_size
        kept_rows, kept_columns = unpadded(size, rows * side, columns * side)
        note = f"cut into {rows} x {columns} tiles of {found.image_size} pixels, and the whole image once"
        # A token behind every row says that a new one begins.
        prompt = base + kept_rows * kept_columns + kept_rows
        return ImageTokens(rows * columns + 1, _sequence(found, config), prompt, note=note)

    return _architecture(config, own, found, tower, image_tokens, newline=True)


def _architecture(
    config: ConfigFile,
    own: LlavaConfig,
    found: VisionConfig,
    tower: Weights,
    image_tokens: TokensOfImage,
    *,
    newline: bool = False,
) -> Architecture:
    language = read_language(config, "text_config", "llama")
    hidden, has_bias = language.decoder.hidden, own.multimodal_projector_bias
    read_layers = 1 if isinstance(own.vision_feature_layer, int) else len(own.vision_feature_layer)
    connector = linear(read_layers * found.hidden_size, hidden, bias=has_bias) + linear(hidden, hidden, bias=has_bias)
    if newline:
        connector += values(hidden)
    parts = (
        Part("vision", tower),
        Part("connector", connector),
        *language.parts(tied=is_tied(config, language, default=False)),
    )
    side = found.image_size
    return Architecture(config.model_type, parts, Vision(found.tower, image_tokens, (side, side)), language.decoder)


def _tokens_of_a_tile(own: LlavaConfig, found: VisionConfig) -> int:
    return found.patches + (1 if own.vision_feature_select_strategy == "full" else 0)


def _sequence(found: VisionConfig, config: ConfigFile) -> int:
    """Returns the tokens that the tower has of a tile, CLIP's class token included."""
    family = config.nested("vision_config").get("model_type")
    return found.patches + (0 if family == "siglip_vision_model" else 1)


def _resized(found: VisionConfig) -> str:
    return f"the model resizes every image to {found.image_size}x{found.image_size}"
