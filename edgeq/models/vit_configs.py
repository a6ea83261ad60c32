"""The zoo's vision transformers by name: their sizes, whose key names their weights have, and how they are fed.

Without torch, so that the command line can list them at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeq.errors import InputError

KeyNames = Literal["torchvision", "timm", "clip", "fashionmnist"]
"""Who wrote the checkpoint: `edgeq.models.vit_weights` translates each into the names of our own module."""


@dataclass(frozen=True)
class VitConfig:
    """The sizes of a pre-norm vision transformer with a class token.

    Attributes:
        dim: Values a token.
        depth: Blocks.
        heads: Attention heads; weights do not tell how many there are.
        mlp_dim: Hidden values of a block's MLP.
        patch_px: Side of a patch.
        image_px: Side of the image; the position table has a row for each of its patches and for the class token.
        outputs: Classes, or values of an embedding.
        channels: Channels of the image.
        activation: Of the MLP: `gelu` (exact) or `quick_gelu`, x * sigmoid(1.702 x).
        epsilon: Of the layer normalisations.
        is_clip_tower: Whether it is CLIP's: tokens are normalised before the first block too, and neither the patch
            embedding nor the projection at the end has a bias; the output is called `embedding`, not `scores`.
    """

    dim: int
    depth: int
    heads: int
    mlp_dim: int
    patch_px: int
    image_px: int = 224
    outputs: int = 1000
    channels: int = 3
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    epsilon: float = 1e-6
    is_clip_tower: bool = False

    @property
    def patches(self) -> int:
        """Patches of an image, of which there are as many in a row as in a column."""
        return (self.image_px // self.patch_px) ** 2


@dataclass(frozen=True)
class ZooVit:
    """A name's meaning.

    Attributes:
        config: Its sizes; those that weights tell follow from them where they are given.
        key_names: Whose key names its weights have.
        preset: How it is fed and its output is read.
    """

    config: VitConfig
    key_names: KeyNames
    preset: str


def _torchvision(dim: int, depth: int, heads: int, patch_px: int) -> ZooVit:
    return ZooVit(VitConfig(dim, depth, heads, 4 * dim, patch_px), "torchvision", "imagenet")


def _deit(dim: int, heads: int) -> ZooVit:
    return ZooVit(VitConfig(dim, 12, heads, 4 * dim, 16), "timm", "imagenet")


def _clip(patch_px: int, activation: Literal["gelu", "quick_gelu"]) -> ZooVit:
    config = VitConfig(
        768, 12, 12, 3072, patch_px, outputs=512, activation=activation, epsilon=1e-5, is_clip_tower=True
    )
    return ZooVit(config, "clip", "clip")


VITS = {
    "vit_b_16": _torchvision(768, 12, 12, 16),
    "vit_b_32": _torchvision(768, 12, 12, 32),
    "vit_l_16": _torchvision(1024, 24, 16, 16),
    "vit_l_32": _torchvision(1024, 24, 16, 32),
    "deit_tiny_patch16_224": _deit(192, 3),
    "deit_small_patch16_224": _deit(384, 6),
    "clip_vit_b_32": _clip(32, "quick_gelu"),
    "clip_vit_b_16": _clip(16, "quick_gelu"),
    # LAION's towers of open_clip have the same weights' names and shapes, and another activation.
    "clip_vit_b_32_gelu": _clip(32, "gelu"),
    "clip_vit_b_16_gelu": _clip(16, "gelu"),
    "vit_fashionmnist": ZooVit(
        VitConfig(128, 6, 4, 256, 4, image_px=28, outputs=10, channels=1, epsilon=1e-5), "fashionmnist", "fashionmnist"
    ),
}
"""Name -> its meaning."""


def require_patches(name: str, config: VitConfig, size: tuple[int, int]) -> None:
    """Checks that images of a size have as many patches as the position table has rows.

    Raises:
        InputError: they do not.
    """
    if size != (config.image_px, config.image_px):
        patches = (size[0] // config.patch_px) * (size[1] // config.patch_px)
        raise InputError(
            f"an input of {size[0]}x{size[1]} is {patches} patches of {config.patch_px}x{config.patch_px} pixels, and "
            f"the position table of {name} has {config.patches}: only {config.image_px}x{config.image_px} fits it; "
            "omit `size`"
        )
