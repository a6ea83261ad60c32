"""Vision transformers and text encoders of CLIP's and SigLIP's form, which most vision parts have."""

from __future__ import annotations

import msgspec

from edgeq.errors import ModelError
from edgeq.memory.architecture import Tower
from edgeq.memory.config_file import ConfigFile, Size
from edgeq.memory.weights import Weights, layer_norm, linear, values

CLIP_VISION, SIGLIP_VISION = "clip_vision_model", "siglip_vision_model"


class VisionConfig(msgspec.Struct, kw_only=True):
    """The keys of CLIP's vision config with its defaults."""

    hidden_size: Size = 768
    intermediate_size: Size = 3072
    num_hidden_layers: Size = 12
    num_channels: Size = 3
    image_size: Size = 224
    patch_size: Size = 32
    vision_use_head: bool = True

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tower(self) -> Tower:
        """Its layers."""
        return Tower(self.hidden_size, 2 * self.intermediate_size)


class LlavaVisionConfig(VisionConfig, kw_only=True):
    """CLIP's keys with the defaults of LLaVA, which are those of CLIP-L/14 at 336 pixels."""

    hidden_size: Size = 1024
    intermediate_size: Size = 4096
    num_hidden_layers: Size = 24
    image_size: Size = 336
    patch_size: Size = 14


class SiglipVisionConfig(VisionConfig, kw_only=True):
    """CLIP's keys with SigLIP's defaults."""

    patch_size: Size = 16


def feed_forward(hidden: int, intermediate: int) -> Weights:
    """Returns two linear layers with biases."""
    return linear(hidden, intermediate) + linear(intermediate, hidden)


def encoder_layer(hidden: int, intermediate: int) -> Weights:
    """Returns a layer of an encoder: attention and feed-forward layer with biases, and a LayerNorm for each."""
    return 4 * linear(hidden, hidden) + feed_forward(hidden, intermediate) + 2 * layer_norm(hidden)


def patch_embedding(found: VisionConfig, *, bias: bool) -> Weights:
    """Returns the convolution that makes tokens of patches."""
    weights = found.num_channels * found.patch_size**2 * found.hidden_size
    return values(weights + (found.hidden_size if bias else 0))


def clip_tower(found: VisionConfig) -> Weights:
    """Returns CLIP's vision tower: a class token, no bias in front, a norm before and behind the layers."""
    hidden = found.hidden_size
    front = patch_embedding(found, bias=False) + values((found.patches + 2) * hidden)
    layers = found.num_hidden_layers * encoder_layer(hidden, found.intermediate_size)
    return front + layers + 2 * layer_norm(hidden)


def siglip_tower(found: VisionConfig, *, with_head: bool) -> Weights:
    """Returns SigLIP's vision tower: no class token, and at the end attention that pools all tokens.

    Args:
        found: Its sizes.
        with_head: Whether it has the pooling.
    """
    hidden = found.hidden_size
    front = patch_embedding(found, bias=True) + values(found.patches * hidden)
    weights = front + found.num_hidden_layers * encoder_layer(hidden, found.intermediate_size) + layer_norm(hidden)
    if not with_head:
        return weights
    pooling = values(hidden) + 4 * linear(hidden, hidden) + layer_norm(hidden)
    return weights + pooling + feed_forward(hidden, found.intermediate_size)


def read_llava_vision(config: ConfigFile) -> tuple[VisionConfig, Weights]:
    """Returns the vision part of a model that takes CLIP's or SigLIP's tower as it is.

    Raises:
        InputError: a size is wrong.
        ModelError: it takes another one.
    """
    family = config.nested("vision_config").get("model_type", CLIP_VISION)
    if family == CLIP_VISION:
        # transformers fills in CLIP-L only where nothing is stated; a config that states some keys has CLIP's defaults.
        kind = VisionConfig if config.nested("vision_config") else LlavaVisionConfig
        clip = config.read(kind, "vision_config")
        return clip, clip_tower(clip)
    if family == SIGLIP_VISION:
        siglip = config.read(SiglipVisionConfig, "vision_config")
        return siglip, siglip_tower(siglip, with_head=siglip.vision_use_head)
    raise ModelError(
        f"{config.path}: its vision part is of the family {family!r}; known are {CLIP_VISION} and {SIGLIP_VISION}"
    )
